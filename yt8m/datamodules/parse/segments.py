"""Segments of frame-level records, a batch at a time.

Of rated segments alone, which frames to copy is known only after the contexts of all records were read, so that happens
last; it is a small part of each video. All segments, and those with context, take whole videos.
"""

import mmap
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from yt8m.datamodules.parse.fast import CarefulRead, FastRows
from yt8m.datamodules.parse.frames import FrameReader, Lists
from yt8m.datamodules.parse.layouts import FeatureMaps, Integers, Values
from yt8m.datamodules.parse.windows import SEGMENT_FRAMES, Context, every_start, window

_STARTS, _LABELS, _SCORES = "segment_start_times", "segment_labels", "segment_scores"


class _Ratings(NamedTuple):
    """Ratings of one record in its order; the starts of its segments without repeats. Both empty if it has none."""

    starts: list[int]
    # By (start, class); of a pair that was rated twice, the last rating counts.
    pairs: dict[tuple[int, int], bool]


class RatedSegmentReader(FrameReader):
    """Reads batches of the usual frame-level records as rated segments; the arguments are those of `FrameReader`."""

    def _make_contexts(self, id_key: str, num_classes: int) -> FeatureMaps:
        return _rating_maps(id_key, self._max_frames, num_classes)

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
        ratings = dict(zip(usual, _ratings(values, contexts), strict=True))
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
        pairs = _Pairs()
        unrated = row = 0
        for position in range(len(numbers)):
            rating = None if position in unusual else ratings[position]
            if rating is not None:
                data, lists, layout = found[position]
                begin = row
                spans = [window(start, layout.frames, 0)[:2] for start in rating.starts]
                for one in layout.lists:
                    if one.column is not None:
                        content = np.ndarray(one.count, one.item, data, lists + one.start)["content"]
                        row = begin
                        for first, length in spans:
                            columns[one.column][row : row + length] = content[first : first + length]
                            row += length
                if out.dtype != np.uint8 and not np.isfinite(out[begin:row]).all():
                    row = begin
                    read_carefully(position)
                else:
                    pairs.add(rating, len(ids))
                    owners += [position] * len(spans)
                    ids += [f"{names[position]}:{start}" for start in rating.starts]
                    num_frames += [length for _, length in spans]
                    unrated += not spans
            if position in unusual:
                features = unusual[position]
                out[row : row + len(features)] = features
                row += len(features)
        return FastRows(
            out[:row],
            np.array(owners, np.int64),
            ids,
            np.array(num_frames, np.int64),
            _integers(pairs.positive),
            _integers(pairs.rated),
            unrated=unrated,
        )


class WholeVideoSegmentReader(FrameReader):
    """Reads batches of the usual frame-level records as segments, with all frames of their videos.

    Args:
        segments: `rated`, or `all` consecutive ones of a video, without ratings.
        context: frames around a segment that belong to its row, too.
        arguments: those of `FrameReader`.
    """

    def __init__(self, *arguments: Any, segments: str, context: Context):
        self._rated, self._context = segments == "rated", context
        super().__init__(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        segments = "rated" if self._rated else "all"
        return partial(type(self), segments=segments, context=self._context), self._arguments

    def _make_contexts(self, id_key: str, num_classes: int) -> FeatureMaps:
        if self._rated:
            return _rating_maps(id_key, self._max_frames, num_classes)
        return FeatureMaps(id_key, {}, {})

    def _scan(self, *arguments: Any) -> tuple[np.ndarray, Values, np.ndarray]:
        positions, values, contexts = super()._scan(*arguments)
        if self._rated:
            ratings = _ratings(values, contexts)
            good = [row for row, rating in enumerate(ratings) if rating is not None]
            values = values._replace(places=values.places[good], ids=[values.ids[row] for row in good])
            self._found = [ratings[row] for row in good]
        return positions, values, contexts

    def _labels(self, values: Values) -> tuple[Integers | None, bool]:
        return None, False

    def _read(self, numbers: Sequence[int], out: np.ndarray, careful: CarefulRead) -> FastRows:
        frames = np.zeros(len(numbers), np.int64)

        def counted(position: int) -> np.ndarray:
            features = careful(position)
            frames[position] = len(features)
            return features

        videos = super()._read(numbers, out, counted)
        frames[videos.owners] = videos.num_frames
        ids: list[str] = []
        windows: list[tuple[int, ...]] = []
        counts = []  # of segments
        pairs = _Pairs()
        for number, (name, length) in enumerate(zip(videos.ids, videos.num_frames.tolist(), strict=True)):
            starts: Sequence[int] = every_start(length)
            if self._rated:
                pairs.add(self._found[number], len(ids))
                starts = self._found[number].starts
            counts.append(len(starts))
            ids += [f"{name}:{start}" for start in starts]
            windows += [window(start, length, self._context) for start in starts]
        of_rows = np.array(windows, np.int64).reshape(-1, 4)
        return FastRows(
            videos.features,
            np.repeat(videos.owners, counts),
            ids,
            of_rows[:, 1],
            _integers(pairs.positive) if self._rated else None,
            _integers(pairs.rated) if self._rated else None,
            windows=of_rows if self._context else None,
            frames=frames if self._context else None,
            unrated=counts.count(0) if self._rated else 0,
        )


class _Pairs:
    """The rated (row, class) pairs of a batch, and those of them that are true."""

    def __init__(self) -> None:
        self.rated: list[tuple[int, int]] = []
        self.positive: list[tuple[int, int]] = []

    def add(self, rating: _Ratings, first: int) -> None:
        """Ratings of a record whose first row is ``first``."""
        row_of = {start: row for row, start in enumerate(rating.starts, start=first)}
        for (start, label), good in rating.pairs.items():
            pair = row_of[start], label
            self.rated.append(pair)
            if good:
                self.positive.append(pair)


def _rating_maps(id_key: str, max_frames: int, num_classes: int) -> FeatureMaps:
    return FeatureMaps(id_key, {_STARTS: max_frames, _LABELS: num_classes}, {_SCORES: None})


def _ratings(values: Values, contexts: np.ndarray) -> list[_Ratings | None]:
    """Ratings of the records of ``values``; None for a record that needs the careful reader."""
    number = np.arange(len(values.ids) + 1)
    starts, classes = (integers.values.tolist() for integers in values.integers)
    first_start, first_class = (
        np.searchsorted(integers.rows, number).tolist() for integers in values.integers
    )
    found: list[_Ratings | None] = []
    for record, (has_starts, has_classes, has_scores) in enumerate(values.present.tolist()):
        rating: _Ratings | None = None
        if not has_classes:
            rating = _Ratings([], {})
        elif has_starts and has_scores:
            of_starts = starts[first_start[record] : first_start[record + 1]]
            of_classes = classes[first_class[record] : first_class[record + 1]]
            begin, end = values.floats[0][record].tolist()
            if len(of_starts) == len(of_classes) == (end - begin) // 4:
                scores = np.frombuffer(contexts[begin:end].tobytes(), "<f4")
                pairs = dict(zip(zip(of_starts, of_classes, strict=True), (scores > 0).tolist(), strict=True))
                rating = _Ratings([*dict.fromkeys(of_starts)], pairs)
        found.append(rating)
    return found


def _integers(pairs: list[tuple[int, int]]) -> Integers:
    return Integers(*np.array(pairs, np.int64).reshape(-1, 2).T)
