"""Teachers of a network in training: checkpoints, and files of predictions that `yt8m.predict` wrote once."""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.objective import Mix, Teacher
from yt8m.restore import check_same_task

log = logging.getLogger(__name__)

_CHECKPOINT, _DATABASE = b"PK", b"SQLite format 3\0"  # how the files begin


def load_teachers(
    paths: str | Sequence[str] | None, student: VideoClassifier, trusted_packages: Sequence[str] = ()
) -> list[Teacher]:
    """The teachers in checkpoints and files of predictions.

    Args:
        paths: one or several; None for no teacher.
        student: what they teach.
        trusted_packages: packages outside of this project that may define what a checkpoint names.

    Raises:
        ConfigError: a file is neither a checkpoint nor of predictions, is damaged, or is of other classes or inputs.
    """
    return [
        _load(Path(path).expanduser(), student, trusted_packages)
        for path in ([paths] if isinstance(paths, str) else paths or ())
    ]


def _load(path: Path, student: VideoClassifier, trusted_packages: Sequence[str]) -> Teacher:
    try:
        with path.open("rb") as file:
            start = file.read(len(_DATABASE))
    except OSError as error:
        raise ConfigError(
            f"teacher: expected a checkpoint or predictions at {path}, found nothing to read: {error.strerror}"
        ) from None
    if start == _DATABASE:
        return PredictionsTeacher(path, [info.name for info in student.classes()])
    if not start.startswith(_CHECKPOINT):
        raise ConfigError(
            f"teacher: expected a checkpoint or predictions in SQLite, found neither at {path}; write them with "
            "python -m yt8m.predict split=train format=sqlite"
        )
    try:
        teacher = VideoClassifier.load_from_checkpoint(path, trusted_packages=trusted_packages)
    except ConfigError as error:
        raise ConfigError(str(error).replace("ckpt_path:", "teacher:", 1)) from None
    check_same_task(teacher, student, path, "this run", setting="teacher")
    return CheckpointTeacher(teacher)


class _Shared:
    """Not copied with the classifier, as averaging of weights does: it never changes."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class CheckpointTeacher(_Shared):
    """A trained classifier, in evaluation mode and without gradients.

    It converts the batch itself, and sees what the network sees: the same frames, mixed alike (Beyer et al. 2022,
    "a good teacher is patient and consistent"). Only streams that the network lacks by dropout are there.
    """

    def __init__(self, classifier: VideoClassifier):
        self.classifier = classifier.eval().requires_grad_(False)

    def __call__(self, batch: Batch, mix: Mix | None, temperature: float) -> tuple[Tensor, None]:
        if self.classifier.device != batch.num_frames.device:
            self.classifier.to(batch.num_frames.device)
        with torch.no_grad():
            inputs = self.classifier.inputs(batch)
            logits = self.classifier(*(inputs if mix is None else mix.inputs(inputs)))
            return (logits.float() / temperature).sigmoid(), None


class PredictionsTeacher(_Shared):
    """Predictions that `yt8m.predict format=sqlite` wrote.

    The videos of each batch are looked up by their ids in the file, of which only SQLite's small cache is in memory.
    Classes that the file does not list for a video have probability 0. Where videos are mixed, so are their
    predictions.

    Args:
        path: the file.
        names: of the classes, in order.

    Attributes:
        missing, seen: how many videos had no predictions, and how many were looked up.

    Raises:
        ConfigError: the file has no predictions, or those of other classes; or (from a call) it is damaged.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.num_classes = path, len(names)
        self.missing = self.seen = 0
        try:
            # The file may come from a stranger: its schema may hold no code, and nothing changes it.
            self.file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            self.file.execute("PRAGMA trusted_schema = OFF")
            tables = self.file.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0")
            if not {"classes", "predictions"} <= {name for (name,) in tables}:
                raise sqlite3.DatabaseError("no tables classes and predictions")
            found = self.file.execute(
                "SELECT name FROM classes ORDER BY class LIMIT ?", (len(names) + 1,)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._refused(str(error)) from None
        if len(found) != len(names):
            count = f"{len(found):,}" if len(found) < len(names) else "more"
            raise ConfigError(
                f"teacher: expected predictions of {len(names):,} classes in {path}, found {count}"
            )
        for index, ((name,), expected) in enumerate(zip(found, names, strict=True)):
            if name != expected:
                raise ConfigError(
                    f"teacher: expected predictions of this run's classes in {path}, found {name!r} as class {index}, "
                    f"which is {expected!r} here"
                )

    def __call__(self, batch: Batch, mix: Mix | None, temperature: float) -> tuple[Tensor, Tensor | None]:
        rows, classes, scores, known = self._look_up(batch.ids)
        device = batch.num_frames.device

        def move(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        answer = torch.zeros(len(batch), self.num_classes, device=device)
        answer[move(rows), move(classes)] = (move(scores).logit() / temperature).sigmoid()
        has = None if known.all() else move(known)
        if mix is not None:
            answer, has = mix(answer), None if has is None else has & has[mix.partner]
        return answer, has

    def _look_up(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Row, class and score of every listed pair, `[N]` each, and which rows have any, `[B]`."""
        query = "SELECT classes, scores FROM predictions WHERE id = ? LIMIT 1"
        try:
            found = [self.file.execute(query, (name,)).fetchone() for name in ids]
            listed = [(np.frombuffer(c, "<i4"), np.frombuffer(s, "<f4")) for c, s in filter(None, found)]
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise self._refused(str(error)) from None
        known = np.array([pair is not None for pair in found])
        self.seen, self.missing = self.seen + len(ids), self.missing + int((~known).sum())
        counts = [len(c) for c, _ in listed]
        rows = np.repeat(np.flatnonzero(known), counts)
        classes = np.concatenate([np.empty(0, np.int64), *(c for c, _ in listed)])
        scores = np.concatenate([np.empty(0, np.float32), *(s for _, s in listed)])
        is_class = (classes >= 0) & (classes < self.num_classes)
        is_score = (scores >= 0) & (scores <= 1)
        if counts != [len(s) for _, s in listed] or not is_class.all() or not is_score.all():
            raise self._refused("an entry without classes and probabilities")
        return rows, classes, scores, known

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"teacher: expected predictions in {self.path}, found something else ({reason}); write them again with "
            "python -m yt8m.predict split=train format=sqlite"
        )


class MissingPredictions(Callback):
    """Counts the videos of an epoch that learned from their labels alone, as `train/missing_predictions`."""

    def __init__(self, teachers: Sequence[Teacher]):
        self._files = [teacher for teacher in teachers if isinstance(teacher, PredictionsTeacher)]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = 0
        for file in self._files:
            own = torch.tensor([file.missing, file.seen], device=pl_module.device)
            file.missing = file.seen = 0
            missing, seen = (int(count) for count in trainer.strategy.reduce(own, reduce_op="sum"))
            total += missing
            if missing and trainer.current_epoch == 0:
                rank_zero_only(log.warning)(
                    f"teacher: {missing:,} of {seen:,} videos have no predictions in {file.path} and learn from their "
                    "labels alone"
                )
        if self._files:
            pl_module.log("train/missing_predictions", float(total))
