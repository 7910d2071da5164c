"""Statistics of the best run, class by class: its best.ckpt on the validation partition, in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yt8m.average_precision import average_precision
from yt8m.build import build
from yt8m.checkpoint import read_checkpoint, run_config
from yt8m.errors import ConfigError
from yt8m.eval.per_class import GenreResult, TopKPredictions, genre_results
from yt8m.labels import ClassInfo
from yt8m.metrics import MAP, gap
from yt8m.module import VideoClassifier

BINS = 10  # of the calibration curve, equally wide
LISTED = 20  # classes in each of the lists
CONFUSED = 16  # classes in the confusion matrix


@dataclass(frozen=True)
class ClassScore:
    """Average precision of a class over the pairs in their videos' top 20, and its number of positives."""

    name: str
    average_precision: float
    positives: int


@dataclass(frozen=True)
class CalibrationBin:
    """Scores between two tenths: their mean, the share of them that are true labels, and their count."""

    score: float
    hit_rate: float
    count: int


@dataclass(frozen=True)
class ClassStats:
    """Statistics of one checkpoint on one partition.

    Attributes:
        gap: GAP of the checkpoint.
        videos: number of scored videos.
        classes: every class with positives, best first, ties by frequency.
        genres: as yt8m.eval computes them; empty if no verticals are known.
        calibration: the bins that hold scores.
        confused: names of the most frequent classes, most frequent first.
        confusion: [i][j], i ≠ j: share of the videos with label i and without label j that have j in their top n (n is
            their number of labels); [i][i]: share of the videos with label i that have i there. None: no such video.
        cooccurrence: [i][j]: share of the videos with label i that also have label j.
    """

    gap: float
    videos: int
    classes: list[ClassScore]
    genres: list[GenreResult]
    calibration: list[CalibrationBin]
    confused: list[str]
    confusion: list[list[float | None]]
    cooccurrence: list[list[float]]

    def best(self) -> list[ClassScore]:
        """The first twenty, or the better half if there are fewer than forty classes."""
        return self.classes[: min(LISTED, (len(self.classes) + 1) // 2)]

    def worst(self) -> list[ClassScore]:
        """Worst first, ties by frequency; none of the best."""
        others = self.classes[len(self.best()) :]
        return sorted(others, key=lambda one: (one.average_precision, -one.positives))[:LISTED]


class ClassCounts:
    """Accumulates batches of scores. Only the top pairs grow with the number of videos.

    Args:
        num_classes: C. Keeps two int32 matrices [C, C].
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.num_classes, self.videos = num_classes, 0
        self.ranked = MAP().to(device)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64, device=device)  # scores, hits, number
        self.labelled, self.added = torch.zeros(2, num_classes**2, dtype=torch.int32, device=device)

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        """Add scores float [B, C], labels bool [B, C], and which labels were rated, bool [B, C] (None: all)."""
        self.videos += len(scores)
        self.ranked.update(scores, labels, mask)
        rated = torch.ones_like(labels) if mask is None else mask
        labels = labels & rated
        flat, hits = scores[rated].double(), labels[rated].double()
        number = (flat * BINS).long().clamp(0, BINS - 1)
        self.bins.index_add_(1, number, torch.stack([flat, hits, torch.ones_like(flat)]))

        n = labels.sum(1)
        top = scores.where(rated, -1).topk(int(n.max()), dim=1).indices  # [B, k]
        within_n = torch.arange(top.shape[1], device=top.device) < n[:, None]
        chosen = torch.zeros_like(labels).scatter_(1, top, within_n)
        rows, classes = labels.nonzero(as_tuple=True)  # [M] each: a video and one of its labels
        self._count(self.labelled, classes, labels[rows])
        itself = torch.zeros_like(labels[rows]).scatter_(1, classes[:, None], True)
        self._count(self.added, classes, chosen[rows] & (~labels[rows] | itself))

    def stats(self, infos: Sequence[ClassInfo], of_genres: MAP | None = None) -> ClassStats:
        """The statistics so far.

        Args:
            infos: the classes in index order.
            of_genres: has accumulated the genre scores of the same videos; None if no genres are known.

        Raises:
            ConfigError: a score is NaN, or nothing was rated.
        """
        scores, classes, hits, positives = self.ranked.pairs()
        try:
            precision = average_precision(scores, classes, hits, positives)
        except ValueError as error:
            raise ConfigError(f"ckpt_path: {error}") from None
        names = [info.name for info in infos]
        known = positives.nonzero().flatten().tolist()
        table = [ClassScore(names[c], float(precision[c]), int(positives[c])) for c in known]
        table.sort(key=lambda one: (-one.average_precision, -one.positives))

        frequent = positives.argsort(descending=True, stable=True)[: min(CONFUSED, len(known))]
        square = (self.num_classes, self.num_classes)
        labelled, added = (
            counts.view(square)[frequent][:, frequent].double() for counts in (self.labelled, self.added)
        )
        total = labelled.diagonal()[:, None]
        without = total - labelled
        without.diagonal().copy_(labelled.diagonal())
        confusion = [
            [a / n if n else None for a, n in zip(*row, strict=True)]
            for row in zip(added.tolist(), without.tolist(), strict=True)
        ]
        return ClassStats(
            gap=float(gap(scores, hits, positives)),
            videos=self.videos,
            classes=table,
            genres=[]
            if of_genres is None
            else genre_results(infos, TopKPredictions.of(self.ranked), TopKPredictions.of(of_genres)),
            calibration=[
                CalibrationBin(score / count, hit / count, int(count))
                for score, hit, count in self.bins.T.tolist()
                if count
            ],
            confused=[names[c] for c in frequent.tolist()],
            confusion=confusion,
            cooccurrence=(labelled / total).tolist(),
        )

    def _count(self, counts: Tensor, classes: Tensor, chosen: Tensor) -> None:
        """Add 1 at (class of row, column) for every true element of `chosen` [M, C]."""
        rows, columns = chosen.nonzero(as_tuple=True)
        places = classes[rows] * self.num_classes + columns
        counts.index_add_(0, places, torch.ones_like(places, dtype=counts.dtype))


def class_stats(
    checkpoint: Path, dataset: dict[str, Any], trusted_packages: Sequence[str] = ()
) -> ClassStats:
    """Score the validation partition with a checkpoint.

    Args:
        checkpoint: of yt8m.train. Nothing in it is executed.
        dataset: settings that are not None replace those of the checkpoint.
        trusted_packages: packages outside of this project that may define what the checkpoint names.

    Raises:
        ConfigError: the checkpoint or the data cannot be used.
        DataError: a shard is damaged.
    """
    if not checkpoint.is_file():
        raise ConfigError(f"expected the best checkpoint, found no file at {checkpoint}")
    config = run_config(read_checkpoint(checkpoint), checkpoint)
    dataset = config["dataset"] | {key: value for key, value in dataset.items() if value is not None}
    datamodule = build(dataset, "dataset", trusted=trusted_packages, seed=config["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = VideoClassifier.load_from_checkpoint(
        checkpoint, map_location=device, trusted_packages=trusted_packages
    ).eval()
    counts = ClassCounts(classifier.hparams["num_classes"], device)
    of_genres = MAP().to(device) if len(classifier.genres) else None
    try:
        # No `prepare_data`: a report must not write a dataset.
        datamodule.setup("validate")
        with torch.inference_mode():
            for batch_idx, cpu_batch in enumerate(datamodule.val_dataloader()):
                if len(cpu_batch):
                    batch = datamodule.transfer_batch_to_device(cpu_batch, device, 0)
                    scores = classifier.predict_step(batch, batch_idx)
                    counts.update(scores, classifier.labels(batch), classifier.mask(batch))
                    if of_genres is not None:
                        of_genres.update(classifier.genre_scores(scores), *classifier.genre_labels(batch))
    finally:
        datamodule.teardown("validate")
    return counts.stats(classifier.classes(), of_genres)
