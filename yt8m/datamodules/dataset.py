"""Indexed shards as a map-style dataset that hands out whole batches."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.example import ExampleError, Value, available, parse_example, parse_sequence
from yt8m.datamodules.shards import Place, Shards
from yt8m.datamodules.tfrecord import REMEDY, DataError, Payload, scan
from yt8m.datamodules.video_batch import VideoReader
from yt8m.errors import ConfigError

SEGMENT_FRAMES = 5  # every rated segment of YouTube-8M 2019 lasts five frames

_INDEXING_THREADS = 8
_MANY_VIDEOS = 16  # from which on reading all at once is faster than one by one


class ShardDataset(torch.utils.data.Dataset):
    """Videos of TFRecord shards, numbered from 0 through all shards in the order given.

    Args:
        paths: the shards, plain or gzip.
        features: name in the record to size, in the order of their columns: bytes per frame at frame and
            segment level, floats at video level.
        num_classes: labels are 0 to ``num_classes - 1``.
        level: ``"frame"``, ``"video"``, or ``"segment"``: a row per rated five-frame segment of frame-level
            data, or per five frames where a video has no ``segment_start_times``.
        id_key: the record's key of the video's id; 2017 and AudioSet shards use ``"video_id"``.
        max_frames: frames kept of a video.
        on_corrupt: ``"raise"`` a DataError for a record that is damaged or does not fit, or ``"skip"`` it:
            damage to the framing is reported in `faults`, all else in the `Batch` that lacks the record.
        progress: called with (shards indexed, all shards) while the constructor indexes.

    The frame count of a video is that of its first feature. A feature with more frames is cut to it; one with
    fewer is an error, as a missing frame has no value in uint8 (it is zero after dequantisation).
    Instances can be pickled and forked.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike],
        features: dict[str, int],
        num_classes: int,
        level: str = "frame",
        id_key: str = "id",
        max_frames: int = 300,
        on_corrupt: str = "raise",
        progress: Callable[[int, int], None] | None = None,
    ):
        self.paths = [os.fspath(path) for path in paths]
        self.features = dict(features)
        self.num_classes = num_classes
        self.level = level
        self.id_key = id_key
        self.max_frames = max_frames
        self.on_corrupt = on_corrupt
        self._check_config()
        self.feature_size = sum(self.features.values())
        self._names = tuple(self.features)
        ends = np.cumsum(list(self.features.values())).tolist()
        self._columns = [
            slice(end - size, end) for end, size in zip(ends, self.features.values(), strict=True)
        ]
        self.dtype = torch.float32 if level == "video" else torch.uint8

        indices = []
        with ThreadPoolExecutor(_INDEXING_THREADS) as pool:
            for found in pool.map(scan, self.paths):
                if found.faults and on_corrupt == "raise":
                    raise DataError(found.faults[0])
                indices.append(found)
                if progress:
                    progress(len(indices), len(self.paths))
        self._shards = Shards(indices)
        self._videos = VideoReader(self._shards, self.features, num_classes, id_key)
        #: One message per damaged stretch that the index had to leave out; empty with ``on_corrupt="raise"``.
        self.faults = [fault for found in indices for fault in found.faults]
        #: Records per shard, int64.
        self.shard_sizes = self._shards.sizes
        if not len(self):
            raise DataError(
                f"{self.paths[0]} @ byte 0: expected records, found none in {len(indices)} shards; {REMEDY}"
            )

    def _check_config(self) -> None:
        if not self.paths:
            raise ConfigError("expected shards, found none; check dataset.root and the glob of the partition")
        if self.level not in ("frame", "video", "segment"):
            raise ConfigError(f"expected dataset.level frame, video or segment, found {self.level!r}")
        if self.on_corrupt not in ("raise", "skip"):
            raise ConfigError(f"expected dataset.on_corrupt raise or skip, found {self.on_corrupt!r}")
        if not self.features or min(self.features.values()) < 1:
            raise ConfigError(f"expected dataset.features as name: size, found {self.features}")
        for key in ("num_classes", "max_frames"):
            if getattr(self, key) < 1:
                raise ConfigError(f"expected dataset.{key} of at least 1, found {getattr(self, key)}")

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """The records ``numbers``, in that order, as one batch in memory of its own.

        With ``on_corrupt="skip"`` records that do not fit are left out, so the batch may be smaller, even empty.
        """
        return self.read_into(numbers)

    def read_into(self, numbers: Sequence[int], buffer: torch.Tensor | None = None) -> Batch:
        """The records ``numbers`` as one batch whose ``features`` are a view of ``buffer``.

        ``buffer`` is a contiguous CPU tensor [capacity, D], uint8 (video level: float32), that the caller owns
        and may use again when the batch is done with; `max_rows` says what capacity always suffices, and a
        smaller one is a ValueError. Raises IndexError for a number that is not in the dataset.
        """
        batch = self._read_videos(numbers, buffer) if self.level == "video" else None
        if batch is None:
            batch = self._read(self._shards.locate(numbers), buffer)
        if self.level == "video" and not _all_finite(batch.features.numpy()):
            batch = self._read(self._shards.locate(numbers), buffer, finite=True)
        return batch

    def max_rows(self, numbers: Sequence[int]) -> int:
        """Rows of features that the records ``numbers`` can have at most, known from their sizes alone."""
        return len(numbers) if self.level == "video" else self._max_rows(self._shards.locate(numbers))

    def will_need(self, first: int, last: int) -> None:
        """Ask the system to read records ``first`` to ``last`` (excluded) into its cache, without waiting."""
        self._shards.will_need(first, last)

    @property
    def record_sizes(self) -> np.ndarray:
        """Bytes of every record with its framing, int64 [R]: at frame level a measure of a video's length."""
        return self._shards.lookup(np.arange(len(self)))[2]

    def _max_rows(self, places: list[Place]) -> int:
        frames = sum(min(place.size // self.feature_size, self.max_frames) for place in places)
        return frames * (SEGMENT_FRAMES if self.level == "segment" else 1)

    def _read_videos(self, numbers: Sequence[int], buffer: torch.Tensor | None) -> Batch | None:
        """The records ``numbers`` all at once; None where that cannot be done, or brings nothing."""
        if len(numbers) < _MANY_VIDEOS:
            return None
        if buffer is None:
            buffer = torch.empty(len(numbers), self.feature_size, dtype=self.dtype)
        _check_room(buffer, len(numbers))
        features = buffer[: len(numbers)]
        videos = self._videos.read(numbers, features.numpy())
        if videos is None:
            return None
        index = None if videos.rows is None else self._pairs(videos.rows, videos.labels)
        return Batch(videos.ids, features, torch.ones(len(numbers), dtype=torch.int64), index)

    def _read(self, places: list[Place], buffer: torch.Tensor | None, finite: bool = False) -> Batch:
        if self.level == "frame":
            # Frames are copied record by record, while a record is in the processor's cache.
            rows = self._max_rows(places)
            if buffer is None:
                buffer = torch.empty(rows, self.feature_size, dtype=torch.uint8)
            _check_room(buffer, rows)
        draft = _Draft(finite, None if buffer is None else buffer.numpy())
        add = getattr(self, f"_add_{self.level}")
        for place in places:
            try:
                record = self._shards.record(place)
                try:
                    add(draft, record)
                except ExampleError as error:
                    raise DataError(f"{self._shards.describe(place)}: {error}; {REMEDY}") from error
                except _Misfit as error:
                    raise DataError(f"{self._shards.describe(place)}: {error}") from error
            except DataError as error:
                if self.on_corrupt == "raise":
                    raise
                draft.faults.append(str(error))
        if buffer is None:
            buffer = torch.empty(draft.rows, self.feature_size, dtype=self.dtype)
        _check_room(buffer, draft.rows)
        features = buffer[: draft.rows]
        if draft.parts:
            np.concatenate(draft.parts, out=features.numpy().reshape(-1))
        return Batch(
            draft.ids,
            features,
            torch.tensor(draft.num_frames, dtype=torch.int64),
            self._pairs(*_flat(draft.classes)) if draft.labelled else None,
            self._pairs(*_flat(draft.rated)) if draft.rated else None,
            draft.faults,
        )

    def _add_frame(self, draft: "_Draft", record: Payload) -> None:
        keys = (self.id_key, "labels")
        (name, labels), frames = parse_sequence(record.data, keys, self._names, record.start, record.end)
        name = self._id(name, record)
        classes = self._classes(labels, draft)
        count = self._count(frames, record)
        rows = draft.buffer[draft.rows : draft.rows + count]
        for columns, part in zip(self._columns, frames, strict=True):
            rows[:, columns] = part[:count]
        draft.add(name, count, classes)

    def _add_video(self, draft: "_Draft", record: Payload) -> None:
        keys = (self.id_key, "labels", *self._names)
        name, labels, *values = parse_example(record.data, keys, record.start, record.end)
        name = self._id(name, record)
        classes = self._classes(labels, draft)
        for (feature, size), value in zip(self.features.items(), values, strict=True):
            if value is None:
                raise self._missing(feature, f"{size} floats", record)
            if not isinstance(value, np.ndarray) or len(value) != size:
                raise _Misfit(
                    f"expected {feature} of {size} floats, found {_describe(value)}; set dataset.features"
                )
            if draft.finite and not np.isfinite(value).all():
                raise _Misfit(f"expected {feature} of finite numbers, found NaN or infinity; {REMEDY}")
        draft.parts += values
        draft.add(name, 1, classes)

    def _add_segment(self, draft: "_Draft", record: Payload) -> None:
        keys = (self.id_key, "segment_start_times", "segment_labels", "segment_scores")
        (name, *ratings), frames = parse_sequence(record.data, keys, self._names, record.start, record.end)
        name = self._id(name, record)
        count = self._count(frames, record)
        starts, classes, scores = self._ratings(*ratings, draft, count)
        for start in dict.fromkeys(starts):  # distinct, in the record's order
            stop = min(start + SEGMENT_FRAMES, count)
            draft.parts.append(np.concatenate([part[start:stop] for part in frames], axis=1).ravel())
            if classes is None:
                draft.add(f"{name}:{start}", stop - start, None)
            else:
                here = [place for place, other in enumerate(starts) if other == start]
                positive = [classes[place] for place in here if scores[place] > 0]
                draft.add(f"{name}:{start}", stop - start, positive, [classes[place] for place in here])

    def _ratings(
        self, starts: Value, labels: Value, scores: Value, draft: "_Draft", count: int
    ) -> tuple[Sequence[int], list[int] | None, Value]:
        """Start, class and score of each rating in a video of ``count`` frames; no classes where it has none."""
        classes = self._classes(labels, draft, "segment_labels")
        if starts is None and classes is None:
            return range(0, count, SEGMENT_FRAMES), None, None
        if not _integers(starts):
            raise _Misfit(f"expected segment_start_times of integers, found {_describe(starts)}; {REMEDY}")
        if classes is not None and not (
            isinstance(scores, np.ndarray) and len(starts) == len(classes) == len(scores)
        ):
            raise _Misfit(
                "expected segment_start_times, segment_labels and segment_scores (floats) of one length, "
                f"found {len(starts)}, {_describe(labels)} and {_describe(scores)}; {REMEDY}"
            )
        for start in starts:
            if not 0 <= start < count:
                raise _Misfit(f"expected segments to start in 0..{count - 1}, found one at {start}; {REMEDY}")
        return starts, classes, scores

    def _id(self, value: Value, record: Payload) -> str:
        if value is None:
            raise _Misfit(f"expected an id in {self.id_key}, found keys {_keys(record)}; set dataset.id_key")
        if len(value) != 1 or not isinstance(value[0], bytes):
            raise _Misfit(f"expected {self.id_key} of one byte string, found {_describe(value)}; {REMEDY}")
        try:
            return value[0].decode()
        except UnicodeDecodeError:
            raise _Misfit(f"expected {self.id_key} in UTF-8, found {value[0]!r}; {REMEDY}") from None

    def _classes(self, value: Value, draft: "_Draft", key: str = "labels") -> list[int] | None:
        if draft.labelled is not None and draft.labelled != (value is not None):
            raise _Misfit(
                f"expected {key} in all records of a batch or in none, found {_describe(value)} unlike in the "
                f"records before; read labelled and unlabelled shards apart"
            )
        if value is None:
            return None
        if not _integers(value):
            raise _Misfit(f"expected {key} of integers, found {_describe(value)}; {REMEDY}")
        for label in value:
            if not 0 <= label < self.num_classes:
                raise _Misfit(
                    f"expected {key} in 0..{self.num_classes - 1}, found {label}; set dataset.num_classes"
                )
        return value

    def _count(self, frames: list[np.ndarray | None], record: Payload) -> int:
        """Frames to keep of a video, whose features are checked."""
        count = 0
        for (feature, size), part in zip(self.features.items(), frames, strict=True):
            if part is None:
                raise self._missing(feature, f"{size} bytes per frame", record)
            count = count or min(len(part), self.max_frames)
            if len(part) < max(count, 1):
                raise _Misfit(
                    f"expected at least {max(count, 1)} frames of {feature}, found {len(part)}; {REMEDY}"
                )
            if part.shape[1] != size:
                raise _Misfit(
                    f"expected {size} bytes per frame of {feature}, found {part.shape[1]}; set dataset.features"
                )
        return count

    def _missing(self, feature: str, size: str, record: Payload) -> "_Misfit":
        return _Misfit(
            f"expected {feature} of {size}, found keys {_keys(record)}; "
            "set dataset.features, or choose a dataset of this level"
        )

    def _pairs(self, rows: np.ndarray, classes: np.ndarray) -> torch.Tensor:
        """Distinct (row, class) pairs in rising order, int64 [M, 2]."""
        pairs = rows * self.num_classes + classes
        if not (pairs[1:] > pairs[:-1]).all():  # as they nearly always are
            rows, classes = np.divmod(np.unique(pairs), self.num_classes)
        return torch.from_numpy(np.stack([rows, classes], axis=1))


class _Misfit(Exception):
    """A sound record that does not fit the dataset; the message lacks only the place."""


class _Draft:
    """A batch in the making."""

    def __init__(self, finite: bool, buffer: np.ndarray | None):
        self.finite = finite  # whether every record is searched for NaN
        self.buffer = buffer
        self.rows = 0  # of features, so far
        self.parts: list[np.ndarray] = []  # features in order, where not in the buffer yet
        self.ids: list[str] = []
        self.num_frames: list[int] = []
        self.labelled: bool | None = None  # as the first record has it
        self.classes: list[list[int]] = []
        self.rated: list[list[int]] = []
        self.faults: list[str] = []

    def add(self, name: str, frames: int, classes: list[int] | None, rated: list[int] | None = None) -> None:
        self.ids.append(name)
        self.num_frames.append(frames)
        self.rows += frames
        self.labelled = classes is not None
        self.classes.append(classes)
        if rated is not None:
            self.rated.append(rated)


def _all_finite(features: np.ndarray) -> bool:
    # A sum tells at once, and if too large it only costs a closer look. NumPy's, as torch's runs in several threads,
    # which hangs in a process that was forked from one where it ran before.
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(features.sum())


def _flat(classes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Row and class of each label."""
    rows = np.repeat(np.arange(len(classes)), [len(row) for row in classes])
    return rows, np.fromiter(chain.from_iterable(classes), np.int64)


def _check_room(buffer: torch.Tensor, rows: int) -> None:
    if len(buffer) < rows:
        raise ValueError(f"expected a buffer of at least {rows} rows (see max_rows), found {len(buffer)}")


def _integers(value: Value) -> bool:
    return isinstance(value, list) and not (value and isinstance(value[0], bytes))


def _describe(value: Value) -> str:
    if value is None:
        return "none"
    kind = "floats" if isinstance(value, np.ndarray) else "integers" if _integers(value) else "byte strings"
    return f"{len(value)} {kind}"


def _keys(record: Payload) -> str:
    return ", ".join(available(record.data[record.start : record.end]))
