"""The prediction file: gathered from all ranks, written batch by batch, renamed on completion."""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
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
    (`BatchSampler`), so rank 0 gathers each step's predictions and writes them, while a GPU works on those of the next.

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
        # The predictions of the last batch, until those of the next are on their way.
        self._last: list[Callable[[], Predictions] | None] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Ensemble) -> None:
        if self.every is not None:  # copied once: each copy would wait for a GPU
            self._columns = torch.tensor(self.every, device=pl_module.device)
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
        ranked = None if outputs is None else self._rank(outputs, batch.ids, pl_module.first)
        self._write_last(trainer)
        self._last = [ranked]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Ensemble) -> None:
        self._write_last(trainer)
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

    def _write_last(self, trainer: pl.Trainer) -> None:
        """Write what all ranks predicted for their last batch, if there was one."""
        for own in self._last:
            for predictions in _gather(own and own(), trainer):
                if predictions is not None:
                    with self._writing():
                        self._writer.write(predictions)
                    self.count += len(predictions)
        self._last = []

    def _rank(self, scores: Tensor, ids: list[str], classifier: VideoClassifier) -> Callable[[], Predictions]:
        """Rank scores on their device, without waiting for it; what is returned waits for the result."""
        if self.every is not None:
            chosen = scores[:, self._columns]
            nothing = scores.new_empty((len(ids), 0), dtype=torch.int64)
            tensors = nothing, chosen, nothing, nothing
        else:
            ranked = top_classes(scores, min(max(self.top_k, TOP_K), scores.shape[1]))
            classes = ranked[:, : self.top_k]
            genre_scores = scores[:, :0]
            if self.genres:
                genre_scores = classifier.genre_scores(scores, ranked[:, :TOP_K])
            genres = top_classes(genre_scores, min(TOP_GENRES, genre_scores.shape[1]))
            tensors = classes, scores.gather(1, classes), genres, genre_scores.gather(1, genres)
        arrays = _to_host(tensors)

        def predictions() -> Predictions:
            found = Predictions(ids, *arrays())
            if np.isnan(found.scores).any():  # NaN ranks above all numbers
                raise ConfigError(
                    "ckpt_path: expected probabilities, found NaN; look for a diverged training"
                )
            return found

        return predictions


def _to_host(tensors: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
    """Begin to copy tensors of one device to the host; what is returned waits for the copies."""
    on_gpu = tensors[0].is_cuda
    copies = [tensor.to("cpu", non_blocking=on_gpu) for tensor in tensors]
    copied = torch.cuda.Event() if on_gpu else None
    if copied is not None:
        copied.record()

    def arrays() -> list[np.ndarray]:
        if copied is not None:
            copied.synchronize()
        return [copy.numpy() for copy in copies]

    return arrays


def _gather(own: Predictions | None, trainer: pl.Trainer) -> list[Predictions | None]:
    """All ranks' predictions by rank, on rank 0; an empty list on the others."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    of_ranks: list[Predictions | None] | None = (
        [None] * trainer.world_size if trainer.is_global_zero else None
    )
    distributed.gather_object(own, of_ranks)
    return of_ranks or []
