"""Averages of the weights over training, which are what is validated, tested, and kept for evaluation."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from yt8m.errors import ConfigError


class Average(WeightAveraging):
    """Lightning's `WeightAveraging`, exact where a run stops, validates, or has not begun to average.

    Before the average begins, it is the current weights. Of the buffers, those of floating point are averaged as the
    weights are, such as the statistics of batch norm; others are the current ones. A checkpoint's `state_dict` has the
    average; `current_model_state`, the current weights, is beside it for resuming.

    Args:
        step_size: how far the average moves towards the current weights, from the number of earlier updates (>= 1).
        start_epoch: epochs before the average begins.
        every_n_steps: optimizer steps from one update to the next; None: one update per epoch, after its last step.

    Raises:
        ConfigError: when training starts, if the weights are sharded or a checkpoint would leave out the average.
    """

    def __init__(self, step_size: Callable[[int], float], start_epoch: int, every_n_steps: int | None):
        super().__init__()
        self.step_size, self.start_epoch, self.every_n_steps = step_size, start_epoch, every_n_steps
        self._is_swapped = False

    @property
    def _updates(self) -> Tensor:
        assert self._average_model is not None
        return self._average_model.n_averaged

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):
            raise ConfigError(
                f"average: expected all weights on every device, found {type(trainer.strategy).__name__}, which shards "
                "them; set trainer=ddp, or average=none"
            )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_weights_only:
                raise ConfigError(
                    "callbacks: expected checkpoints with the average, found save_weights_only=true, which leaves it "
                    "out; drop it, or set average=none"
                )
        self._device = trainer.strategy.root_device  # the network gets there later
        self._is_swapped = False
        super().setup(trainer, pl_module, stage)
        assert self._average_model is not None
        # On the CPU, where reading it does not wait for the GPU.
        self._average_model.n_averaged = self._updates.cpu()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = self.every_n_steps
        is_time = trainer.is_last_batch if every is None else trainer.global_step % every == 0
        # With accumulated gradients, a batch need not be a step.
        is_new = trainer.global_step > self._latest_update_step
        if is_time and is_new and trainer.current_epoch >= self.start_epoch:
            self._update(pl_module)
            self._latest_update_step = trainer.global_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return False  # by Lightning

    def _update(self, pl_module: pl.LightningModule) -> None:
        """Move the average; `AveragedModel`'s own update makes the host wait for a GPU, to send it the count."""
        assert self._average_model is not None
        updates = int(self._updates)
        moved: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for pair in zip(_tensors(self._average_model.module), _tensors(pl_module), strict=True):
            (moved if updates and pair[0].is_floating_point() else copied).append(pair)
        if moved:
            average, current = zip(*moved, strict=True)
            torch._foreach_lerp_(average, current, self.step_size(updates))
        if copied:
            average, current = zip(*copied, strict=True)
            torch._foreach_copy_(average, current)
        self._updates.add_(1)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._is_swapped:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the current weights in place: `on_fit_end` comes after the last checkpoint."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the network, also where nothing was left to train."""
        self._follow(pl_module)
        self._copy_average_to_current(pl_module)
        self._average_model = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is None:
            return
        if self._is_swapped:  # stopped within a validation; the tensors in the checkpoint are swapped, too
            self._swap_models(pl_module)
        self._follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is not None:  # else a test of the average, which is the network now
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        self._follow(pl_module)
        super()._swap_models(pl_module)
        self._is_swapped = not self._is_swapped

    def _follow(self, pl_module: pl.LightningModule) -> None:
        """Before the first update, the current weights are the average."""
        assert self._average_model is not None
        if self._updates == 0 and not self._is_swapped:
            self._average_model.module.load_state_dict(pl_module.state_dict())


def _tensors(module: nn.Module) -> list[Tensor]:
    return [one.detach() for one in (*module.parameters(), *module.buffers())]


class EMA(Average):
    """An exponential moving average: average ← decay · average + (1 - decay) · weights.

    Args:
        decay: share of the average that an update keeps.
        warmup: whether early updates keep less, min(decay, (1 + n)/(10 + n)) after n updates, as `num_updates` of
            TensorFlow's `ExponentialMovingAverage` does: in a short training, the first weights are forgotten sooner.
        start_epoch: epochs before the average begins.
        every_n_steps: optimizer steps from one update to the next.
    """

    def __init__(
        self, *, decay: float = 0.999, warmup: bool = True, start_epoch: int = 0, every_n_steps: int = 1
    ):
        def step_size(updates: int) -> float:
            return 1 - (min(decay, (1 + updates) / (10 + updates)) if warmup else decay)

        super().__init__(step_size, start_epoch, every_n_steps)


class SWA(Average):
    """The plain mean of the weights along the way (Izmailov et al., "Averaging Weights Leads to Wider Optima").

    Args:
        start_epoch: epochs before the average begins.
        every_n_steps: optimizer steps from one of the averaged weights to the next; None: those at every epoch's end.
    """

    def __init__(self, *, start_epoch: int = 0, every_n_steps: int | None = None):
        super().__init__(lambda updates: 1 / (updates + 1), start_epoch, every_n_steps)
