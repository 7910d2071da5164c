"""Checkpoints that a run can be resumed from exactly, at any batch."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import distributed

from yt8m.train.checkpoint import AtomicCheckpointIO


class Checkpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with three changes.

    A checkpoint due after an epoch's last batch is saved after that epoch's validation: from one saved between the
    two, Lightning would skip the validation and resume with the next epoch. And `best` keeps what the best
    checkpoint was chosen by: `{"epoch": counted from 1, "metrics": {"val/gap": …}}`; None before the first. And where
    `best` was saved a moment ago, `last` becomes a further name (a hard link) of its file, which is serialized once.
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
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, *batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, _last_batch(trainer))
        super().on_train_epoch_end(trainer, pl_module)


def _last_batch(trainer: pl.Trainer) -> int:
    """Number of the epoch's last batch, which need not have been known before."""
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return int(min(trainer.num_training_batches, ready)) - 1


class ResumedEpoch(Callback):
    """Makes a run resumed from a checkpoint of an epoch's last batch start a new epoch.

    Lightning takes the new epoch for the rest of the old one: it skips the start of the epoch and then counts one
    epoch less, so a later checkpoint would resume in the wrong epoch's order.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop
        progress = loop.epoch_progress.current
        if loop.restarted_mid_epoch and progress.processed == progress.ready:
            loop.reset_restart_stage()


class RandomState(Callback):
    """Keeps every rank's random state in the checkpoint, so that dropout resumes exactly."""

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
        if len(states) == trainer.world_size:
            mine = states[trainer.global_rank]
            torch.set_rng_state(mine["cpu"])
            if mine["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(mine["cuda"])
