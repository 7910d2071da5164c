"""Trained random Fourier features of the video vector: kernel machines that scale."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.fourier import (
    FEATURE_SCALES,
    KernelMachines,
    ScaledFeatures,
    cosines,
    start_as_kernel_machine,
)
from yt8m.layers.linear import Linear
from yt8m.layers.precision import precise
from yt8m.layers.widths import scaled


class Branch(nn.Module):
    """One kernel machine: √2 · cos(Dense) → Dropout → Dense C, `[B, D] -> [B, C]`."""

    def __init__(self, size: int, hidden_size: int, num_classes: int, bandwidth: float, dropout: float):
        super().__init__()
        self.hidden = nn.Linear(size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden_size, num_classes)
        start_as_kernel_machine(self.hidden, self.classifier, bandwidth)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(cosines(self.hidden(x))))
        return logits


class FourierNet(KernelMachines):
    """Wide cosine layers on the normalized video vector, started as random Fourier features.

    ```
    video [B, 1152] → per feature: column j times j^-0.25, scaled to length √1152, times its scale
        → per bandwidth, a branch: Dropout → √2 · cos(Dense 2048) → Dropout → Dense C
        → mean of the branches' logits
    ```

    A branch's first layer starts as `W ~ N(0, bandwidth² / D)`, `b ~ U(0, 2π)`, D = 1152, so that the branch starts as
    a kernel machine with a Gaussian kernel, exp(−bandwidth² · |x − x'|² / 2D), and trains its kernel from there (Rahimi
    & Recht 2007, "Random Features for Large-Scale Kernel Machines"). Inputs of length √D, not 1, keep W small enough
    for Adam's steps, which have the same size for all weights, to change the kernel.

    The branches share no weights, and each has a loss of its own: an ensemble in one network, with one pass over the
    data.

    With few videos, near duplicates in the training data matter, which kernel machines use well. YouTube-8M's columns
    are whitened principal components in order of their variance, so the later ones hold more noise, and `decay` scales
    them down.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: number of Fourier features of a branch.
        bandwidths: one per branch: the cosine layer's first weights have the standard deviation bandwidth / √D.
        feature_scales: length of each feature's vector over √D, by feature.
        decay: column j of a feature, counted from 1, is multiplied by j^-decay.
        input_dropout: probability of dropping a column of the scaled input in training.
        dropout: probability of dropping a Fourier feature in training.
    """

    needs_video, needs_frames = True, False

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        hidden_size: int = 2048,
        bandwidths: Sequence[float] = (0.5,),
        feature_scales: Mapping[str, float] = FEATURE_SCALES,
        decay: float = 0.25,
        input_dropout: float = 0.1,
        dropout: float = 0.4,
    ):
        size, hidden_size = sum(feature_sizes.values()), scaled(hidden_size, width, "hidden_size")
        super().__init__(
            bandwidths,
            lambda bandwidth: Branch(size, hidden_size, num_classes, bandwidth, dropout),
            ScaledFeatures(feature_sizes, feature_scales, decay),
            input_dropout,
        )

    def branch_logits(self, video: Tensor, frames: Tensor | None, num_frames: Tensor | None) -> Tensor:
        x = self.scaled_features(video)
        return torch.stack([precise(branch(self.input_dropout(x))) for branch in self.branches], dim=1)
