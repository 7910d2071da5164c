"""Features stored as uint8 and used as floats."""

import torch
from torch import Tensor

RANGE = (-2.0, 2.0)  # of YouTube-8M's features


def dequantize(values: Tensor, limits: tuple[float, float] = RANGE) -> Tensor:
    """float32 values of stored features: x·(max - min)/255 + (max - min)/512 + min.

    Source: the YouTube-8M starter code's utils.Dequantize.

    Args:
        values: uint8, or means of uint8 values.
        limits: (min, max) of the features before they were quantized.
    """
    scale, offset = affine(limits)
    return values.float() * scale + offset


def as_floats(stored: Tensor, limits: tuple[float, float] = RANGE) -> Tensor:
    """float32 values of features as a dataset stores them: uint8 ones are dequantized, floats stay."""
    return dequantize(stored, limits) if stored.dtype == torch.uint8 else stored.float()


def affine(limits: tuple[float, float]) -> tuple[float, float]:
    """The factor and the summand of `dequantize`."""
    low, high = limits
    return (high - low) / 255, (high - low) / 512 + low
