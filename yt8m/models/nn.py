"""The study's PyTorch network on video features: one deep stack of dense layers."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from yt8m.layers.dense import mlp
from yt8m.layers.linear import Linear
from yt8m.layers.widths import scaled_all


class NN(nn.Module):
    """Dense layers on the video vector.

    ```
    video [B, 1152] → Dense 2304 → 4096 → 4096 → 8192 → 8192 → 8192, ReLU after each → Dropout → Dense C
    ```

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_sizes: widths of the dense layers.
        dropout: probability of dropping one of the last hidden units in training.
    """

    needs_video, needs_frames = True, False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        hidden_sizes: Sequence[int] = (2304, 4096, 4096, 8192, 8192, 8192),
        dropout: float = 0.5,
    ):
        super().__init__()
        hidden_sizes = scaled_all(hidden_sizes, width, "hidden_sizes")
        self.hidden = mlp(sum(feature_sizes.values()), *hidden_sizes)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden_sizes[-1], num_classes)

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.hidden(video)))  # [B, C]
        return logits
