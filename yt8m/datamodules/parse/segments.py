"""Segments of frame-level records, a batch at a time.

Which frames to copy is known only after the contexts of all records were read, so that happens last; it is a small
part of each video.
"""

import mmap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yt8m.datamodules.parse.fast import CarefulRead, FastRows
from yt8m.datamodules.parse.frames import FrameReader, Lists
from yt8m.datamodules.parse.layouts import FeatureMaps, Integers, Values
from yt8m.datamodules.parse.records import SEGMENT_FRAMES

_STARTS, _LABELS, _SCORES = "segment_start_times", "segment_labels", "segment_scores"


class _Ratings(NamedTuple):
    """Ratings of one record, in its order; without any, only the starts of consecutive segments."""

    starts: Sequence[int]
    classes: list[int] | None = None
    positive: list[bool] | None = None


class SegmentReader(FrameReader):
    """Reads batches of the usual frame-level records as segments; the arguments are those of `FrameReader`."""

    def _make_contexts(self, id_key: str, num_classes: int) -> FeatureMaps:
        return FeatureMaps(id_key, {_STARTS: self._max_frames, _LABELS: num_classes}, {_SCORES: None})

    def _read(self, numbers: Sequence[int], out: np.ndarray, careful: CarefulRead) -> FastRows:
        """As `FrameReader._read`; if ``out`` is too small, the features get memory of their own."""
        found: dict[int, tuple[mmap.mmap, int, Lists]] = {}
        unusual: dict[int, np.ndarray] = {}

        def remember(position: int, data: mmap.mmap, lists: int, layout: Lists) -> bool:
            found[position] = data, lists, layout
            return all(
                np.ndarray(one.count, one.item, data, lists + one.start)["header"].tobytes() == one.headers
                for one in layout.lists
            )

        def read_carefully(position: int) -> None:
            unusual[position] = careful(position)

        positions, values, contexts = self._scan(numbers, remember, read_carefully)
        usual = positions[values.places].tolist()
        frames = [found[position][2].frames for position in usual]
        ratings = dict(zip(usual, _ratings(values, contexts, frames), strict=True))
        names = dict(zip(usual, values.ids, strict=True))
        for position in positions.tolist():
            if ratings.get(position) is None:
                read_carefully(position)

        rows = sum(map(len, unusual.values()))
        rows += sum(SEGMENT_FRAMES * len(rating.starts) for rating in ratings.values() if rating)
        if rows > len(out):
            out = np.empty((rows, out.shape[1]), out.dtype)
        columns = self._columns(out)
        owners: list[int] = []
        ids: list[str] = []
        num_frames: list[int] = []
        labels: list[tuple[int, int]] = []
        rated: list[tuple[int, int]] = []
        labeled = set()
        row = 0
        for position in range(len(numbers)):
            rating = None if position in unusual else ratings[position]
            if rating is not None:
                data, lists, layout = found[position]
                begin = row
                segments = {start: min(SEGMENT_FRAMES, layout.frames - start) for start in rating.starts}
                for one in layout.lists:
                    if one.column is not None:
                        content = np.ndarray(one.count, one.item, data, lists + one.start)["content"]
                        row = begin
                        for start, length in segments.items():
                            columns[one.column][row : row + length] = content[start : start + length]
                            row += length
                if out.dtype != np.uint8 and not np.isfinite(out[begin:row]).all():
                    row = begin
                    read_carefully(position)
                else:
                    place = dict(zip(segments, range(len(ids), len(ids) + len(segments)), strict=True))
                    owners += [position] * len(segments)
                    ids += [f"{names[position]}:{start}" for start in segments]
                    num_frames += segments.values()
                    labeled.add(rating.classes is not None)
                    if rating.classes is not None:
                        pairs = [(place[s], c) for s, c in zip(rating.starts, rating.classes, strict=True)]
                        rated += pairs
                        labels += [pair for pair, good in zip(pairs, rating.positive, strict=True) if good]
            if position in unusual:
                features = unusual[position]
                out[row : row + len(features)] = features
                row += len(features)
        return FastRows(
            out[:row],
            np.array(owners, np.int64),
            ids,
            np.array(num_frames, np.int64),
            _integers(labels) if True in labeled else None,
            _integers(rated) if True in labeled else None,
            mixed=len(labeled) > 1,
        )


def _ratings(values: Values, contexts: np.ndarray, frames: list[int]) -> list[_Ratings | None]:
    """Ratings of the records of ``values``, which have so many frames; None for one that needs the careful reader."""
    number = np.arange(len(values.ids) + 1)
    starts, classes = (integers.values.tolist() for integers in values.integers)
    first_start, first_class = (
        np.searchsorted(integers.rows, number).tolist() for integers in values.integers
    )
    found: list[_Ratings | None] = []
    for record, (has_starts, has_classes, has_scores) in enumerate(values.present.tolist()):
        of_starts = starts[first_start[record] : first_start[record + 1]]
        of_classes = classes[first_class[record] : first_class[record + 1]]
        begin, end = values.floats[0][record].tolist()
        rating: _Ratings | None = None
        if not has_starts and not has_classes:
            rating = _Ratings(range(0, frames[record], SEGMENT_FRAMES))
        elif has_starts and max(of_starts, default=0) < frames[record]:
            if not has_classes:
                rating = _Ratings(of_starts)
            elif has_scores and len(of_starts) == len(of_classes) == (end - begin) // 4:
                scores = np.frombuffer(contexts[begin:end].tobytes(), "<f4")
                rating = _Ratings(of_starts, of_classes, (scores > 0).tolist())
        found.append(rating)
    return found


def _integers(pairs: list[tuple[int, int]]) -> Integers:
    return Integers(*np.array(pairs, np.int64).reshape(-1, 2).T)
