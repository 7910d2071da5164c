"""Precision under autocast."""

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """`x` in float32 at least, where autocast's bf16 would lose what matters: sums, lengths, probabilities near 0."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
