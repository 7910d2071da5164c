"""W&B for runs that stop and go on, and for several runs in one process."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

import yt8m


class WandbLogger(pl.loggers.WandbLogger):
    """Lightning's logger, which also records the code, goes on with a stopped run, and uploads only the best weights.

    Args:
        save_dir: the run's output folder.
        offline: write to the disk only; `wandb sync` sends it later.
        ckpt_path: `last` goes on with the W&B run in `save_dir`; anything else begins one.
        gradients_every: steps between two histograms of the gradients; None records none.
        log_model: upload the checkpoint of the callback that monitors a metric, as an artifact.
        **init: what `wandb.init` takes, such as project, name, group, tags.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        offline: bool = False,
        ckpt_path: str | None = None,
        gradients_every: int | None = None,
        log_model: bool = False,
        **init: Any,
    ):
        # Lightning's own `offline` sets an environment variable, which the next jobs of a sweep would inherit.
        if offline:
            init["mode"] = "offline"
        run_id = find_run_id(Path(save_dir)) if ckpt_path == "last" else None
        super().__init__(save_dir=save_dir, id=run_id, log_model=log_model, **init)
        self.gradients_every = gradients_every

    @rank_zero_only
    def begin(self, model: nn.Module) -> None:
        """Record the package's source, and the network's gradients where that is asked for."""
        self.experiment.log_code(root=str(Path(yt8m.__file__).parent), name="yt8m")
        if self.gradients_every:
            self.watch(model, log="gradients", log_freq=self.gradients_every, log_graph=False)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        if checkpoint_callback.monitor is not None:
            super().after_save_checkpoint(checkpoint_callback)


def find_run_id(folder: Path) -> str | None:
    """The id of the latest W&B run that lies in an output folder: `wandb/[offline-]run-DATE_TIME-ID`."""
    runs = [path.name.removeprefix("offline-") for path in folder.glob("wandb/*run-*-*")]
    return max(runs).split("-", 2)[2] if runs else None
