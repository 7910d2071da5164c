"""Trained random Fourier features of every frame, and an attention over the frames for each class."""

import math
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
from yt8m.layers.masks import mean_over_valid, valid_frames
from yt8m.layers.precision import precise
from yt8m.layers.widths import scaled


class Branch(nn.Module):
    """One kernel machine on every frame and its attention: `[B, T, D]`, valid `[B, T, 1]` -> `[B, C]`."""

    def __init__(self, size: int, hidden_size: int, num_classes: int, bandwidth: float, dropout: float):
        super().__init__()
        self.hidden = nn.Linear(size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden_size, num_classes)
        self.attention = Linear(hidden_size, num_classes, bias=False)  # a bias would not change a softmax
        start_as_kernel_machine(self.hidden, self.classifier, bandwidth)
        nn.init.normal_(self.attention.weight, std=0.01 / math.sqrt(hidden_size))  # the mean, at first

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = self.dropout(cosines(self.hidden(x)))
        scores = precise(self.attention(x)).masked_fill(~valid, -torch.inf)
        logits: Tensor = (precise(self.classifier(x)) + scores.log_softmax(dim=1)).logsumexp(dim=1)
        return logits


class FourierAttention(KernelMachines):
    """A kernel machine on every frame, whose logits each class weighs by an attention of its own.

    ```
    frames [B, T, D] + their mean → per feature: column j times j^-0.25, scaled to length √D, times its scale
        → per bandwidth, a branch: Dropout → √2 · cos(Dense 1024) → Dropout
            → logits z [B, T, C] and, from another Dense C, scores s [B, T, C]
            → log Σ_t a_t · exp(z_t), a = softmax of s over the frames
        → mean of the branches' logits
    ```

    The cosine layers and the branches are those of `FourierNet`. What only some frames show counts in full for a class
    that attends to them, where the mean of all frames would dilute it; the mean that is added to each frame tells what
    is around it.

    Source of an attention per class: Kong et al. 2018, "Audio Set classification with attention model: a probabilistic
    perspective", arXiv 1711.00927, which weighs probabilities; here it weighs odds.

    Each branch keeps some tensors `[B, T, C]`, of 4.6 MB a video at 300 frames and 3,862 classes.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: number of Fourier features of a frame in a branch.
        bandwidths: one per branch: the cosine layer's first weights have the standard deviation bandwidth / √D.
        feature_scales: length of each feature's vector over √D, by feature.
        decay: column j of a feature, counted from 1, is multiplied by j^-decay.
        input_dropout: probability of dropping a column of the scaled input in training.
        dropout: probability of dropping a Fourier feature in training.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        hidden_size: int = 1024,
        bandwidths: Sequence[float] = (0.7,),
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

    def branch_logits(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        valid = valid_frames(frames, num_frames)[..., None]  # [B, T, 1]
        x = frames.masked_fill(~valid, 0) + mean_over_valid(frames, num_frames)[:, None]
        x = self.scaled_features(x)
        return torch.stack([branch(self.input_dropout(x), valid) for branch in self.branches], dim=1)
