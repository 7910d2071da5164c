"""A mixture of logistic experts on the video vector, the best video-level network of the YouTube-8M starter code."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers import moe
from yt8m.layers.widths import checked_width


class MoE(nn.Module):
    """A mixture of logistic experts per class on the video vector.

    ```
    video [B, 1152] → per class: Σ_m softmax gate_m · σ(expert_m), 2 experts and one that always says 0
    ```

    22,252,844 parameters with 3,862 classes. Source: `MoeModel` of the YouTube-8M starter code (Abu-El-Haija et al.
    2016, arXiv 1609.08675).

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: has no effect, as there is no hidden layer.
        num_experts: experts per class.
    """

    needs_video, needs_frames = True, False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        num_experts: int = 2,
    ):
        super().__init__()
        checked_width(width)
        self.classifier = moe.MoE(sum(feature_sizes.values()), num_classes, num_experts)

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(video)  # [B, C]
        return logits
