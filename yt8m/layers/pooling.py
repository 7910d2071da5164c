"""Soft clusters of frames, poolings over them, and the frame around a pooling that WILLOW's networks share.

Source: Miech et al. 2017, "Learnable pooling with context gating for video classification", arXiv 1706.06905, and its
authors' code where the paper leaves room.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.arguments import switch
from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.gates import ContextGate
from yt8m.layers.masks import valid_frames
from yt8m.layers.moe import MoE, ProbabilityGate
from yt8m.layers.precision import precise
from yt8m.layers.sampling import SampleFrames
from yt8m.layers.widths import FLOOR, scaled

CLUSTER_FLOOR = 8  # no network is narrowed to fewer clusters, each of which is a whole vector


def narrowed_clusters(
    feature_sizes: Mapping[str, int],
    defaults: Mapping[str, int],
    chosen: Mapping[str, int],
    width: float,
    floor: int = FLOOR,
) -> list[int]:
    """The argument `num_clusters`, given by feature, as one number per feature, times `width`.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        defaults, chosen: the model's own entries, and the argument's value (see `match_features`).
        width: the network's factor (see `yt8m.layers.widths.scaled`).
        floor: `width` leaves at least so many clusters.

    Raises:
        ConfigError: a feature has no entry, or a number is out of range.
    """
    counts = match_features(feature_sizes, "num_clusters", defaults, chosen)
    return [scaled(count, width, "num_clusters", floor) for count in counts]


class SoftAssignment(nn.Module):
    """How much each frame belongs to each cluster, softmax(BN(W x)), `[B, T, D] -> [B, T, K]`; padding to none."""

    def __init__(self, size: int, clusters: int):
        super().__init__()
        self.weights = nn.Linear(size, clusters, bias=False)
        self.norm = BatchNorm(clusters)
        nn.init.normal_(self.weights.weight, std=size**-0.5)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        scores: Tensor = self.norm(self.weights(x), num_frames)
        return scores.softmax(-1) * valid_frames(x, num_frames)[..., None]


class SoftBag(nn.Module):
    """The sum of the frames' assignments, scaled to length 1, `[B, T, D] -> [B, K]`."""

    def __init__(self, size: int, clusters: int):
        super().__init__()
        self.output_size = clusters
        self.assignment = SoftAssignment(size, clusters)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        return unit(self.assignment(x, num_frames).sum(1))


class VLAD(nn.Module):
    """Residuals Σ_t a_tk (x_t − c_k) of each cluster, `[B, T, D] -> [B, K·D]`.

    Each cluster's residual is scaled to length 1, then the whole vector.

    Args:
        size: D.
        clusters: K.
        centers: whether the centers c are subtracted; without, this is NetRVLAD's pooling.
    """

    def __init__(self, size: int, clusters: int, centers: bool = True):
        super().__init__()
        self.output_size = clusters * size
        self.assignment = SoftAssignment(size, clusters)
        self.centers = nn.Parameter(torch.empty(clusters, size)) if centers else None
        if self.centers is not None:
            nn.init.normal_(self.centers, std=size**-0.5)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        assigned = self.assignment(x, num_frames)  # [B, T, K]
        residuals = precise(assigned.transpose(1, 2) @ x)  # [B, K, D]
        if self.centers is not None:
            residuals = residuals - assigned.sum(1)[..., None] * self.centers
        return unit(unit(residuals).flatten(1))


class PooledStreams(nn.Module):
    """Batch norm, a pooling per feature, a dense layer, gates, and a mixture of experts, `-> [B, C]`.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        poolings: one per feature: a module `(x [B, T, D_f], num_frames) -> [B, output_size]`.
        clusters: K of each feature's pooling; the dense layer starts at 1/√K, as published.
        num_classes: C.
        hidden_size: units of the dense layer.
        gate: whether a context gate follows the dense layer.
        num_experts: experts per class.
        probability_gate: whether the classes' probabilities gate each other.
        sample_frames: random frames per video in training; None keeps all.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        feature_sizes: Mapping[str, int],
        poolings: Sequence[nn.Module],
        clusters: Sequence[int],
        num_classes: int,
        hidden_size: int,
        gate: bool,
        num_experts: int,
        probability_gate: bool,
        sample_frames: int | None,
    ):
        super().__init__()
        self.sample = SampleFrames(sample_frames)
        self.norm = BatchNorm(sum(feature_sizes.values()))
        self.poolings = PerFeature(feature_sizes, poolings)
        self.hidden = nn.Linear(sum(cast(int, pooling.output_size) for pooling in poolings), hidden_size)
        nn.init.normal_(self.hidden.weight, std=max(clusters) ** -0.5)
        nn.init.normal_(self.hidden.bias, std=0.01)
        self.gate = ContextGate(hidden_size) if switch(gate, "gate") else nn.Identity()
        self.classifier = MoE(hidden_size, num_classes, num_experts)
        gated = switch(probability_gate, "probability_gate")
        self.probability_gate = ProbabilityGate(num_classes) if gated else nn.Identity()

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        frames, num_frames = self.sample(frames, num_frames)
        pooled = torch.cat(self.poolings(self.norm(frames, num_frames), num_frames), dim=-1)
        logits: Tensor = self.probability_gate(self.classifier(self.gate(self.hidden(pooled))))  # [B, C]
        return logits


def unit(x: Tensor) -> Tensor:
    """Vectors `[..., D]` scaled to length 1; as published, those shorter than 1e-6 are multiplied by 1e6 only."""
    return F.normalize(precise(x), dim=-1, eps=1e-6)
