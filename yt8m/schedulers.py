"""Learning-rate schedules per optimizer step, each a `LambdaLR` that scales the optimizer's own rate."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from yt8m.errors import ConfigError

# Those that follow the examples seen, not the share of all steps.
BY_EXAMPLES = ("yt8m.schedulers.exponential",)


def exponential(
    optimizer: Optimizer,
    *,
    examples_per_step: int,
    total_steps: int | float,
    decay: float = 0.95,
    every_examples: int = 4_000_000,
    staircase: bool = True,
) -> LambdaLR:
    """lr · decay^(examples / every_examples); with `staircase`, the exponent is rounded down.

    Source: the YouTube-8M starter code's train.py, whose defaults these are.
    """

    def factor(step: int) -> float:
        exponent = step * examples_per_step / every_examples
        return decay ** (math.floor(exponent) if staircase else exponent)

    return LambdaLR(optimizer, factor)


def cosine(
    optimizer: Optimizer,
    *,
    examples_per_step: int,
    total_steps: int | float,
    warmup: float = 0.05,
    final: float = 0.0,
) -> LambdaLR:
    """Linear warm-up over the first `warmup` fraction of the steps, then half a cosine down to `final` · lr.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (one cycle).

    Raises:
        ConfigError: training has no last step.
    """
    if math.isinf(total_steps):
        raise ConfigError(
            "scheduler: cosine needs the number of steps, found training without an end; set trainer.max_epochs or "
            "trainer.max_steps, or scheduler=exponential (for shards in a bucket, a manifest tells the number)"
        )
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
