"""The study's PyTorch network on frames: a bidirectional LSTM over all features together."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.linear import Linear
from yt8m.layers.recurrent import BidirectionalLSTM
from yt8m.layers.widths import scaled, whole


class BiLSTM(nn.Module):
    """A bidirectional LSTM over all features, read at the last valid frame.

    ```
    frames [B, T, 1152] → 2-layer bidirectional LSTM 2096 → last valid frame [B, 4192] → Dense C
    ```

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: hidden units of the LSTM per direction.
        num_layers: layers of the LSTM.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        hidden_size: int = 2096,
        num_layers: int = 2,
    ):
        super().__init__()
        hidden_size = scaled(hidden_size, width, "hidden_size")
        self.lstm = BidirectionalLSTM(
            sum(feature_sizes.values()), hidden_size, whole(num_layers, "num_layers")
        )
        self.classifier = Linear(2 * hidden_size, num_classes)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.lstm(frames, num_frames))  # [B, C]
        return logits
