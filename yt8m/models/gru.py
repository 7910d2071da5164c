"""Two GRU layers over the frames, as WILLOW has them."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.moe import MoE
from yt8m.layers.stacks import GRUStack
from yt8m.layers.widths import scaled, whole


class GRU(nn.Module):
    """Two GRU layers over the frames, read by their final states.

    ```
    frames [B, T, 1152] → 2 GRU layers of 1200 → outputs at the last valid frame [B, 2400]
        → mixture of experts
    ```

    63,466,124 parameters with 3,862 classes. The reset gate acts on the product U·h, as in cuDNN; the original
    multiplies U by the reset state. Source: `GruModel` of WILLOW (Miech et al. 2017, arXiv 1706.06905).

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
        hidden_size: int = 1200,
        num_layers: int = 2,
        num_experts: int = 2,
    ):
        super().__init__()
        hidden_size = scaled(hidden_size, width, "hidden_size")
        layers = whole(num_layers, "num_layers")
        self.stack = GRUStack(sum(feature_sizes.values()), hidden_size, layers)
        self.classifier = MoE(layers * hidden_size, num_classes, num_experts)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.stack(frames, num_frames))  # [B, C]
        return logits
