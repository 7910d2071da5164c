"""Operations on the valid frames of padded videos."""

import torch
from torch import Tensor


def valid_frames(x: Tensor, num_frames: Tensor) -> Tensor:
    """Which frames of `x [B, T, D]` are not padding, bool `[B, T]`."""
    return torch.arange(x.shape[1], device=x.device) < num_frames[:, None]


def last_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """The last valid frame of each video, `[B, T, D] -> [B, D]`."""
    return x[torch.arange(x.shape[0], device=x.device), num_frames - 1]


def reverse_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """`x [B, T, D]` with each video's valid frames in reverse order and its padding still at the end.

    Applying it twice gives `x` back.
    """
    time = torch.arange(x.shape[1], device=x.device)
    mirrored = num_frames[:, None] - 1 - time  # [B, T]; negative in padding, which wraps around
    # Not `mirrored % T`, which torch's exporter to ONNX cannot translate for a T that varies.
    mirrored = mirrored.where(mirrored >= 0, mirrored + x.shape[1])
    return x.gather(1, mirrored[..., None].expand_as(x))


def max_over_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """The maximum over the valid frames, `[B, T, D] -> [B, D]`."""
    return x.masked_fill(~valid_frames(x, num_frames)[..., None], -torch.inf).amax(dim=1)


def mean_over_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """The mean over the valid frames, `[B, T, D] -> [B, D]`."""
    return x.masked_fill(~valid_frames(x, num_frames)[..., None], 0).sum(dim=1) / num_frames[:, None]
