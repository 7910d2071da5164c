"""Accumulators, each for one pass over a dataset. Their size depends on C and D, not on the number of videos."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from yt8m.explore.vectors import Vectors, Video

SAMPLE = 2000  # videos kept for the projection
# Bin edges of the score histograms, in standard deviations; the outer bins also count what is beyond.
EDGES = np.linspace(-4, 12, 161)


class Sample:
    """A uniform random sample of up to `size` videos (reservoir sampling, Vitter's algorithm R).

    `vectors` is float32 [size, D]; `classes` has a list of class numbers per video.
    """

    def __init__(self, size: int, feature_size: int, seed: int):
        self._vectors = np.empty((size, feature_size), np.float32)
        self.classes: list[list[int]] = []
        self._seen = 0
        self._rng = np.random.default_rng(seed)

    @property
    def vectors(self) -> np.ndarray:
        return self._vectors[: len(self.classes)]

    def add(self, vectors: np.ndarray, classes: Sequence[list[int]]) -> None:
        numbers = np.arange(self._seen, self._seen + len(vectors))
        self._seen += len(vectors)
        places = np.where(numbers < len(self._vectors), numbers, self._rng.integers(0, numbers + 1))
        for row in np.flatnonzero(places < len(self._vectors)).tolist():
            self._vectors[places[row]] = vectors[row]
            if places[row] == len(self.classes):
                self.classes.append(classes[row])
            else:
                self.classes[places[row]] = classes[row]


class Overview:
    """First pass: counts, moments, the sample, one video's frames, and a mean vector per class.

    The mean vectors cover every other video only: the second pass scores the rest.

    Args:
        num_classes: C.
        feature_size: D.
        level: `frame`, `video` or `segment`.
        max_frames: upper bound of the frames of a video.
        seed: of the sample.
    """

    def __init__(self, num_classes: int, feature_size: int, level: str, max_frames: int, seed: int = 0):
        self.level = level
        self.rows = "segments" if level == "segment" else "videos"  # what is counted
        self.videos = 0
        self.unrated = 0  # videos that were left out because none of their segments is rated
        self.labelled = 0  # videos with known labels, even if they have none
        self.label_counts = np.zeros(num_classes, np.int64)  # [C]
        self.labels_per_video = np.zeros(num_classes + 1, np.int64)  # videos by number of labels
        self.frames_per_video = np.zeros(max_frames + 1, np.int64)  # videos by number of frames
        self.sample = Sample(SAMPLE, feature_size, seed)
        self.video: Video | None = None
        self._sums = np.zeros((2, feature_size))  # of the values, and of their squares
        self._half = Half(num_classes, feature_size)

    def add(self, batch: Vectors) -> None:
        """Count a batch. Keeps none of its memory but the frames of the first video that has some."""
        self.unrated += batch.unrated
        if not len(batch):
            return
        vectors = batch.features.numpy()
        classes: list[list[int]] = [[] for _ in range(len(batch))]
        if batch.label_index is not None:
            rows, columns = batch.label_index.numpy().T
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                classes[row].append(column)
            self.labelled += len(batch)
            self.label_counts += np.bincount(columns, minlength=len(self.label_counts))
            numbers = [len(of_video) for of_video in classes]
            self.labels_per_video += np.bincount(numbers, minlength=len(self.labels_per_video))
            self._half.add(vectors, batch.label_index)
        lengths = batch.num_frames.numpy()
        self.frames_per_video += np.bincount(lengths, minlength=len(self.frames_per_video))
        self._sums += vectors.sum(axis=0, dtype=np.float64), np.square(vectors).sum(axis=0, dtype=np.float64)
        self.sample.add(vectors, classes)
        self.videos += len(batch)
        self.video = self.video or batch.video

    @property
    def mean(self) -> np.ndarray:
        """Mean of the video vectors, float64 [D]."""
        mean: np.ndarray = self._sums[0] / self.videos
        return mean

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the video vectors, float64 [D]."""
        variance: np.ndarray = self._sums[1] / self.videos - self.mean**2
        deviation: np.ndarray = np.sqrt(np.maximum(variance, 0))
        return deviation

    def top(self, number: int) -> np.ndarray:
        """The most frequent classes that occur, in descending order, int64 [up to number]."""
        order = np.argsort(-self.label_counts, kind="stable")[:number]
        return order[self.label_counts[order] > 0]

    def class_means(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means with and without each class over every other video, float64 [K, D]; NaN if there is no such video."""
        return self._half.means(classes)


class Half:
    """Sums of the vectors per class over every other labeled video: float64 [C, D]."""

    def __init__(self, num_classes: int, feature_size: int):
        self.sums = torch.zeros(num_classes, feature_size, dtype=torch.float64)
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.total = np.zeros(feature_size)
        self.videos = 0
        self._seen = 0

    def add(self, vectors: np.ndarray, label_index: torch.Tensor) -> None:
        first = self._seen % 2
        self._seen += len(vectors)
        chosen = vectors[first::2]
        rows, columns = label_index[label_index[:, 0] % 2 == first].T
        self.sums.index_add_(0, columns, torch.from_numpy(vectors)[rows].double())
        self.counts += torch.bincount(columns, minlength=len(self.counts))
        self.total += chosen.sum(axis=0, dtype=np.float64)
        self.videos += len(chosen)

    def means(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums, counts = self.sums[classes].numpy(), self.counts[classes].numpy()[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums / counts, (self.total - sums) / (self.videos - counts)


class ClassScores:
    """Second pass: which of the top classes occur together, and how well each feature separates them.

    A video's score for a class is its position along the direction from the mean without the class to the mean with
    it, divided by the variance of each dimension (a linear discriminant with a diagonal covariance). Directions are
    fitted on every other video; the histograms count the rest.

    Args:
        overview: the finished first pass over the same videos in the same order.
        classes: int64 [K].
        features: F names and sizes.
    """

    def __init__(self, overview: Overview, classes: np.ndarray, features: dict[str, int]):
        self.classes = classes
        self.together = np.zeros((len(classes), len(classes)), np.int64)  # [K, K] videos with both
        # The third axis: videos without the class, and with it.
        self.histograms = np.zeros((len(features), len(classes), 2, len(EDGES) - 1), np.int64)
        self._seen = 0
        self._place = np.full(len(overview.label_counts), -1)
        self._place[classes] = np.arange(len(classes))
        present, absent = overview.class_means(classes)
        variance = np.maximum(overview.deviation**2, 1e-12)
        direction = np.nan_to_num((present - absent) / variance)  # [K, D]
        blocks, end = [], 0
        for size in features.values():
            block = np.zeros_like(direction)
            block[:, end : end + size] = direction[:, end : end + size]
            blocks.append(block)
            end += size
        self._directions = np.concatenate(blocks).T  # [D, F K]
        scores = overview.sample.vectors @ self._directions
        self._center, self._scale = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-12)

    def add(self, batch: Vectors) -> None:
        """Count a batch. Keeps none of its memory."""
        if not len(batch) or batch.label_index is None:
            return
        rows, columns = batch.label_index.numpy().T
        chosen = self._place[columns] >= 0
        member = np.zeros((len(batch), len(self.classes)), bool)  # [B, K]
        member[rows[chosen], self._place[columns[chosen]]] = True
        self.together += member.T.astype(np.int64) @ member
        first = 1 - self._seen % 2
        self._seen += len(batch)
        member = member[first::2]
        vectors = batch.features.numpy()[first::2]
        scores = (vectors @ self._directions - self._center) / self._scale
        bins = np.clip(np.searchsorted(EDGES, scores, "right") - 1, 0, len(EDGES) - 2)
        bins = bins.reshape(len(member), -1, len(self.classes))  # [B, F, K]
        feature, kind = np.ogrid[: bins.shape[1], : len(self.classes)]
        np.add.at(self.histograms, (feature, kind, member[:, None].astype(int), bins), 1)

    def conditional(self) -> np.ndarray:
        """P(column | row): share of the videos of class i that also have class j, float64 [K, K]."""
        return self.together / np.diagonal(self.together)[:, None]

    def separation(self) -> np.ndarray:
        """Chance that a video with the class scores higher than one without it (AUC), float64 [F, K].

        Ties, within a bin of the histogram, count half. NaN if there are no videos of one kind.
        """
        absent, present = self.histograms[:, :, 0], self.histograms[:, :, 1]
        below = np.cumsum(absent, axis=-1) - absent / 2
        with np.errstate(invalid="ignore"):
            chance: np.ndarray = (present * below).sum(-1) / (present.sum(-1) * absent.sum(-1))
        return chance


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates on the first two principal components, [n, 2], and each one's share of the variance, [2].

    A component's sign is arbitrary; here its largest weight is positive.
    """
    centered = (vectors - vectors.mean(axis=0)).astype(np.float64)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return centered @ axes.T, singular[:2] ** 2 / max((singular**2).sum(), 1e-12)


def as_json(overview: Overview, scores: ClassScores | None, skipped: int) -> dict[str, Any]:
    """The plots' numbers; at segment level, videos are segments, but those of `unrated_videos` are not.

    Histograms map a number of labels or frames to a count, without zeros.
    """

    def histogram(counts: np.ndarray) -> dict[int, int]:
        return {number: counts[number].item() for number in np.flatnonzero(counts).tolist()}

    return {
        "level": overview.level,
        "videos": overview.videos,
        "unrated_videos": overview.unrated,
        "labelled": overview.labelled,
        "records_left_out": skipped,
        "videos_per_class": histogram(overview.label_counts),
        "labels_per_video": histogram(overview.labels_per_video),
        "frames_per_video": histogram(overview.frames_per_video) if overview.level != "video" else None,
        "feature_mean": overview.mean.tolist(),
        "feature_deviation": overview.deviation.tolist(),
        "top_classes": None if scores is None else scores.classes.tolist(),
        "together": None if scores is None else scores.together.tolist(),
        "separation": None
        if scores is None
        else [[auc if np.isfinite(auc) else None for auc in row] for row in scores.separation().tolist()],
    }
