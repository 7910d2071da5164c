"""Ways in which training ends early: Ctrl-C, SIGTERM, and a loss that diverged."""

import os
import shlex
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from yt8m.errors import DivergedError
from yt8m.train.checkpoint import AtomicCheckpointIO
from yt8m.train.ranks import Vote
from yt8m.train.resume import is_between_steps


class SaveOnStop(Callback):
    """Ends training between two batches on Ctrl-C or SIGTERM, and writes `last.ckpt`.

    Clusters send SIGTERM before they take a node away, submitit's jobs get SIGUSR2 (see `requeue`). All ranks end after
    the same batch, whichever of them got the signal, so the checkpoint is as exact as any other. A second Ctrl-C ends
    the process at once, without saving.

    Args:
        dirpath: folder of the checkpoint.
    """

    def __init__(self, dirpath: str):
        self.path = Path(dirpath, "last.ckpt")
        self._signal = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._signal, self._vote, self._launcher = 0, Vote(), trainer.strategy.launcher
        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's: its SIGTERM handler starts a collective wherever a rank happens to be. Lightning
            # puts back the earlier handlers when it is done.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle)
            if "SUBMITIT_EXECUTOR" in os.environ and callable(handler := signal.getsignal(signal.SIGUSR2)):
                _submitit.append(handler)
                signal.signal(signal.SIGUSR2, self._handle)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if is_between_steps(trainer):
            self._check(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            self._check(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException) and trainer.state.fn == "fit":
            trainer.save_checkpoint(self.path)
            exception.args = (self._signal,)

    def _handle(self, number: int, frame: Any) -> None:
        if self._signal and number == signal.SIGINT:
            for process in getattr(self._launcher, "procs", None) or []:
                process.kill()
            # Not through `print`, which may be in the middle of a line; the first sequence shows the cursor again.
            os.write(2, (b"\x1b[?25h\n" if os.isatty(2) else b"") + b"interrupted again: not saved\n")
            os._exit(130)
        if not self._signal and number == signal.SIGINT:
            os.write(2, b"\ninterrupted: saving after this batch; press Ctrl-C again to leave at once\n")
        self._signal = self._signal or number

    def _check(self, trainer: pl.Trainer) -> None:
        self._signal = self._vote.max(self._signal)
        if self._signal:
            trainer._signal_connector.received_sigterm = True  # Lightning ends after this batch


_submitit: list[Any] = []  # its handler of SIGUSR2, which puts the job back into the queue


def requeue() -> None:
    """Let submitit put this job back into the queue, after its checkpoint was written; does not return.

    Its handler would end the process wherever training happens to be, so `SaveOnStop` replaces it.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    _submitit.pop()(signal.SIGUSR2, None)
    # It returned, on a rank other than the first: if that ends too early, submitit ends the first one.
    time.sleep(120)
    raise SystemExit(1)


class StopOnDivergence(Callback):
    """Ends training where the loss becomes NaN or infinite.

    On a CPU at once. Reading the loss from a GPU forces a sync, so there the first bad step is remembered on the GPU
    and read when the loss is logged anyway (`trainer.log_every_n_steps`), and before a checkpoint is written: no
    checkpoint is later than the last good step.

    Raises:
        DivergedError: on all ranks, after the same batch; names the step, its learning rate, the last checkpoint.
    """

    def __init__(self) -> None:
        self._bad_step: Tensor | None = None  # int64 scalar on the loss's device; 0: none
        self._rates: dict[int, float] = {}  # learning rate of every step since the last check

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bad_step, self._vote = None, Vote()
        self._rates.clear()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._rates[trainer.global_step + 1] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        step = max(self._rates)  # of a batch that is accumulated: the step that it will be part of
        bad = ~loss.isfinite()
        if self._bad_step is None:
            self._bad_step = torch.zeros_like(bad, dtype=torch.int64)
        self._bad_step = torch.where(bad & (self._bad_step == 0), step, self._bad_step)
        if loss.device.type == "cpu" or step % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
            self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)  # saved on all ranks

    def _check(self, trainer: pl.Trainer) -> None:
        bad_step = self._vote.max(int(self._bad_step) if self._bad_step is not None else 0)
        if bad_step:
            lr = self._rates.get(bad_step)
            raise DivergedError(
                f"the loss is NaN or infinite at step {bad_step} of epoch {trainer.current_epoch + 1}"
                f"{'' if lr is None else f', at a learning rate of {lr:g}'}; {_last_good(trainer)}; "
                "lower optimizer.lr, or set gradient_clip"
            )
        self._rates = {step: rate for step, rate in self._rates.items() if step == max(self._rates)}


def _last_good(trainer: pl.Trainer) -> str:
    files = getattr(trainer.strategy, "checkpoint_io", None) if hasattr(trainer, "strategy") else None
    if isinstance(files, AtomicCheckpointIO):
        files.finish()
    folders = {
        Path(c.dirpath) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath
    }
    checkpoints = [path for folder in folders for path in folder.glob("*.ckpt")]
    if not checkpoints:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {max(checkpoints, key=lambda path: path.stat().st_mtime)}"


def resume_command(folder: Path) -> str:
    """The command line that resumes this job from `last.ckpt` in its folder."""
    dropped = ("ckpt_path=", "hparams_search=", "study_name=")  # a search's job resumes as a single run
    overrides = [one for one in HydraConfig.get().overrides.task if not one.startswith(dropped)]
    return shlex.join(["python", "-m", "yt8m.train", *overrides, f"hydra.run.dir={folder}", "ckpt_path=last"])
