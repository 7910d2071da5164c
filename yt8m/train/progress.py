"""The progress bar of training."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from yt8m.metric_table import METRICS


class ProgressBar(RichProgressBar):
    """Lightning's rich bar with the loss, and a line that stays for each validation."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {"loss": metrics["train/loss_step"]} if "train/loss_step" in metrics else {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit" or self.progress is None:
            return
        values = trainer.callback_metrics
        figures = "  ".join(
            f"{metric.title} {float(values[f'val/{key}']):{metric.format}}"
            for key, metric in METRICS.items()
            if f"val/{key}" in values
        )
        epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else "∞"
        self.progress.console.print(
            f"epoch {trainer.current_epoch + 1}/{epochs}  step {trainer.global_step}  validate: {figures}",
            highlight=False,
            soft_wrap=True,
        )
