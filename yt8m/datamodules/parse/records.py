"""Records read one by one, each accepted, refused and understood as protobuf does, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from yt8m.datamodules.parse.wire import ExampleError, Value, available, parse_example, parse_sequence
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import REMEDY
from yt8m.errors import ChangedError, DataError

SEGMENT_FRAMES = 5  # every rated segment of YouTube-8M 2019 lasts five frames


class _SchemaError(Exception):
    """A sound record that does not fit the dataset; the message lacks only the place."""


@dataclass
class BatchBuilder:
    """A batch in the making."""

    rows: int = 0  # of features, so far
    parts: list[np.ndarray] = field(default_factory=list)  # features in order, flat
    ids: list[str] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)
    labelled: bool | None = None  # as the first record has it
    classes: list[list[int]] = field(default_factory=list)  # of each row
    rated: list[list[int]] = field(default_factory=list)  # of each row, where segments are rated
    faults: list[str] = field(default_factory=list)

    def add(self, name: str, frames: int, classes: list[int] | None, rated: list[int] | None = None) -> None:
        self.ids.append(name)
        self.num_frames.append(frames)
        self.rows += frames
        self.labelled = classes is not None
        self.classes.append(classes)
        if rated is not None:
            self.rated.append(rated)


class RecordReader:
    """Reads records of any layout; the arguments are those of `ShardDataset`."""

    def __init__(
        self,
        shards: Shards,
        features: dict[str, int],
        num_classes: int,
        level: str,
        id_key: str,
        max_frames: int,
    ):
        self._shards = shards
        self._features = features
        self._num_classes = num_classes
        self._level = level
        self._id_key = id_key
        self._max_frames = max_frames

    def read(self, numbers: Sequence[int], skip: bool) -> BatchBuilder:
        """The records ``numbers``.

        Raises DataError for one that is damaged or does not fit, unless to ``skip`` it, and ChangedError for one whose
        shard has changed since it was indexed.
        """
        draft = BatchBuilder()
        add = getattr(self, f"_add_{self._level}")
        for place in self._shards.locate(numbers):
            try:
                record = self._shards.record(place)
                try:
                    add(draft, record)
                except ExampleError as error:
                    raise DataError(f"{self._shards.describe(place)}: {error}; {REMEDY}") from error
                except _SchemaError as error:
                    raise DataError(f"{self._shards.describe(place)}: {error}") from error
            except DataError as error:
                if not skip or isinstance(error, ChangedError):
                    raise
                draft.faults.append(str(error))
        return draft

    def _add_frame(self, draft: BatchBuilder, record: bytes) -> None:
        keys = (self._id_key, "labels")
        (name, labels), frames = parse_sequence(record, keys, tuple(self._features))
        name = self._id(name, record)
        classes = self._classes(labels, draft)
        count = self._count(frames, record)
        draft.parts.append(np.concatenate([part[:count] for part in frames], axis=1).ravel())
        draft.add(name, count, classes)

    def _add_video(self, draft: BatchBuilder, record: bytes) -> None:
        keys = (self._id_key, "labels", *self._features)
        name, labels, *values = parse_example(record, keys)
        name = self._id(name, record)
        classes = self._classes(labels, draft)
        for (feature, size), value in zip(self._features.items(), values, strict=True):
            if value is None:
                raise self._missing(feature, f"{size} floats", record)
            if not isinstance(value, np.ndarray) or len(value) != size:
                raise _SchemaError(
                    f"expected {feature} of {size} floats, found {_describe(value)}; set dataset.features"
                )
            if not np.isfinite(value).all():
                raise _SchemaError(f"expected {feature} of finite numbers, found NaN or infinity; {REMEDY}")
        draft.parts += values
        draft.add(name, 1, classes)

    def _add_segment(self, draft: BatchBuilder, record: bytes) -> None:
        keys = (self._id_key, "segment_start_times", "segment_labels", "segment_scores")
        (name, *ratings), frames = parse_sequence(record, keys, tuple(self._features))
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
        self, starts: Value, labels: Value, scores: Value, draft: BatchBuilder, count: int
    ) -> tuple[Sequence[int], list[int] | None, Value]:
        """Start, class and score of each rating in a video of ``count`` frames; no classes where it has none."""
        classes = self._classes(labels, draft, "segment_labels")
        if starts is None and classes is None:
            return range(0, count, SEGMENT_FRAMES), None, None
        if not _integers(starts):
            raise _SchemaError(
                f"expected segment_start_times of integers, found {_describe(starts)}; {REMEDY}"
            )
        if classes is not None and not (
            isinstance(scores, np.ndarray) and len(starts) == len(classes) == len(scores)
        ):
            raise _SchemaError(
                "expected segment_start_times, segment_labels and segment_scores (floats) of one length, "
                f"found {len(starts)}, {_describe(labels)} and {_describe(scores)}; {REMEDY}"
            )
        for start in starts:
            if not 0 <= start < count:
                raise _SchemaError(
                    f"expected segments to start in 0..{count - 1}, found one at {start}; {REMEDY}"
                )
        return starts, classes, scores

    def _id(self, value: Value, record: bytes) -> str:
        if value is None:
            raise _SchemaError(
                f"expected an id in {self._id_key}, found keys {_keys(record)}; set dataset.id_key"
            )
        if len(value) != 1 or not isinstance(value[0], bytes):
            raise _SchemaError(
                f"expected {self._id_key} of one byte string, found {_describe(value)}; {REMEDY}"
            )
        try:
            return value[0].decode()
        except UnicodeDecodeError:
            raise _SchemaError(f"expected {self._id_key} in UTF-8, found {value[0]!r}; {REMEDY}") from None

    def _classes(self, value: Value, draft: BatchBuilder, key: str = "labels") -> list[int] | None:
        if draft.labelled is not None and draft.labelled != (value is not None):
            raise _SchemaError(
                f"expected {key} in all records of a batch or in none, found {_describe(value)} unlike in the "
                f"records before; read labelled and unlabelled shards apart"
            )
        if value is None:
            return None
        if not _integers(value):
            raise _SchemaError(f"expected {key} of integers, found {_describe(value)}; {REMEDY}")
        for label in value:
            if not 0 <= label < self._num_classes:
                raise _SchemaError(
                    f"expected {key} in 0..{self._num_classes - 1}, found {label}; set dataset.num_classes"
                )
        return value

    def _count(self, frames: list[np.ndarray | None], record: bytes) -> int:
        """Frames to keep of a video, whose features are checked."""
        count = 0
        for (feature, size), part in zip(self._features.items(), frames, strict=True):
            if part is None:
                raise self._missing(feature, f"{size} bytes per frame", record)
            count = count or min(len(part), self._max_frames)
            if len(part) < max(count, 1):
                raise _SchemaError(
                    f"expected at least {max(count, 1)} frames of {feature}, found {len(part)}; {REMEDY}"
                )
            if part.shape[1] != size:
                raise _SchemaError(
                    f"expected {size} bytes per frame of {feature}, found {part.shape[1]}; set dataset.features"
                )
        return count

    def _missing(self, feature: str, size: str, record: bytes) -> _SchemaError:
        return _SchemaError(
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
