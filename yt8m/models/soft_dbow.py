"""Soft bag of words: how much of a video belongs to each of many clusters, a mixture of experts."""

from collections.abc import Mapping

from yt8m.layers.pooling import PooledStreams, SoftBag, narrowed_clusters
from yt8m.layers.widths import scaled

NUM_CLUSTERS = {"rgb": 8000, "audio": 1000, "default": 1000}


class SoftDBoW(PooledStreams):
    """Soft bag of words: each frame's membership of many clusters, summed over the video.

    ```
    frames [B, T, 1152] → BN; per feature: softmax(BN(x W)) over its clusters (rgb 8000, audio 1000)
        → Σ over valid frames → length 1
    concat [B, 9000] → Dense 1024 → mixture of 2 experts per class, C
    ```

    Source: WILLOW's `SoftDbofModelLF` (Miech et al. 2017, arXiv 1706.06905) with the flags of its README. The frames
    there are 300 draws with replacement; here all valid ones, unless `sample_frames` says otherwise.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
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
        gate: bool = False,
        num_experts: int = 2,
        probability_gate: bool = False,
        sample_frames: int | None = None,
    ):
        clusters = narrowed_clusters(feature_sizes, NUM_CLUSTERS, num_clusters, width)
        super().__init__(
            feature_sizes,
            [SoftBag(size, count) for size, count in zip(feature_sizes.values(), clusters, strict=True)],
            clusters,
            num_classes,
            scaled(hidden_size, width, "hidden_size"),
            gate,
            num_experts,
            probability_gate,
            sample_frames,
        )
