"""NeXtVLAD: residuals of grouped, attended frames to cluster centers, a squeeze-and-excitation gate."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.gates import SEGate
from yt8m.layers.linear import Linear
from yt8m.layers.masks import valid_frames
from yt8m.layers.pooling import CLUSTER_FLOOR, unit
from yt8m.layers.precision import precise
from yt8m.layers.sampling import SampleFrames
from yt8m.layers.widths import scaled, whole

NUM_CLUSTERS = {"rgb": 128, "audio": 64, "default": 64}
GROUPS = {"rgb": 8, "audio": 4, "default": 4}


class NeXtVLADPooling(nn.Module):
    """Residuals of each frame's G groups to K centers, `[B, T, D] -> [B, K·E/G]`.

    The expanded frame x̃ = Dense E(x) is cut into G groups. A group's part in a cluster is softmax(BN(W x̃)) over the
    clusters, from the whole frame, times the group's attention σ(V x̃). The residuals are summed over frames and groups,
    scaled to length 1 per cluster, and batch-normalized.

    Args:
        size: D.
        expanded_size: E, a multiple of G.
        clusters: K.
        groups: G.
    """

    def __init__(self, size: int, expanded_size: int, clusters: int, groups: int):
        super().__init__()
        self.groups, self.clusters = groups, clusters
        self.output_size = clusters * expanded_size // groups
        self.expand = nn.Linear(size, expanded_size)
        self.attention = nn.Linear(expanded_size, groups)
        self.weights = nn.Linear(expanded_size, groups * clusters, bias=False)
        self.norm = BatchNorm(groups * clusters)
        self.centers = nn.Parameter(torch.empty(clusters, expanded_size // groups))
        self.output_norm = BatchNorm(self.output_size)
        nn.init.kaiming_normal_(self.centers)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.expand(x)  # [B, T, E]
        attention = self.attention(x).sigmoid() * valid_frames(x, num_frames)[..., None]  # [B, T, G]
        scores: Tensor = self.norm(self.weights(x), num_frames)
        videos, frames = x.shape[:2]
        scores = scores.view(videos, frames, self.groups, self.clusters)
        assigned = (scores.softmax(-1) * attention[..., None]).flatten(1, 2)  # [B, T·G, K]
        residuals = precise(
            assigned.transpose(1, 2) @ x.view(videos, frames * self.groups, -1)
        )  # [B, K, E/G]
        residuals = residuals - assigned.sum(1)[..., None] * self.centers
        pooled: Tensor = self.output_norm(unit(residuals).flatten(1))
        return pooled


class NeXtVLAD(nn.Module):
    """Residuals of grouped, attended frames to cluster centers, with a squeeze-and-excitation gate.

    ```
    frames, per feature [B, T, D_f] → Dense 2·D_f → groups (rgb 8, audio 4), each with an attention
        → residuals to clusters (rgb 128, audio 64) → Σ over valid frames and groups → length 1 per cluster → BN
    concat [B, 36864] → Dropout → Dense 2048 without bias, BN → SE gate → Dense C
    ```

    Reported on the 2018 data (Lin et al. 2018, arXiv 1811.05014): GAP 0.8723 on their validation videos; 0.87846 on the
    private test videos with 112 clusters (audio 56) and a reduction of 16, as a branch of `mix_nextvlad`.

    The authors' code first undoes the whitening of rgb, and a copy of it that does not stays far below: see the input
    transforms. It batch-normalizes over padding, too; here only valid frames count.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`), and on the expanded frame; 8 clusters
            remain.
        expansion: how many times wider than its feature the expanded frame is; rounded up to a multiple of the groups.
        groups: groups of the expanded frame, by feature.
        num_clusters: clusters, by feature.
        dropout: probability of dropping one of the pooled values in training.
        hidden_size: width of the dense layer.
        reduction: how many times narrower than the dense layer the SE gate is inside.
        sample_frames: random frames per video in training, drawn with replacement; null keeps all.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        expansion: int = 2,
        groups: Mapping[str, int] = GROUPS,
        num_clusters: Mapping[str, int] = NUM_CLUSTERS,
        dropout: float = 0.5,
        hidden_size: int = 2048,
        reduction: int = 8,
        sample_frames: int | None = None,
    ):
        super().__init__()
        clusters = match_features(feature_sizes, "num_clusters", NUM_CLUSTERS, num_clusters)
        counts = [
            whole(count, "groups", 10_000)
            for count in match_features(feature_sizes, "groups", GROUPS, groups)
        ]
        whole(expansion, "expansion")
        hidden_size = scaled(hidden_size, width, "hidden_size")
        poolings = [
            NeXtVLADPooling(
                size,
                -(-scaled(expansion * size, width, "expansion") // count) * count,
                scaled(cluster, width, "num_clusters", CLUSTER_FLOOR),
                count,
            )
            for size, count, cluster in zip(feature_sizes.values(), counts, clusters, strict=True)
        ]
        self.sample = SampleFrames(sample_frames)
        self.poolings = PerFeature(feature_sizes, poolings)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(sum(pooling.output_size for pooling in poolings), hidden_size, bias=False)
        self.norm = BatchNorm(hidden_size)
        self.gate = SEGate(hidden_size, reduction)
        self.classifier = Linear(hidden_size, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        frames, num_frames = self.sample(frames, num_frames)
        pooled = torch.cat(self.poolings(frames, num_frames), dim=-1)
        hidden = self.norm(self.hidden(self.dropout(pooled)))
        logits: Tensor = self.classifier(self.gate(hidden))  # [B, C]
        return logits
