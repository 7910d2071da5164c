"""Random frames of each video in training."""

import torch
from torch import Tensor, nn

from yt8m.layers.widths import whole


class SampleFrames(nn.Module):
    """In training, `count` frames of each video, drawn uniformly and with replacement; in evaluation, every frame.

    Draws come from torch's global generator, which `seed` sets and checkpoints keep.

    Source: `SampleRandomFrames` of the YouTube-8M starter code.

    Args:
        count: frames to draw; None keeps every frame in training, too.
    """

    def __init__(self, count: int | None):
        super().__init__()
        self.count = None if count is None else whole(count, "sample_frames", 1_000_000)

    def forward(self, frames: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """`frames [B, T, D]` and `num_frames [B]` of the sample, or of the input."""
        if self.count is None or not self.training:
            return frames, num_frames
        chosen = torch.rand(frames.shape[0], self.count, device=frames.device) * num_frames[:, None]
        last = num_frames[:, None] - 1  # the product may round up to num_frames
        index = torch.minimum(chosen.long(), last)[..., None].expand(-1, -1, frames.shape[2])
        return frames.gather(1, index), torch.full_like(num_frames, self.count)
