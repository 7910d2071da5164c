"""The submission of the segment challenge: the best segments of each class, from scores as they come."""

from pathlib import Path

import numpy as np

from yt8m.metric_table import MAX_SEGMENTS
from yt8m.predict.writers import Predictions, Writer

_ROWS = 2048  # segments that are ranked at a time
_ROW_BITS, _LAST_ROW = np.uint64(32), np.uint64(2**32 - 1)


class SegmentRanking:
    """The `limit` best segments of each of K classes; equal scores in the order in which they came.

    Memory: 9 bytes per class and place, and the segments' ids. A segment and its score are one number of 64 bits, the
    score first, so the best are found by partitioning plain arrays.

    Args:
        number: K.
        limit: segments to keep of a class.
    """

    def __init__(self, number: int, limit: int = MAX_SEGMENTS):
        self._limit = limit
        room = limit + max(limit // 8, 1)  # so that a class is cut once for many new segments
        self._keys = np.empty((number, room), np.uint64)  # whose pages are allocated when first written
        self._counts = np.zeros(number, np.int64)
        self._floors = np.full(number, -np.inf, np.float32)  # what a further segment has to exceed
        self._ids: list[np.ndarray] = []  # bytes
        self._pending: list[tuple[list[str], np.ndarray]] = []
        self._rows = self._num_pending = 0

    def add(self, ids: list[str], scores: np.ndarray) -> None:
        """Add segments with their scores, float32 [B, K], at least 0."""
        self._pending.append((ids, scores))
        self._num_pending += len(ids)
        if self._num_pending >= _ROWS:
            self._flush()

    def best(self, number: int) -> list[bytes]:
        """Ids of the best segments of class number `number`, best first."""
        self._flush()
        if len(self._ids) > 1:
            self._ids = [np.concatenate(self._ids)]
        keys = np.sort(self._keys[number, : self._counts[number]])[-self._limit :][::-1]
        found: list[bytes] = self._ids[0][_LAST_ROW - (keys & _LAST_ROW)].tolist() if len(keys) else []
        return found

    def _flush(self) -> None:
        if not self._num_pending:
            return
        ids = [segment.encode() for names, _ in self._pending for segment in names]
        self._ids.append(np.array(ids))
        # Contiguous by class, and without -0, whose bits are those of a large number.
        scores = np.concatenate([scores for _, scores in self._pending]).T + np.float32(0)
        scores = np.ascontiguousarray(scores)
        self._pending, self._num_pending = [], 0
        rows = _LAST_ROW - np.arange(self._rows, self._rows + len(ids), dtype=np.uint64)
        self._rows += len(ids)
        keys = scores.view(np.uint32).astype(np.uint64) << _ROW_BITS | rows
        better = scores > self._floors[:, None]
        for number, (of_class, chosen) in enumerate(zip(keys, better, strict=True)):
            new = of_class[chosen]
            while len(new):
                count = self._counts[number]
                part = new[: self._keys.shape[1] - count]
                self._keys[number, count : count + len(part)] = part
                self._counts[number] = count + len(part)
                new = new[len(part) :]
                if self._counts[number] == self._keys.shape[1]:
                    self._cut(number)

    def _cut(self, number: int) -> None:
        """Keep the best `limit` segments of a class."""
        keys = self._keys[number]
        extra = len(keys) - self._limit
        kept = np.partition(keys, extra)[extra:]
        keys[: self._limit] = kept
        self._counts[number] = self._limit
        self._floors[number] = (kept[:1] >> _ROW_BITS).astype(np.uint32).view(np.float32)[0]


class SegmentsWriter(Writer):
    """The CSV of the 2019 challenge: `class,id:start id:start …` by falling score, 100,000 per class at most.

    `write` takes scores of all `classes`, in their order. The file is written by `close`.

    Args:
        path, names, genres: see `Writer`.
        classes: in the order of the lines.
        limit: segments of a class.
    """

    def __init__(
        self,
        path: Path,
        names: list[str],
        genres: list[str],
        classes: list[int],
        limit: int = MAX_SEGMENTS,
    ):
        super().__init__(path, names, genres)
        self.classes, self._ranking = classes, SegmentRanking(len(classes), limit)

    def write(self, predictions: Predictions) -> None:
        self._ranking.add(predictions.ids, predictions.scores)

    def close(self) -> None:
        self.file.write("Class,Segments\n")
        for number, label in enumerate(self.classes):
            if best := self._ranking.best(number):
                self.file.write(f"{label},{b' '.join(best).decode()}\n")
        self.file.close()
