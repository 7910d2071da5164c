"""Parts of networks that start as kernel machines, from random Fourier features (Rahimi & Recht 2007)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.errors import ConfigError
from yt8m.layers.arguments import number
from yt8m.layers.features import match_features, split_features

FEATURE_SCALES = {"rgb": 1.0, "audio": 0.4, "default": 1.0}
MOST_BRANCHES = 100


class ScaledFeatures(nn.Module):
    """Each feature of `x [..., D]` with its column j, counted from 1, times j^-decay, scaled to length scale · √D.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        scales: a network's argument `feature_scales`, by feature.
        decay: a network's argument `decay`; 0 leaves the columns as they are.

    Raises:
        ConfigError: a feature has no scale, or a number is out of range.
    """

    def __init__(self, feature_sizes: Mapping[str, int], scales: Mapping[str, float], decay: float):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        chosen = match_features(feature_sizes, "feature_scales", FEATURE_SCALES, scales)
        self.scales = [number(scale, "feature_scales", 1e-6, 1e6) for scale in chosen]
        self.decay = number(decay, "decay", 0.0, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts, root = [], math.sqrt(x.shape[-1])
        for part, scale in zip(split_features(x, self.feature_sizes), self.scales, strict=True):
            columns = torch.arange(1, part.shape[-1] + 1, dtype=part.dtype, device=part.device)
            parts.append(root * scale * F.normalize(part * columns**-self.decay, dim=-1))
        return torch.cat(parts, dim=-1)


class KernelMachines(nn.Module):
    """A network of one branch per bandwidth, whose logits are the mean of the branches' logits.

    The branches share no weights, and each has a loss of its own: an ensemble in one network, with one pass over the
    data.

    Args:
        bandwidths: a network's argument `bandwidths`.
        make_branch: a branch of a bandwidth.
        scaled_features: what all branches get, each after a dropout of its own.
        input_dropout: a network's argument `input_dropout`.

    Raises:
        ConfigError: bandwidths are no list of numbers, or one is out of range.
    """

    def __init__(
        self,
        bandwidths: Sequence[float],
        make_branch: Callable[[float], nn.Module],
        scaled_features: ScaledFeatures,
        input_dropout: float,
    ):
        super().__init__()
        self.scaled_features, self.input_dropout = scaled_features, nn.Dropout(input_dropout)
        if not isinstance(bandwidths, list | tuple) or not 1 <= len(bandwidths) <= MOST_BRANCHES:
            raise ConfigError(
                f"model.bandwidths: expected a list of 1 to {MOST_BRANCHES} numbers, found {bandwidths!r}; "
                "set model.bandwidths=[0.5]"
            )
        self.branches = nn.ModuleList(
            make_branch(number(bandwidth, "bandwidths", 1e-6, 1e6)) for bandwidth in bandwidths
        )

    def branch_logits(self, video: Any, frames: Any, num_frames: Any) -> Tensor:
        """Logits of every branch, `[B, branches, C]`, from what `forward` takes."""
        raise NotImplementedError

    def forward(self, video: Tensor | None, frames: Tensor | None, num_frames: Tensor | None) -> Tensor:
        return self.branch_logits(video, frames, num_frames).mean(1)

    def training_loss(
        self,
        inputs: tuple[Tensor | None, Tensor | None, Tensor | None],
        labels: Tensor,
        mask: Tensor | None,
        loss: Callable[..., Tensor],
    ) -> Tensor:
        """Scalar: the sum of the branches' losses, so that each trains as it would alone.

        Arguments as `yt8m.module.VideoClassifier` describes them.
        """
        branches = self.branch_logits(*inputs).unbind(1)
        return torch.stack([loss(logits, labels, mask) for logits in branches]).sum()


def cosines(x: Tensor) -> Tensor:
    """√2 · cos of what a Dense layer returned, any shape."""
    return math.sqrt(2) * x.cos()


def start_as_kernel_machine(hidden: nn.Linear, classifier: nn.Linear, bandwidth: float) -> None:
    """Initialize a layer whose cosines' inner products approach a Gaussian kernel, and a classifier of rare classes.

    The hidden weights start as `W ~ N(0, bandwidth² / D)`, the biases as `b ~ U(0, 2π)`; the kernel of x and x' is
    exp(−bandwidth² · |x − x'|² / 2D).
    """
    nn.init.normal_(hidden.weight, std=bandwidth / math.sqrt(hidden.in_features))
    nn.init.uniform_(hidden.bias, 0, 2 * math.pi)
    nn.init.normal_(classifier.weight, std=0.01 / math.sqrt(hidden.out_features))
    nn.init.constant_(classifier.bias, -6)  # few of the classes are true
