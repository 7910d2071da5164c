"""A residual MLP on the video vector."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.arguments import choice
from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.classifiers import make_classifier
from yt8m.layers.features import split_features
from yt8m.layers.widths import scaled, whole

NORMS = {"batch": BatchNorm, "layer": nn.LayerNorm}


class Block(nn.Module):
    """x + Dense(Dropout(ReLU(Dense(ReLU(norm(x)))))), `[B, H] -> [B, H]`."""

    def __init__(self, size: int, norm: str, dropout: float):
        super().__init__()
        self.norm = NORMS[norm](size)
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.first(self.norm(x).relu()).relu())
        added: Tensor = x + self.second(hidden)
        return added


class ResMLP(nn.Module):
    """A residual MLP on the video vector.

    ```
    video [B, 1152] → each feature to mean 0 and variance 1 → Dense 2048
        → 2 × residual block (norm, ReLU, Dense 2048, ReLU, Dropout, Dense 2048)
        → norm, ReLU → Dropout → Dense C, or mixture of experts
    ```

    27,072,278 parameters with 3,862 classes. The blocks are those of pre-activation residual networks (He et al. 2016,
    arXiv 1603.05027), with dense layers.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: width of the blocks.
        num_blocks: residual blocks.
        norm: norm before each block and at the end, `batch` or `layer`.
        dropout: probability of dropping a hidden unit in training.
        head: last layer, `logistic` or `moe`.
        num_experts: experts per class of `moe`.
    """

    needs_video, needs_frames = True, False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        hidden_size: int = 2048,
        num_blocks: int = 2,
        norm: str = "batch",
        dropout: float = 0.5,
        head: str = "logistic",
        num_experts: int = 2,
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        size = scaled(hidden_size, width, "hidden_size")
        norm = choice(norm, "norm", tuple(NORMS))
        self.stem = nn.Linear(sum(feature_sizes.values()), size)
        blocks = range(whole(num_blocks, "num_blocks"))
        self.blocks = nn.Sequential(*(Block(size, norm, dropout) for _ in blocks))
        self.norm = NORMS[norm](size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = make_classifier(head, size, num_classes, num_experts)

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        parts = split_features(video, self.feature_sizes)
        x = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)
        x = self.blocks(self.stem(x))
        logits: Tensor = self.classifier(self.dropout(self.norm(x).relu()))  # [B, C]
        return logits
