"""The study's PyTorch network on video features: one deep stack of dense layers."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from yt8m.layers.recurrent import mlp


class NN(nn.Module):
    """Dense layers on the video vector; 228,186,118 parameters with 3,846 classes.

    ```
    video [B, 1152] → Dense 2304 → 4096 → 4096 → 8192 → 8192 → 8192, ReLU after each → Dropout → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        hidden_sizes: widths of the dense layers.
        dropout: share of the last hidden units dropped in training.
    """

    needs_frames = False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        hidden_sizes: Sequence[int] = (2304, 4096, 4096, 8192, 8192, 8192),
        dropout: float = 0.5,
    ):
        super().__init__()
        self.hidden = mlp(sum(feature_sizes.values()), *hidden_sizes)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_sizes[-1], num_classes)

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.hidden(video)))  # [B, C]
