"""Two LSTM layers over the frames, as in the YouTube-8M starter code."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.moe import MoE
from yt8m.layers.stacks import LSTMStack
from yt8m.layers.widths import scaled, whole


class LSTM(nn.Module):
    """Two LSTM layers over the frames, read by their final states.

    ```
    frames [B, T, 1152] → 2 LSTM layers of 1024 → cells and outputs at the last valid frame [B, 4096]
        → mixture of experts
    ```

    96,411,180 parameters with 3,862 classes. Source: `LstmModel` of WILLOW (Miech et al. 2017, arXiv 1706.06905) and of
    the YouTube-8M starter code, whose last version reads the upper layer's output alone.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: hidden units of a layer.
        num_layers: layers, one on another.
        num_experts: experts per class.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        hidden_size: int = 1024,
        num_layers: int = 2,
        num_experts: int = 2,
    ):
        super().__init__()
        hidden_size = scaled(hidden_size, width, "hidden_size")
        layers = whole(num_layers, "num_layers")
        self.stack = LSTMStack(sum(feature_sizes.values()), hidden_size, layers)
        self.classifier = MoE(2 * layers * hidden_size, num_classes, num_experts)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.stack(frames, num_frames))  # [B, C]
        return logits
