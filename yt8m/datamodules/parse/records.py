"""The careful reader: one record at a time, accepted, rejected, and interpreted as protobuf does, with the reason."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yt8m.datamodules.parse.windows import Context, Window, every_start, window
from yt8m.datamodules.parse.wire import (
    BYTES,
    FLOATS,
    ExampleError,
    Value,
    available,
    parse_example,
    parse_sequence,
)
from yt8m.datamodules.shards import RecordLocation, Shards
from yt8m.datamodules.tfrecord import REMEDY
from yt8m.errors import DataError


class SchemaError(Exception):
    """An undamaged record that does not fit the dataset; the message lacks only the file and offset."""


class Rows(NamedTuple):
    """What one record contributes to a batch: one row at frame and video level, else one row per segment.

    ``features`` is [N, D], the frames of all rows one after another; ``classes`` and ``rated`` have a list of class
    numbers per row, or are None for unlabeled (unrated) records.
    """

    ids: list[str]
    num_frames: list[int]
    features: np.ndarray
    classes: list[list[int]] | None
    rated: list[list[int]] | None = None
    windows: list[Window] | None = None
    unrated: bool = False


class RecordReader:
    """Reads records of any layout; the arguments are those of `ShardDataset`, ``dtype`` that of a feature."""

    def __init__(
        self,
        shards: Shards,
        features: dict[str, int],
        num_classes: int,
        level: str,
        id_key: str,
        max_frames: int,
        dtype: np.dtype,
        segments: str = "rated",
        context: Context = 0,
    ):
        self._segments, self._context = segments, context
        self._shards = shards
        self._features = features
        self._num_classes = num_classes
        self._level = level
        self._id_key = id_key
        self._max_frames = max_frames
        self._dtype = dtype

    def read(self, location: RecordLocation) -> Rows:
        """The rows of one record.

        Raises DataError for one that is damaged or does not fit, and ChangedError if its shard changed since it was
        indexed.
        """
        record = self._shards.record(location)
        try:
            if self._level == "video":
                return self._read_video(record)
            return self._read_frames(record) if self._level == "frame" else self._read_segments(record)
        except ExampleError as error:
            raise DataError(f"{self._shards.describe(location)}: {error}; {REMEDY}") from error
        except SchemaError as error:
            raise DataError(f"{self._shards.describe(location)}: {error}") from error

    def _read_frames(self, record: bytes) -> Rows:
        (name, labels), frames = self._parse(record, (self._id_key, "labels"))
        name = self._id(name, record)
        classes = self._classes(labels)
        count = self._count(frames, record)
        features = self._finite(np.concatenate([part[:count] for part in frames], axis=1))
        return Rows([name], [count], features, None if classes is None else [classes])

    def _read_video(self, record: bytes) -> Rows:
        keys = (self._id_key, "labels", *self._features)
        name, labels, *values = parse_example(record, keys)
        name = self._id(name, record)
        classes = self._classes(labels)
        for (feature, size), value in zip(self._features.items(), values, strict=True):
            if value is None:
                raise self._missing(feature, f"{size} floats", record)
            if not isinstance(value, np.ndarray) or len(value) != size:
                raise SchemaError(
                    f"expected {feature} of {size} floats, found {_describe(value)}; set dataset.features"
                )
            self._finite(value, feature)
        return Rows([name], [1], np.concatenate(values)[None], None if classes is None else [classes])

    def _read_segments(self, record: bytes) -> Rows:
        keys = (self._id_key, "segment_start_times", "segment_labels", "segment_scores")
        (name, *ratings), frames = self._parse(record, keys)
        name = self._id(name, record)
        count = self._count(frames, record)
        ratings_of: dict[int, dict[int, bool]] = {}  # start → class → whether it is true
        if self._segments == "all":
            ratings_of = {start: {} for start in every_start(count)}
        else:
            # Of a pair that was rated twice, the last rating counts, as in the reference.
            for start, label, good in self._ratings(*ratings):
                ratings_of.setdefault(start, {})[label] = good
        windows = [window(start, count, self._context) for start in ratings_of]
        ids = [f"{name}:{start}" for start in ratings_of]
        if self._context:
            features = self._finite(np.concatenate([part[:count] for part in frames], axis=1))
        else:
            empty = np.zeros((0, sum(self._features.values())), self._dtype)
            spans = [slice(one.first, one.first + one.count) for one in windows]
            parts = [np.concatenate([part[span] for part in frames], axis=1) for span in spans]
            features = self._finite(np.concatenate([empty, *parts]))
        rows = Rows(ids, [one.count for one in windows], features, None)
        if self._context:
            rows = rows._replace(windows=windows)
        if self._segments == "all":
            return rows
        positive = [[label for label, good in rated.items() if good] for rated in ratings_of.values()]
        return rows._replace(
            classes=positive, rated=[[*rated] for rated in ratings_of.values()], unrated=not ratings_of
        )

    def _parse(self, record: bytes, keys: Sequence[str]) -> tuple[list[Value], list[np.ndarray | None]]:
        kind = BYTES if self._dtype == np.uint8 else FLOATS
        return parse_sequence(record, keys, tuple(self._features), kind)

    def _ratings(self, starts: Value, labels: Value, scores: Value) -> list[tuple[int, int, bool]]:
        """Start, class, and truth of each rating, in the record's order; none of a video that was not rated."""
        classes = self._classes(labels, "segment_labels")
        if starts is None and classes is None:
            return []
        if not _integers(starts):
            raise SchemaError(
                f"expected segment_start_times of integers, found {_describe(starts)}; {REMEDY}"
            )
        if classes is None:
            return []
        if not (isinstance(scores, np.ndarray) and len(starts) == len(classes) == len(scores)):
            raise SchemaError(
                "expected segment_start_times, segment_labels and segment_scores (floats) of one length, "
                f"found {len(starts)}, {_describe(labels)} and {_describe(scores)}; {REMEDY}"
            )
        for start in starts:
            if not 0 <= start < self._max_frames:
                raise SchemaError(
                    f"expected segments to start in 0..{self._max_frames - 1}, found one at {start}; set "
                    "dataset.max_frames"
                )
        return [*zip(starts, classes, (scores > 0).tolist(), strict=True)]

    def _id(self, value: Value, record: bytes) -> str:
        if value is None:
            raise SchemaError(
                f"expected an id in {self._id_key}, found keys {_keys(record)}; set dataset.id_key"
            )
        if len(value) != 1 or not isinstance(value[0], bytes):
            raise SchemaError(
                f"expected {self._id_key} of one byte string, found {_describe(value)}; {REMEDY}"
            )
        try:
            return value[0].decode()
        except UnicodeDecodeError:
            raise SchemaError(f"expected {self._id_key} in UTF-8, found {value[0]!r}; {REMEDY}") from None

    def _classes(self, value: Value, key: str = "labels") -> list[int] | None:
        if value is None:
            return None
        if not _integers(value):
            raise SchemaError(f"expected {key} of integers, found {_describe(value)}; {REMEDY}")
        for label in value:
            if not 0 <= label < self._num_classes:
                raise SchemaError(
                    f"expected {key} in 0..{self._num_classes - 1}, found {label}; set dataset.num_classes"
                )
        return value

    def _count(self, frames: list[np.ndarray | None], record: bytes) -> int:
        """Number of frames to keep of a video; checks its features."""
        count = 0
        unit = "bytes" if self._dtype == np.uint8 else "floats"
        for (feature, size), part in zip(self._features.items(), frames, strict=True):
            if part is None:
                raise self._missing(feature, f"{size} {unit} per frame", record)
            count = count or min(len(part), self._max_frames)
            if len(part) < max(count, 1):
                raise SchemaError(
                    f"expected at least {max(count, 1)} frames of {feature}, found {len(part)}; {REMEDY}"
                )
            if part.shape[1] != size:
                raise SchemaError(
                    f"expected {size} {unit} per frame of {feature}, found {part.shape[1]}; set dataset.features"
                )
        return count

    def _finite(self, values: np.ndarray, feature: str | None = None) -> np.ndarray:
        if values.dtype != np.uint8 and not np.isfinite(values).all():
            feature = feature or self._not_finite(values)
            raise SchemaError(f"expected {feature} of finite numbers, found NaN or infinity; {REMEDY}")
        return values

    def _not_finite(self, values: np.ndarray) -> str:
        """Name of the first feature in the columns of ``values`` that is not finite throughout."""
        ends = np.cumsum(list(self._features.values()))
        column = np.flatnonzero(~np.isfinite(values).all(0))[0]
        return list(self._features)[int(np.searchsorted(ends, column, "right"))]

    def _missing(self, feature: str, size: str, record: bytes) -> SchemaError:
        return SchemaError(
            f"expected {feature} of {size}, found keys {_keys(record)}; "
            "set dataset.features, or choose a dataset of this level"
        )


def _integers(value: Value) -> bool:
    return isinstance(value, list) and not (value and isinstance(value[0], bytes))


def _describe(value: Value) -> str:
    if value is None:
        return "none"
    kind = "floats" if isinstance(value, np.ndarray) else "integers" if _integers(value) else "byte strings"
    return f"{len(value)} {kind}"


def _keys(record: bytes) -> str:
    return ", ".join(available(record))
