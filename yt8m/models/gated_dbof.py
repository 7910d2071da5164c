"""Gated bag of frames: a soft bag of words in which the strongest frames choose the words that count."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.features import match_features
from yt8m.layers.pooling import PooledStreams, SoftAssignment, SoftBag, unit
from yt8m.layers.widths import scaled, whole

NUM_CLUSTERS = {"rgb": 4096, "audio": 512, "default": 512}


class GatedBag(nn.Module):
    """The sum of the frames' assignments, gated by their maximum, scaled to length 1, `[B, T, D] -> [B, K]`."""

    def __init__(self, size: int, clusters: int):
        super().__init__()
        self.output_size = clusters
        self.assignment = SoftAssignment(size, clusters)
        self.reduce = nn.Linear(clusters, size, bias=False)
        self.expand = nn.Linear(size, clusters, bias=False)
        self.norm = BatchNorm(clusters)
        for layer in (self.reduce, self.expand):
            nn.init.normal_(layer.weight, std=size**-0.5)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        assigned = self.assignment(x, num_frames)  # [B, T, K], zero in padding
        gates = self.norm(self.expand(self.reduce(unit(assigned.amax(1))))).sigmoid()
        return unit(gates * assigned.sum(1))


class GatedDBoF(PooledStreams):
    """Gated bag of frames: a soft bag of words on rgb, gated by its strongest frames, and a plain one on audio.

    ```
    frames [B, T, 1152] → BN; per feature: a = softmax(BN(x W)) over its clusters (rgb 4096, audio 512)
        rgb: σ(BN(Dense 4096(Dense 1024(max of a over valid frames, length 1)))) · Σ a → length 1
        audio: Σ a → length 1
    concat [B, 4608] → Dense 1024 → mixture of 2 experts per class → probability gate, C
    ```

    Gated is the feature with the most clusters, or the first of several; the others are not.

    Source: WILLOW's `GatedDbofModelLF` (Miech et al. 2017, arXiv 1706.06905) with the flags of its submission. The
    frames there are 300 draws with replacement; here all valid ones, unless `sample_frames` says otherwise.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        num_clusters: clusters, by feature.
        hidden_size: width of the dense layer.
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
        num_experts: int = 2,
        probability_gate: bool = True,
        sample_frames: int | None = None,
    ):
        clusters = match_features(feature_sizes, "num_clusters", NUM_CLUSTERS, num_clusters)
        gated = max(range(len(clusters)), key=lambda feature: whole(clusters[feature], "num_clusters", 10**7))
        clusters = [scaled(count, width, "num_clusters") for count in clusters]
        sizes = enumerate(zip(feature_sizes.values(), clusters, strict=True))
        super().__init__(
            feature_sizes,
            [(GatedBag if feature == gated else SoftBag)(*both) for feature, both in sizes],
            clusters,
            num_classes,
            scaled(hidden_size, width, "hidden_size"),
            False,
            num_experts,
            probability_gate,
            sample_frames,
        )
