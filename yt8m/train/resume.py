"""Checkpoints that a run can be resumed from exactly, at any batch."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import distributed


class Checkpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with two changes.

    A checkpoint due after an epoch's last batch is saved after that epoch's validation: from one saved between the
    two, Lightning would skip the validation and resume with the next epoch. And `best` keeps what the best
    checkpoint was chosen by: `{"epoch": counted from 1, "metrics": {"val/gap": …}}`; None before the first.
    """

    best: dict[str, Any] | None = None

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
        super()._save_checkpoint(trainer, filepath)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, *batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, trainer.num_training_batches - 1)
        super().on_train_epoch_end(trainer, pl_module)


class ResumedEpoch(Callback):
    """Counts an epoch that begins with a resumed checkpoint, where that was saved after the last batch of another.

    Lightning takes such an epoch for the rest of the one before: it leaves out its start, and from then on counts one
    epoch less, so that a checkpoint of this run would enter the wrong epoch's order.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop
        progress = loop.epoch_progress.current
        if loop.restarted_mid_epoch and progress.processed == progress.ready:
            loop.reset_restart_stage()


class RandomState(Callback):
    """Keeps every rank's random state in the checkpoint, so that dropout goes on exactly."""

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
        # As late as can be: building loaders and loggers may draw random numbers.
        states = self._restored["ranks"] if self._restored else []
        self._restored = None
        if len(states) == trainer.world_size:
            mine = states[trainer.global_rank]
            torch.set_rng_state(mine["cpu"])
            if mine["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(mine["cuda"])


class SaveOnTermination(Callback):
    """Writes `last.ckpt` when the process is told to end (SIGTERM, as clusters send it before they take a node).

    Lightning obeys between two batches, so the checkpoint is as exact as any other.
    """

    def __init__(self, dirpath: str):
        self.path = Path(dirpath, "last.ckpt")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException) and trainer.state.fn == "fit":
            trainer.save_checkpoint(self.path)
