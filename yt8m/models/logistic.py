"""Logistic regression on the video vector, the simplest network of the YouTube-8M starter code."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.keras import init_as_keras
from yt8m.layers.linear import Linear
from yt8m.layers.widths import checked_width


class Logistic(nn.Module):
    """Logistic regression on the video vector.

    ```
    video [B, 1152] → Dense C
    ```

    4,452,886 parameters with 3,862 classes. Source: `LogisticModel` of the YouTube-8M starter code (Abu-El-Haija et al.
    2016, arXiv 1609.08675).

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: has no effect, as there is no hidden layer.
    """

    needs_video, needs_frames = True, False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
    ):
        super().__init__()
        checked_width(width)
        self.classifier = Linear(sum(feature_sizes.values()), num_classes)
        init_as_keras(self)  # Glorot uniform, bias 0, as in the original

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.classifier(video)  # [B, C]
        return logits
