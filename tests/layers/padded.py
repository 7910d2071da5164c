"""Padded videos for tests of layers."""

import torch
from torch import Tensor

NUM_FRAMES = torch.tensor([5, 1, 7, 3])


def padded_videos() -> Tensor:
    """Four videos `[4, 9, 6]` of up to 7 frames, in float64; every valid value is negative, padding is zero."""
    x = -torch.rand(4, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, valid in zip(x, NUM_FRAMES, strict=True):
        row[valid:] = 0
    return x
