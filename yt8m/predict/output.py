"""The prediction file: gathered from all ranks, written batch by batch, renamed on completion."""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed

from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.metric_table import TOP_K
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import Ensemble
from yt8m.predict.writers import Predictions, Writer
from yt8m.ranking import top_classes

TOP_GENRES = 5  # of a video, in the formats that list genres


class OutputFile(Callback):
    """Writes the predictions of all ranks, in the data's order, to `.part`, and renames it on completion.

    All ranks have the same number of batches, and their batches of one step are consecutive videos of the partition
    (`BatchSampler`), so rank 0 gathers each step's predictions and writes them.

    Args:
        path: the final name.
        make: makes the writer of the format, of a path, class names, and genre names.
        top_k: classes per video.
        overwrite: whether to replace a file that appeared at `path` in the meantime.
        every: write the scores of all these classes, not of the best; None: of the best.
        genres: whether the format lists genres.

    Raises:
        ConfigError: the disk is full, a file appeared at `path`, or a score is NaN.
    """

    def __init__(
        self,
        path: Path,
        make: Callable[[Path, list[str], list[str]], Writer],
        top_k: int,
        *,
        overwrite: bool = False,
        every: list[int] | None = None,
        genres: bool = True,
    ):
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.make, self.top_k, self.overwrite, self.every = make, top_k, overwrite, every
        self.genres = genres
        self.count = 0
        self._writer: Writer | None = None  # on rank 0, while there is something to write

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Ensemble) -> None:
        if trainer.is_global_zero:
            classifier = pl_module.first
            names = [info.name for info in classifier.classes()]
            with self._writing():
                self._writer = self.make(self.part, names, classifier.genres.names)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Ensemble,
        outputs: Tensor | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.received_sigterm:  # Lightning checks it only in training
            if trainer.is_global_zero:
                print(f"stopped by SIGTERM; {self.path} was not written", file=sys.stderr)
            raise SIGTERMException(128 + signal.SIGTERM)
        own = None if outputs is None else self._best(outputs, batch.ids, pl_module.first)
        for predictions in _gather(own, trainer):
            if predictions is not None:
                with self._writing():
                    self._writer.write(predictions)
                self.count += len(predictions)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Ensemble) -> None:
        skipped = sum(trainer.datamodule.skipped().values())  # gathers from all ranks
        if self._writer is None:
            return
        with self._writing():
            self._writer.close()
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
        self._writer = None
        if self.path.exists() and not self.overwrite:
            raise ConfigError(
                f"output: expected a new file, found one that appeared at {self.path} meanwhile; "
                f"the predictions are in {self.part}"
            )
        self.part.replace(self.path)
        rows = "segments" if pl_module.first.hparams.level == "segment" else "videos"
        skipped_part = f"; {skipped:,} damaged records skipped" if skipped else ""
        print(f"{self.path}: {self.count:,} {rows}{skipped_part}")

    def on_exception(self, trainer: pl.Trainer, pl_module: Ensemble, exception: BaseException) -> None:
        if self._writer is not None:
            with suppress(OSError):  # the disk may be full
                self._writer.abandon()
            self.part.unlink(missing_ok=True)
            self._writer = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"output: {self.part} could not be written ({error}); free space on the disk, or set output"
            ) from error

    def _best(self, scores: Tensor, ids: list[str], classifier: VideoClassifier) -> Predictions:
        if self.every is not None:
            chosen = scores[:, torch.tensor(self.every, device=scores.device)]
            _refuse_nan(chosen)
            nothing = np.empty((len(ids), 0), np.int64)
            return Predictions(ids, nothing, chosen.cpu().numpy(), nothing, nothing)
        ranked = top_classes(scores, min(max(self.top_k, TOP_K), scores.shape[1]))
        classes = ranked[:, : self.top_k]
        best = scores.gather(1, classes)
        _refuse_nan(best)  # NaN ranks above all numbers
        genre_scores = scores[:, :0]
        if self.genres:
            genre_scores = classifier.genre_scores(scores, ranked[:, :TOP_K])
        genres = top_classes(genre_scores, min(TOP_GENRES, genre_scores.shape[1]))
        tensors = classes, best, genres, genre_scores.gather(1, genres)
        return Predictions(ids, *(tensor.cpu().numpy() for tensor in tensors))


def _refuse_nan(scores: Tensor) -> None:
    if scores.isnan().any():
        raise ConfigError("ckpt_path: expected probabilities, found NaN; look for a diverged training")


def _gather(own: Predictions | None, trainer: pl.Trainer) -> list[Predictions | None]:
    """All ranks' predictions by rank, on rank 0; an empty list on the others."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    of_ranks: list[Predictions | None] | None = (
        [None] * trainer.world_size if trainer.is_global_zero else None
    )
    distributed.gather_object(own, of_ranks)
    return of_ranks or []
