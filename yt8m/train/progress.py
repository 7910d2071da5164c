"""Progress bar of training."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from yt8m.metric_table import METRICS


class ProgressBar(RichProgressBar):
    """Lightning's rich bar with the loss, and a line that stays after each validation."""

    _loss: float | None = None

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        # Only at the steps at which the loggers read the loss, too: reading it from a GPU forces a sync.
        if "train/loss_step" in trainer.callback_metrics and (
            self._loss is None or trainer.global_step % trainer.log_every_n_steps == 0
        ):
            self._loss = float(trainer.callback_metrics["train/loss_step"])
        return {} if self._loss is None else {"loss": self._loss}

    def _get_train_description(self, current_epoch: int) -> str:
        # Counted from 1, as in the line below.
        return f"epoch {current_epoch + 1}/{_epochs(self.trainer)}"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit" or self.progress is None:
            return
        values = trainer.callback_metrics
        metrics = "  ".join(
            f"{metric.title_at(pl_module.hparams.level)} {float(values[f'val/{key}']):{metric.format}}"
            for key, metric in METRICS.items()
            if f"val/{key}" in values
        )
        self.progress.console.print(
            f"epoch {trainer.current_epoch + 1}/{_epochs(trainer)}  step {trainer.global_step}  validate: {metrics}",
            highlight=False,
            soft_wrap=True,
        )


def _epochs(trainer: pl.Trainer) -> int | str:
    return "∞" if trainer.max_epochs in (None, -1) else int(trainer.max_epochs or 0)
