"""Checkpoints that a run can be resumed from exactly, at any batch, and by any number of ranks."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import distributed
from torch.optim.lr_scheduler import LambdaLR

from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.schedulers import BY_EXAMPLES
from yt8m.train.checkpoint import AtomicCheckpointIO


class Checkpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with three changes.

    A checkpoint due after an epoch's last batch is saved after that epoch's validation: from one saved between the
    two, Lightning would skip the validation and resume with the next epoch. None is saved between two batches of one
    optimizer step, whose gradients it would lose. `best` keeps what the best checkpoint was chosen by:
    `{"epoch": counted from 1, "metrics": {"val/gap": …}}`; None before the first. And where `best` was saved a moment
    ago, `last` becomes a further name (a hard link) of its file, which is serialized once.
    """

    best: dict[str, Any] | None = None
    _validations = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.best_model_score is not None:  # None where the checkpoint is of another folder
            self.best = state_dict.get("best")

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if filepath == self.best_model_path:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.best = {
                "epoch": trainer.current_epoch + 1,
                "metrics": {name: value for name, value in metrics.items() if name.startswith("val/")},
            }
        files = trainer.strategy.checkpoint_io
        if not isinstance(files, AtomicCheckpointIO):
            super()._save_checkpoint(trainer, filepath)
            return
        epochs = trainer.fit_loop.epoch_progress.current.processed
        moment = (trainer.global_step, epochs, self._validations, self.save_weights_only)
        # A file that was written before this callback found a new best does not say so.
        if not self.monitor and files.latest and files.latest[0] == moment and files.latest[1] != filepath:
            if trainer.is_global_zero:
                files.link(files.latest[1], filepath)
            self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
            return
        super()._save_checkpoint(trainer, filepath)
        files.latest = moment, filepath

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validations += 1
        super().on_validation_end(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Before the loggers end, which may upload the file.
        if isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            trainer.strategy.checkpoint_io.finish()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        if is_between_steps(trainer) and not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, *batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, _last_batch(trainer))
        super().on_train_epoch_end(trainer, pl_module)


def _last_batch(trainer: pl.Trainer) -> int:
    """Number of the epoch's last batch, which need not have been known before."""
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return int(min(trainer.num_training_batches, ready)) - 1


def is_between_steps(trainer: pl.Trainer) -> bool:
    """Whether the batch that was trained on last completed an optimizer step."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    return trainer.is_last_batch or batches.current.ready % trainer.accumulate_grad_batches == 0


class ResumedEpoch(Callback):
    """Makes Lightning's counters of a resumed run agree with the data, with any number of ranks and any batch size.

    The epoch's batches are counted in those of this run. So are the steps of the learning-rate schedule; the steps of
    the run itself remain those that were taken. A validation that was interrupted begins again, because its metrics
    are not in the checkpoint. And a run resumed from a checkpoint of an epoch's last batch starts a new epoch:
    Lightning takes it for the rest of the old one, skips the start of the epoch and then counts one epoch less, so a
    later checkpoint would resume in the wrong epoch's order.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        data = trainer.datamodule
        place = checkpoint.get(type(data).__qualname__) or {}
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        # `trainer.max_steps` ended training inside an epoch, which Lightning took for processed.
        if place.get("records") and epochs["current"]["processed"] == epochs["current"]["ready"]:
            for count in ("total", "current"):
                epochs[count]["processed"] -= 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop
        progress = loop.epoch_progress.current
        if loop.restarted_mid_epoch and progress.processed == progress.ready:
            loop.reset_restart_stage()
        data = trainer.datamodule
        if not isinstance(data, YT8MDataModule) or data.batches_done() is None:
            return
        if loop.restarting:
            self._count_batches(trainer, data)
        if data.resumes_with_other_steps():
            for config in trainer.lr_scheduler_configs:
                self._count_steps(trainer, config.scheduler)

    def _count_batches(self, trainer: pl.Trainer, data: YT8MDataModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        batches = loop.batch_progress
        done = trainer.num_training_batches if batches.is_last_batch else data.batches_done()
        if isinstance(done, int):
            moved = done - batches.current.ready
            for name in ("ready", "started", "processed", "completed"):
                setattr(batches.current, name, getattr(batches.current, name) + moved)
        if loop.val_loop.restarted_mid_evaluation:
            loop.val_loop.batch_progress.reset_on_run()

    def _count_steps(self, trainer: pl.Trainer, scheduler: Any) -> None:
        """Set a schedule to as many steps of this run as the data seen so far would make."""
        if not isinstance(scheduler, LambdaLR):
            return
        config = trainer.lightning_module.hparams.scheduler
        by_examples = isinstance(config, dict) and config.get("_target_") in BY_EXAMPLES
        if trainer.estimated_stepping_batches == trainer.max_steps and not by_examples:
            steps = trainer.global_step  # the end of the run is a number of steps
        elif math.isinf(trainer.num_training_batches):
            return
        else:
            accumulate = trainer.accumulate_grad_batches
            per_epoch = -(-int(trainer.num_training_batches) // accumulate)
            current = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            in_epoch = current // accumulate if trainer.fit_loop.restarting else 0
            steps = trainer.current_epoch * per_epoch + in_epoch
        scheduler.last_epoch = steps
        for group, base, factor in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(steps)
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


class RandomState(Callback):
    """Keeps every rank's random state in the checkpoint, so that dropout resumes exactly.

    A rank that the saved run did not have starts from another one's state, with numbers of its own.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        mine = {"cpu": torch.get_rng_state(), "cuda": None}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            mine["cuda"] = torch.cuda.get_rng_state()
        if not (distributed.is_available() and distributed.is_initialized()):
            return {"ranks": [mine]}
        states: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, mine)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # As late as possible: building loaders and loggers may draw random numbers.
        states = self._restored["ranks"] if self._restored else []
        self._restored = None
        if not states:
            return
        mine = states[trainer.global_rank % len(states)]
        torch.set_rng_state(mine["cpu"])
        if mine["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(mine["cuda"])
        if trainer.global_rank >= len(states):
            torch.manual_seed(int(torch.randint(2**62, ())) + trainer.global_rank)
