"""Trained random Fourier features of the video vector: a kernel machine that scales."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.arguments import number
from yt8m.layers.features import match_features, split_features
from yt8m.layers.widths import scaled

FEATURE_SCALES = {"rgb": 1.0, "audio": 0.4, "default": 1.0}


class FourierNet(nn.Module):
    """A wide cosine layer on the normalized video vector, started as random Fourier features.

    ```
    video [B, 1152] → per feature: column j times j^-0.25, scaled to length √1152, times its scale
        → Dropout → √2 · cos(Dense 2048) → Dropout → Dense C
    ```

    The first layer starts as `W ~ N(0, bandwidth² / D)`, `b ~ U(0, 2π)`, D = 1152, so the network starts as a kernel
    machine with a Gaussian kernel, exp(−bandwidth² · |x − x'|² / 2D), and trains its kernel from there (Rahimi & Recht
    2007, "Random Features for Large-Scale Kernel Machines"). Inputs of length √D, not 1, keep W small enough for Adam's
    steps, which have the same size for all weights, to change the kernel.

    With few videos, near duplicates in the training data matter, which kernel machines use well. YouTube-8M's columns
    are whitened principal components in order of their variance, so the later ones hold more noise, and `decay` scales
    them down.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: number of Fourier features.
        bandwidth: the cosine layer's first weights have the standard deviation bandwidth / √D.
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
        bandwidth: float = 0.5,
        feature_scales: Mapping[str, float] = FEATURE_SCALES,
        decay: float = 0.25,
        input_dropout: float = 0.1,
        dropout: float = 0.4,
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        scales = match_features(feature_sizes, "feature_scales", FEATURE_SCALES, feature_scales)
        self.feature_scales = [number(scale, "feature_scales", 1e-6, 1e6) for scale in scales]
        self.decay = number(decay, "decay", 0.0, 10)
        self.root = math.sqrt(sum(feature_sizes.values()))  # √D
        self.hidden = nn.Linear(sum(feature_sizes.values()), scaled(hidden_size, width, "hidden_size"))
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.classifier = nn.Linear(self.hidden.out_features, num_classes)
        nn.init.normal_(self.hidden.weight, std=number(bandwidth, "bandwidth", 1e-6, 1e6) / self.root)
        nn.init.uniform_(self.hidden.bias, 0, 2 * math.pi)
        nn.init.normal_(self.classifier.weight, std=0.01 / math.sqrt(self.hidden.out_features))
        nn.init.constant_(self.classifier.bias, -6)  # few of the classes are true

    def forward(self, video: Tensor, frames: Tensor | None, num_frames: Tensor) -> Tensor:
        parts = []
        for part, scale in zip(split_features(video, self.feature_sizes), self.feature_scales, strict=True):
            columns = torch.arange(1, part.shape[-1] + 1, dtype=part.dtype, device=part.device)
            parts.append(self.root * scale * F.normalize(part * columns**-self.decay, dim=-1))
        hidden = math.sqrt(2) * self.hidden(self.input_dropout(torch.cat(parts, dim=-1))).cos()
        logits: Tensor = self.classifier(self.dropout(hidden))  # [B, C]
        return logits
