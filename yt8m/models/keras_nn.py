"""The study's Keras network on video features: one branch of dense layers per feature."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.recurrent import init_as_keras, mlp, split_features


class KerasNN(nn.Module):
    """A branch of dense layers per feature, and a fusion; 193,596,166 parameters with 3,846 classes.

    ```
    video, per feature [B, D_f] → Dense 512 → 1024 → 4096 → 8192 → 4096, ReLU after each
    concat [B, 8192] → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        mlp_sizes: widths of the dense layers of each branch.
        fusion_sizes: widths of the dense layers on the concatenated branches.
    """

    needs_frames = False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        mlp_sizes: Sequence[int] = (512, 1024, 4096, 8192, 4096),
        fusion_sizes: Sequence[int] = (4096,),
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        self.branches = nn.ModuleDict({name: mlp(size, *mlp_sizes) for name, size in feature_sizes.items()})
        self.fusion = mlp(len(feature_sizes) * mlp_sizes[-1], *fusion_sizes)
        self.classifier = nn.Linear(fusion_sizes[-1], num_classes)
        init_as_keras(self)

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        video_of = split_features(video, self.feature_sizes)
        embeddings = [branch(video_of[name]) for name, branch in self.branches.items()]
        return self.classifier(self.fusion(torch.cat(embeddings, dim=-1)))  # [B, C]
