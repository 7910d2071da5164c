"""NetFV: Fisher vectors of the frames, first and second moments, a gated mixture of experts."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yt8m.layers.pooling import CLUSTER_FLOOR, PooledStreams, SoftAssignment, narrowed_clusters, unit
from yt8m.layers.precision import precise
from yt8m.layers.widths import scaled

NUM_CLUSTERS = {"rgb": 128, "audio": 64, "default": 64}


class FisherVector(nn.Module):
    """First and second moments around each cluster's center, `[B, T, D] -> [B, 2·K·D]`.

    With assignments a, centers c and deviations s = w² + 1e-6: Σ_t a (x − c) / s, scaled to length 1 per cluster and
    as a whole, and Σ_t a ((x − c)² / s² − 1), scaled to length 1 as a whole.
    """

    def __init__(self, size: int, clusters: int):
        super().__init__()
        self.output_size = 2 * clusters * size
        self.assignment = SoftAssignment(size, clusters)
        self.centers = nn.Parameter(torch.empty(clusters, size))
        self.root_deviations = nn.Parameter(torch.empty(clusters, size))
        nn.init.normal_(self.centers, std=size**-0.5)
        nn.init.normal_(self.root_deviations, mean=1, std=size**-0.5)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        assigned = self.assignment(x, num_frames)  # [B, T, K]
        mass = assigned.sum(1)[..., None]  # [B, K, 1]
        deviations = self.root_deviations.square() + 1e-6
        # Σ a (x − c)² = Σ a x² − 2c Σ a x + c² Σ a: nothing of size [B, T, K, D]
        sums = precise(assigned.transpose(1, 2) @ x)  # [B, K, D]
        squares = precise(assigned.transpose(1, 2) @ x.square())
        first = (sums - mass * self.centers) / deviations
        second = squares - 2 * self.centers * sums + mass * self.centers.square()
        second = second / deviations.square() - mass
        return torch.cat([unit(unit(first).flatten(1)), unit(second.flatten(1))], dim=-1)


class NetFV(PooledStreams):
    """Fisher vectors of the frames: first and second moments around learned cluster centers, gated.

    ```
    frames [B, T, 1152] → BN; per feature: a = softmax(BN(x W)) over its clusters (rgb 128, audio 64)
        → Σ over valid frames of a · (x − center) / s → length 1 per cluster → length 1
        → Σ over valid frames of a · ((x − center)² / s² − 1) → length 1
    concat [B, 278528] → Dense 1024 → context gate → mixture of 2 experts per class → probability gate, C
    ```

    s is w² + 1e-6 with a learned w per cluster and unit.

    Source: WILLOW's `NetFVModelLF` (Miech et al. 2017, arXiv 1706.06905) with the flags of its README: centers of their
    own, not tied to the assignment's weights. The frames there are 300 draws with replacement; here all valid ones,
    unless `sample_frames` says otherwise.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`); 8 clusters remain.
        num_clusters: clusters, by feature.
        hidden_size: width of the dense layer.
        gate: whether a context gate follows the dense layer.
        num_experts: experts per class.
        probability_gate: whether the classes' probabilities gate each other; C² parameters at any width.
        sample_frames: random frames per video in training, drawn with replacement; null keeps all.
    """

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        num_clusters: Mapping[str, int] = NUM_CLUSTERS,
        hidden_size: int = 1024,
        gate: bool = True,
        num_experts: int = 2,
        probability_gate: bool = True,
        sample_frames: int | None = None,
    ):
        clusters = narrowed_clusters(feature_sizes, NUM_CLUSTERS, num_clusters, width, CLUSTER_FLOOR)
        super().__init__(
            feature_sizes,
            [FisherVector(size, count) for size, count in zip(feature_sizes.values(), clusters, strict=True)],
            clusters,
            num_classes,
            scaled(hidden_size, width, "hidden_size"),
            gate,
            num_experts,
            probability_gate,
            sample_frames,
        )
