"""Parts of networks that start as kernel machines, from random Fourier features (Rahimi & Recht 2007)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.arguments import number
from yt8m.layers.features import match_features, split_features

FEATURE_SCALES = {"rgb": 1.0, "audio": 0.4, "default": 1.0}


class ScaledFeatures(nn.Module):
    """Each feature of `x [..., D]` with its column j, counted from 1, times j^-decay, scaled to length scale · √D.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        scales: a network's argument `feature_scales`, by feature.
        decay: a network's argument `decay`; 0 leaves the columns as they are.

    Raises:
        ConfigError: a feature has no scale, or a number is out of range.
    """

    def __init__(self, feature_sizes: Mapping[str, int], scales: Mapping[str, float], decay: float):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        chosen = match_features(feature_sizes, "feature_scales", FEATURE_SCALES, scales)
        self.scales = [number(scale, "feature_scales", 1e-6, 1e6) for scale in chosen]
        self.decay = number(decay, "decay", 0.0, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts, root = [], math.sqrt(x.shape[-1])
        for part, scale in zip(split_features(x, self.feature_sizes), self.scales, strict=True):
            columns = torch.arange(1, part.shape[-1] + 1, dtype=part.dtype, device=part.device)
            parts.append(root * scale * F.normalize(part * columns**-self.decay, dim=-1))
        return torch.cat(parts, dim=-1)


def cosines(x: Tensor) -> Tensor:
    """√2 · cos of what a Dense layer returned, any shape."""
    return math.sqrt(2) * x.cos()


def start_as_kernel_machine(hidden: nn.Linear, classifier: nn.Linear, bandwidth: float) -> None:
    """Initialize a layer whose cosines' inner products approach a Gaussian kernel, and a classifier of rare classes.

    The hidden weights start as `W ~ N(0, bandwidth² / D)`, the biases as `b ~ U(0, 2π)`; the kernel of x and x' is
    exp(−bandwidth² · |x − x'|² / 2D).
    """
    nn.init.normal_(hidden.weight, std=bandwidth / math.sqrt(hidden.in_features))
    nn.init.uniform_(hidden.bias, 0, 2 * math.pi)
    nn.init.normal_(classifier.weight, std=0.01 / math.sqrt(hidden.out_features))
    nn.init.constant_(classifier.bias, -6)  # few of the classes are true
