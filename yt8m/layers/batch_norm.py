"""Batch norm over the valid frames of padded videos."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.masks import valid_frames
from yt8m.layers.precision import precise


class BatchNorm(nn.Module):
    """Normalize each of D units over a batch's videos `[B, D]`, or over its valid frames `[B, T, D]`.

    In training, mean and variance are those of the valid rows, so padding has no effect; on unpadded input it equals
    `nn.BatchNorm1d`. Padding goes through the same function and comes out as any value. A batch with a single valid row
    has no variance: it is normalized with the running statistics and leaves them as they are.

    The running statistics start at the first batch's and forget as min(decay, n / (n + 9)) after n batches, as
    TensorFlow's moving averages with `num_updates` do: with a constant decay of 0.999, they would need thousands of
    steps to leave their initial values, more than a training on few videos has.

    Statistics are in float32 at least, also under autocast; the output has the input's dtype. Every rank normalizes
    with its own batch, and DDP hands rank 0's running statistics to the others.

    Args:
        size: D.
        eps: added to the variance. The published networks use 1e-3.
        decay: what the running statistics keep of themselves at each step, in the long run.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, size: int, eps: float = 1e-3, decay: float = 0.999):
        super().__init__()
        self.eps, self.decay = eps, decay
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if self.training:
            return self._train(precise(x), num_frames).to(x.dtype)
        rows = F.batch_norm(
            x.flatten(0, -2), self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
        return rows.view_as(x)

    def _train(self, x: Tensor, num_frames: Tensor | None) -> Tensor:
        """`x` normalized with the batch's statistics; the running ones take their step."""
        valid = torch.ones_like(x[..., :1], dtype=torch.bool)
        if num_frames is not None:
            valid = valid_frames(x, num_frames)[..., None]  # [B, T, 1]
        rows = tuple(range(x.ndim - 1))
        count = valid.sum()
        several = count > 1
        batch_mean = x.where(valid, 0).sum(rows) / count
        mean = batch_mean.where(several, self.running_mean.clone())
        centered = x - mean
        batch_var = centered.where(valid, 0).square().sum(rows) / count
        variance = batch_var.where(several, self.running_var.clone())
        with torch.no_grad():
            seen = self.num_batches_tracked
            step = (several * (1 - (seen / (seen + 9)).clamp(max=self.decay))).to(mean.dtype)
            self.running_mean.lerp_(mean, step)
            self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), step)
            seen.add_(several)
        return centered * ((variance + self.eps).rsqrt() * self.weight) + self.bias
