"""The study's PyTorch network on frames: a bidirectional LSTM over all features together."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.recurrent import BidirectionalLSTM


class BiLSTM(nn.Module):
    """A bidirectional LSTM read at the last valid frame; 176,092,998 parameters with 3,846 classes.

    ```
    frames [B, T, 1152] → 2-layer bidirectional LSTM 2096 → last valid frame [B, 4192] → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        hidden_size: hidden units of the LSTM per direction.
        num_layers: layers of the LSTM.
    """

    needs_frames = True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        hidden_size: int = 2096,
        num_layers: int = 2,
    ):
        super().__init__()
        self.lstm = BidirectionalLSTM(sum(feature_sizes.values()), hidden_size, num_layers)
        self.classifier = nn.Linear(2 * hidden_size, num_classes)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        return self.classifier(self.lstm(frames, num_frames))  # [B, C]
