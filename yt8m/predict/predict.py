"""Inference: checkpoints and shards in, a prediction file out."""

import importlib.util
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed

from yt8m.datamodules.dataset import Batch
from yt8m.errors import ConfigError
from yt8m.metrics import top_classes
from yt8m.module import VideoClassifier
from yt8m.predict.writers import ENDINGS, WRITERS, Predictions, SegmentsWriter, Writer, segment_classes
from yt8m.train.session import lightning_session, make_trainer, restore

TOP_GENRES = 5  # of a video, in the formats that list genres


@lightning_session()
def predict(config: dict[str, Any]) -> None:
    """Write the predictions of one or several checkpoints on a partition, as `conf/predict.yaml` says.

    Raises:
        ConfigError: an argument is wrong, checkpoints do not go together, or the output is there already.
    """
    paths = config["ckpt_path"] if isinstance(config["ckpt_path"], list) else [config["ckpt_path"]]
    weights = _weights(config, len(paths))
    if config["format"] == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "format: parquet needs the package pyarrow, found none; pip install 'yt8m[parquet]'"
        )
    output = Path(config["output"] or f"predictions{ENDINGS[config['format']]}").expanduser().absolute()
    if output.is_dir() or (output.exists() and not config["overwrite"]):
        raise ConfigError(f"output: expected a new file, found one at {output}; set output or overwrite=true")
    if not output.parent.is_dir():
        raise ConfigError(f"output: expected a folder at {output.parent}, found none; make it, or set output")
    folder, trusted = Path(config["output_dir"]), config["trusted_packages"]
    restored = [restore(path, folder, config["dataset"], trusted) for path in paths]
    _, first, datamodule = restored[0]
    for path, classifier, _ in restored[1:]:
        _compare(classifier, first, path, paths[0])
    datamodule.predicted = config["split"]

    make, only = WRITERS[config["format"]], None
    if first.hparams.level == "segment" and config["format"] == "csv":
        labels = datamodule.root / Path(config["segment_label_ids"]).expanduser()
        make, only = SegmentsWriter, segment_classes(labels, first.hparams.num_classes)
    writer = OutputFile(output, make, config["top_k"], overwrite=config["overwrite"], only=only)
    ensemble = Ensemble([classifier for _, classifier, _ in restored], weights)
    make_trainer(config, [writer], []).predict(ensemble, datamodule, return_predictions=False)


def _weights(config: dict[str, Any], count: int) -> list[float]:
    """Weights of the checkpoints, which sum to 1."""
    weights = config["weights"] or [1.0] * count
    if len(weights) != count:
        raise ConfigError(f"weights: expected {count} positive numbers, one per checkpoint, found {weights}")
    return [weight / sum(weights) for weight in weights]


def _compare(classifier: VideoClassifier, first: VideoClassifier, path: str, first_path: str) -> None:
    """Checkpoints that are averaged must see the same input and mean the same by a class."""
    for key in ("num_classes", "target", "level", "feature_sizes", "max_frames"):
        expected, found = first.hparams[key], classifier.hparams[key]
        # The order of the features is that of their columns.
        if expected != found or (key == "feature_sizes" and list(expected) != list(found)):
            raise ConfigError(
                f"ckpt_path: expected checkpoints that agree, found {key} = {found} in {path} and {expected} "
                f"in {first_path}"
            )
    names = [[info.name for info in one.classes()] for one in (first, classifier)]
    if names[0] != names[1]:
        raise ConfigError(
            f"ckpt_path: expected checkpoints that agree, found other class names in {path} than in {first_path}"
        )


class Ensemble(pl.LightningModule):
    """The weighted mean of classifiers' probabilities; of one, its own.

    Args:
        classifiers: that agree in input and classes.
        weights: of the classifiers, summing to 1.
    """

    def __init__(self, classifiers: list[VideoClassifier], weights: list[float]):
        super().__init__()
        self.classifiers, self.weights = torch.nn.ModuleList(classifiers), weights

    @property
    def first(self) -> VideoClassifier:
        return self.classifiers[0]

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Probabilities, float32 `[B, C]`; None for an empty batch."""
        if not len(batch):
            return None
        if len(self.classifiers) == 1:
            return self.first.predict_step(batch, batch_idx)
        members = zip(self.classifiers, self.weights, strict=True)
        return sum(weight * classifier.predict_step(batch, batch_idx) for classifier, weight in members)


class OutputFile(Callback):
    """Writes every batch's predictions, of all ranks in the data's order, and names the file when it is whole.

    Every rank has the same number of batches, and together they are a stretch of the partition in order
    (`BatchSampler`): so rank 0 collects each batch from all and writes it.

    Args:
        path: the final name; until the end the file is called `path` + `.part`.
        make: the format.
        top_k: classes per video.
        overwrite: whether a file that has appeared under `path` may be replaced.
        only: the classes that count; None for all.
    """

    def __init__(
        self,
        path: Path,
        make: type[Writer],
        top_k: int,
        *,
        overwrite: bool = False,
        only: list[int] | None = None,
    ):
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.make, self.top_k, self.overwrite, self.only = make, top_k, overwrite, only
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
        if trainer.received_sigterm:  # Lightning itself looks only when it trains
            raise SIGTERMException(128 + signal.SIGTERM)
        mine = None if outputs is None else self._best(outputs, batch.ids, pl_module.first)
        for predictions in _collect(mine, trainer):
            if predictions is not None:
                with self._writing():
                    self._writer.write(predictions)
                self.count += len(predictions)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Ensemble) -> None:
        skipped = sum(trainer.datamodule.skipped().values())  # of all ranks: a question to each
        if self._writer is None:
            return
        with self._writing():
            self._writer.close()
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
        self._writer = None
        if self.path.exists() and not self.overwrite:
            raise ConfigError(
                f"output: expected a new file, found one that has come to {self.path} meanwhile; "
                f"the predictions lie in {self.part}"
            )
        self.part.replace(self.path)
        rows = "segments" if pl_module.first.hparams.level == "segment" else "videos"
        left_out = f"; {skipped:,} damaged records left out" if skipped else ""
        print(f"{self.path}: {self.count:,} {rows}{left_out}")

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
        genre_scores = classifier.genre_scores(scores)
        genres = top_classes(genre_scores, min(TOP_GENRES, genre_scores.shape[1]))
        if self.only is None:
            classes = top_classes(scores, min(self.top_k, scores.shape[1]))
        else:
            only = torch.tensor(self.only, device=scores.device)
            classes = only[top_classes(scores[:, only], min(self.top_k, len(only)))]
        best = scores.gather(1, classes)
        if best.isnan().any():  # which ranks above all numbers
            raise ConfigError("ckpt_path: expected probabilities, found NaN; look for a diverged training")
        tensors = classes, best, genres, genre_scores.gather(1, genres)
        return Predictions(ids, *(tensor.cpu().numpy() for tensor in tensors))


def _collect(mine: Predictions | None, trainer: pl.Trainer) -> list[Predictions | None]:
    """On rank 0 every rank's object, by rank; on the others nothing."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    of_ranks = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(mine, of_ranks)
    return of_ranks or []
