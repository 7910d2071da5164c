"""The study's Keras network on video features: one branch of dense layers per feature."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.dense import mlp
from yt8m.layers.features import PerFeature
from yt8m.layers.keras import init_as_keras
from yt8m.layers.linear import Linear
from yt8m.layers.widths import scaled_all


class KerasNN(nn.Module):
    """A branch of dense layers per feature, then fused.

    ```
    video, per feature [B, D_f] → Dense 512 → 1024 → 4096 → 8192 → 4096, ReLU after each
    concat [B, 8192] → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        mlp_sizes: widths of the dense layers of each branch.
        fusion_sizes: widths of the dense layers on the concatenated branches.
    """

    needs_video, needs_frames = True, False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        mlp_sizes: Sequence[int] = (512, 1024, 4096, 8192, 4096),
        fusion_sizes: Sequence[int] = (4096,),
    ):
        super().__init__()
        mlp_sizes = scaled_all(mlp_sizes, width, "mlp_sizes")
        fusion_sizes = scaled_all(fusion_sizes, width, "fusion_sizes")
        self.branches = PerFeature(feature_sizes, (mlp(size, *mlp_sizes) for size in feature_sizes.values()))
        self.fusion = mlp(len(feature_sizes) * mlp_sizes[-1], *fusion_sizes)
        self.classifier = Linear(fusion_sizes[-1], num_classes)
        init_as_keras(self)

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        embeddings = torch.cat(self.branches(video), dim=-1)
        logits: Tensor = self.classifier(self.fusion(embeddings))  # [B, C]
        return logits
