"""Multi-head attention pooling of each feature, then a mixture of experts."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yt8m.layers.attention import AttentionPooling
from yt8m.layers.classifiers import make_classifier
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.widths import scaled, whole

HIDDEN_SIZES = {"rgb": 1024, "audio": 128, "default": 512}


class Attention(nn.Module):
    """Multi-head attention pooling of each feature, then a mixture of experts.

    ```
    frames, per feature [B, T, D_f] → Dense (rgb 1024, audio 128) → 8 heads, each a weighted mean over the frames
    concat [B, 1152] → LayerNorm → Dropout → mixture of experts, or Dense C
    ```

    23,330,476 parameters with 3,862 classes.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_sizes: width of a feature's pooled vector, all heads together, by feature; rounded up to a multiple of
            `num_heads`.
        num_heads: heads per feature, each with an attention of its own over the frames.
        dropout: probability of dropping one of the pooled units in training.
        head: last layer, `moe` or `logistic`.
        num_experts: experts per class of `moe`.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        num_heads: int = 8,
        dropout: float = 0.0,
        head: str = "moe",
        num_experts: int = 2,
    ):
        super().__init__()
        heads = whole(num_heads, "num_heads")
        chosen = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        head_sizes = [-(-scaled(size, width, "hidden_sizes") // heads) for size in chosen]  # rounded up
        self.pools = PerFeature(
            feature_sizes,
            (
                AttentionPooling(size, heads, head_size)
                for size, head_size in zip(feature_sizes.values(), head_sizes, strict=True)
            ),
        )
        size = heads * sum(head_sizes)
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = make_classifier(head, size, num_classes, num_experts)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        pooled = torch.cat(self.pools(frames, num_frames), dim=-1)
        logits: Tensor = self.classifier(self.dropout(self.norm(pooled)))  # [B, C]
        return logits
