"""A Transformer encoder over the frames, averaged, then a mixture of experts."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.arguments import choice
from yt8m.layers.attention import EncoderLayer, sinusoids
from yt8m.layers.classifiers import make_classifier
from yt8m.layers.masks import mean_over_valid
from yt8m.layers.widths import scaled, whole


class Transformer(nn.Module):
    """A pre-norm Transformer encoder over the frames, averaged, then a mixture of experts.

    ```
    frames [B, T, 1152] + sinusoids → 2 × (12-head attention, Dense 3072, GELU, Dense 1152; residual, LayerNorm first)
        → LayerNorm → mean over the valid frames → mixture of experts, or Dense C
    ```

    47,052,332 parameters with 3,862 classes, those of the 2019 challenge's BERT-mean, which has no embedding of the
    position: the sinusoids and the last norm, which a pre-norm encoder needs, have no parameters.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: width of the encoder, rounded up to a multiple of `num_heads`; null takes that of the frames. A
            Dense layer maps frames to it if the two differ.
        num_layers: layers of the encoder.
        num_heads: heads of each attention.
        intermediate_size: width between the two Dense layers.
        positions: encoding of the frames' order, `sinusoidal` or `none`.
        dropout: probability of dropping a unit or an attention weight in training.
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
        hidden_size: int | None = None,
        num_layers: int = 2,
        num_heads: int = 12,
        intermediate_size: int = 3072,
        positions: str = "sinusoidal",
        dropout: float = 0.1,
        head: str = "moe",
        num_experts: int = 2,
    ):
        super().__init__()
        frame_size, heads = sum(feature_sizes.values()), whole(num_heads, "num_heads")
        size = scaled(frame_size if hidden_size is None else hidden_size, width, "hidden_size")
        size = -(-size // heads) * heads
        intermediate_size = scaled(intermediate_size, width, "intermediate_size")
        self.has_positions = choice(positions, "positions", ("sinusoidal", "none")) == "sinusoidal"
        self.projection = nn.Identity() if size == frame_size else nn.Linear(frame_size, size)
        self.dropout = nn.Dropout(dropout)
        layers = range(whole(num_layers, "num_layers"))
        self.layers = nn.ModuleList(EncoderLayer(size, heads, intermediate_size, dropout) for _ in layers)
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.classifier = make_classifier(head, size, num_classes, num_experts)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        x = self.projection(frames)  # [B, T, hidden_size]
        if self.has_positions:
            x = x + sinusoids(x.shape[1], x.shape[2], x)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, num_frames)
        logits: Tensor = self.classifier(mean_over_valid(self.norm(x), num_frames))  # [B, C]
        return logits
