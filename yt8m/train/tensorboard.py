"""Pictures in TensorBoard: PR curves, histograms of weights and gradients, a video's frames."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError

# From the smallest to the largest value: blue, white, red.
_COLORS = torch.tensor([[0.13, 0.40, 0.67], [1.0, 1.0, 1.0], [0.70, 0.09, 0.17]])


class TensorBoardPictures(Callback):
    """After each validation, writes:

    - `pr_curve/all`: precision over recall, all classes pooled, and `pr_curve/INDEX NAME` for the most frequent
      classes;
    - `weights/NAME` and `gradients/NAME`: histograms of every variable; gradients are of the epoch's last step;
    - `frames`: the first video's frames as a heat map, time from left to right, one row per feature value.

    Args:
        videos: PR curves are of this many videos, the first of the validation partition.
        classes: number of classes with a curve of their own.

    Raises:
        ConfigError: no TensorBoard logger is configured.
    """

    def __init__(self, videos: int = 256, classes: int = 5):
        self.videos, self.classes = videos, classes
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._gradients: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            raise ConfigError(
                "callbacks: expected a TensorBoard logger for the pictures; add logger=[csv,tensorboard]"
            )

    @rank_zero_only
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.is_last_batch:
            self._gradients = {
                name: p.grad.detach().float().cpu()
                for name, p in pl_module.named_parameters()
                if p.grad is not None
            }

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | None,
        batch: Batch,
        *_: Any,
    ) -> None:
        if trainer.state.fn != "fit" or outputs is None:
            return
        if not self._scores and pl_module.hparams.level != "video":
            self._picture(trainer, batch)
        missing = self.videos - sum(len(scores) for scores in self._scores)
        if missing > 0:
            self._scores.append(outputs[:missing].cpu())
            self._labels.append(pl_module.labels(batch)[:missing].cpu())

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._scores:
            return
        scores, labels = torch.cat(self._scores), torch.cat(self._labels)  # [V, C]
        self._scores, self._labels = [], []
        frequent = labels.sum(dim=0).topk(min(self.classes, labels.shape[1])).indices.tolist()
        names = [
            info.name.replace("/", " ") for info in pl_module.classes()
        ]  # a slash would make a group of its own
        for writer in _writers(trainer):
            writer.add_pr_curve("pr_curve/all", labels.flatten(), scores.flatten(), trainer.global_step)
            for index in frequent:
                writer.add_pr_curve(
                    f"pr_curve/{index} {names[index]}",
                    labels[:, index],
                    scores[:, index],
                    trainer.global_step,
                )
            for name, parameter in pl_module.named_parameters():
                writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), trainer.global_step)
            for name, gradient in self._gradients.items():
                writer.add_histogram(f"gradients/{name}", gradient, trainer.global_step)

    def _picture(self, trainer: pl.Trainer, batch: Batch) -> None:
        frames = batch.features[: int(batch.num_frames[0])].float().cpu()  # [T, D]
        # Wide enough to see.
        frames = frames.repeat_interleave(max(1, frames.shape[1] // (2 * len(frames))), dim=0)
        for writer in _writers(trainer):
            writer.add_image("frames", heat_map(frames), trainer.global_step, dataformats="HWC")


def heat_map(frames: Tensor) -> Tensor:
    """A video's quantised frames, `[T, D]` in 0…255, as an image `[D, T, 3]` in 0…1: low blue, high red."""
    position = frames.T / 255 * (len(_COLORS) - 1)
    below = position.floor().clamp(max=len(_COLORS) - 2).long()
    weight = (position - below)[..., None]
    return _COLORS[below] * (1 - weight) + _COLORS[below + 1] * weight


def _writers(trainer: pl.Trainer) -> list[Any]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
