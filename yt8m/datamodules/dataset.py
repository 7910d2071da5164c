"""Indexed shards as a map-style dataset that hands out whole batches."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from yt8m.datamodules.example import ExampleError, available, parse_example, parse_sequence
from yt8m.datamodules.tfrecord import FOOTER, HEADER, REMEDY, DataError, Shards, scan
from yt8m.errors import ConfigError

SEGMENT_FRAMES = 5  # every rated segment of YouTube-8M 2019 lasts five frames

_INDEXING_THREADS = 8


@dataclass
class Batch:
    """B videos, or segments of videos; CPU tensors until `to` moves them.

    - ``ids``: one per row; ``"id:start"`` for segments
    - ``features``: frame and segment level uint8 [N, D], the frames of all videos one after another,
      N = ``num_frames.sum()``; video level float32 [B, D]; D = the configured features side by side
    - ``num_frames``: int64 [B], 1 <= n <= ``max_frames``; all 1 at video level
    - ``label_index``: int64 [M, 2], distinct (row, class) pairs in rising order, or None where there are no labels
    - ``label_mask``: same form, the pairs that were rated (segments), or None
    - ``faults``: one message for each record that was left out, with ``on_corrupt="skip"``
    """

    ids: list[str]
    features: torch.Tensor
    num_frames: torch.Tensor
    label_index: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None
    faults: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory."""
        return self._map(torch.Tensor.pin_memory, num_frames=self.num_frames.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with features and labels on ``device``.

        ``num_frames`` stays on the CPU: the longest video of a batch must be known there, and asking the device
        for it would wait for all that is queued.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, move: Callable[[torch.Tensor], torch.Tensor], **changes) -> "Batch":
        index, mask = (
            None if pairs is None else move(pairs) for pairs in (self.label_index, self.label_mask)
        )
        return replace(self, features=move(self.features), label_index=index, label_mask=mask, **changes)


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
        #: One message per damaged stretch that the index had to leave out; empty with ``on_corrupt="raise"``.
        self.faults = [fault for found in indices for fault in found.faults]
        #: Records per shard, int64.
        self.shard_sizes = np.array([len(found.records) for found in indices], np.int64)
        self._ends = np.cumsum(self.shard_sizes)
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
        return int(self._ends[-1])

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
        shards, records = self._locate(numbers)
        add = getattr(self, f"_add_{self.level}")
        draft = _Draft(buffer)
        if self.level == "frame":
            # Frames are copied as they are read: a record is still in the processor's cache then.
            draft.buffer = self._frame_buffer(self._max_rows(shards, records), buffer)
        for shard, record in zip(shards, records, strict=True):
            try:
                data = self._shards.record(shard, record)
                try:
                    add(draft, data)
                except ExampleError as error:
                    raise DataError(f"{self._shards.where(shard, record)}: {error}; {REMEDY}") from error
                except _Misfit as error:
                    raise DataError(f"{self._shards.where(shard, record)}: {error}") from error
            except DataError as error:
                if self.on_corrupt == "raise":
                    raise
                draft.faults.append(str(error))
        return draft.batch(self.feature_size, self.num_classes, self.dtype)

    def max_rows(self, numbers: Sequence[int]) -> int:
        """Rows of features that the records ``numbers`` can have at most, known from their sizes alone."""
        return self._max_rows(*self._locate(numbers))

    def will_need(self, first: int, last: int) -> None:
        """Ask the system to read records ``first`` to ``last`` (excluded) into its cache, without waiting."""
        shards, _ = self._locate([first, last - 1])
        for shard in range(shards[0], shards[1] + 1):
            start = int(self._ends[shard] - self.shard_sizes[shard])
            self._shards.will_need(shard, max(first - start, 0), last - start)

    def _locate(self, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        """Shard, and number within it, of each record."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not (0 <= numbers.min() and numbers.max() < len(self)):
            raise IndexError(
                f"expected record numbers in 0..{len(self) - 1}, found {numbers.min()}..{numbers.max()}"
            )
        shards = np.searchsorted(self._ends, numbers, "right")
        return shards.tolist(), (numbers - (self._ends - self.shard_sizes)[shards]).tolist()

    def _max_rows(self, shards: list[int], records: list[int]) -> int:
        if self.level == "video":
            return len(records)
        sizes = [self._shards.size(*place) for place in zip(shards, records, strict=True)]
        frames = sum(min(size // self.feature_size, self.max_frames) for size in sizes)
        return frames * (SEGMENT_FRAMES if self.level == "segment" else 1)

    def _frame_buffer(self, rows: int, buffer: torch.Tensor | None) -> torch.Tensor:
        if buffer is None:
            return torch.empty(rows, self.feature_size, dtype=torch.uint8)
        if len(buffer) < rows:
            raise ValueError(f"expected a buffer of at least {rows} rows (see max_rows), found {len(buffer)}")
        return buffer

    def _add_frame(self, draft: "_Draft", data: bytes) -> None:
        keys, lists = (self.id_key, "labels"), tuple(self.features)
        (name, labels), frames = parse_sequence(data, keys, lists, HEADER, len(data) - FOOTER)
        name = self._id(name, data)
        classes = self._classes(labels, draft)
        count = self._check_frames(frames, data)
        matrix = draft.buffer.numpy()[draft.rows : draft.rows + count]
        for columns, part in zip(self._columns, frames, strict=True):
            matrix[:, columns] = part[:count]
        draft.add(name, count, classes)

    def _add_video(self, draft: "_Draft", data: bytes) -> None:
        keys = (self.id_key, "labels", *self.features)
        name, labels, *values = parse_example(data, keys, HEADER, len(data) - FOOTER)
        name = self._id(name, data)
        classes = self._classes(labels, draft)
        for (feature, size), value in zip(self.features.items(), values, strict=True):
            if value is None:
                raise self._missing(feature, f"{size} floats", data)
            if not isinstance(value, np.ndarray) or len(value) != size:
                raise _Misfit(
                    f"expected {feature} of {size} floats, found {_describe(value)}; set dataset.features"
                )
            if not np.isfinite(value).all():
                raise _Misfit(f"expected {feature} of finite numbers, found NaN or infinity; {REMEDY}")
        draft.parts.append(values)
        draft.add(name, 1, classes)

    def _add_segment(self, draft: "_Draft", data: bytes) -> None:
        keys = (self.id_key, "segment_start_times", "segment_labels", "segment_scores")
        (name, *rated), frames = parse_sequence(data, keys, tuple(self.features), HEADER, len(data) - FOOTER)
        name = self._id(name, data)
        count = self._check_frames(frames, data)
        starts, classes, scores = self._rated(rated, draft, count)
        for start in dict.fromkeys(starts):
            stop = min(start + SEGMENT_FRAMES, count)
            draft.parts.append([part[start:stop] for part in frames])
            here = [place for place, other in enumerate(starts) if other == start]
            positive = rated_here = None
            if classes is not None:
                rated_here = [classes[place] for place in here]
                positive = [classes[place] for place in here if scores[place] > 0]
            draft.add(f"{name}:{start}", stop - start, positive, rated_here)

    def _rated(
        self, rated: list, draft: "_Draft", count: int
    ) -> tuple[list[int], list[int] | None, np.ndarray]:
        """Start, class and score of each rating of a video of ``count`` frames; classes None where it has none."""
        starts, labels, scores = rated
        if starts is None:
            self._classes(None, draft)
            return list(range(0, count, SEGMENT_FRAMES)), None, np.empty(0)
        scores = np.empty(0, np.float32) if scores is None else scores
        if labels is not None and not len(starts) == len(labels) == len(scores):
            raise _Misfit(
                "expected segment_start_times, segment_labels and segment_scores of one length, "
                f"found {len(starts)}, {len(labels)} and {len(scores)}; {REMEDY}"
            )
        if not _integers(starts) or not isinstance(scores, np.ndarray):
            raise _Misfit(
                "expected segment_start_times of integers and segment_scores of floats, "
                f"found {_describe(starts)} and {_describe(scores)}; {REMEDY}"
            )
        for start in starts:
            if not 0 <= start < count:
                raise _Misfit(
                    f"expected segments to start within the video's {count} frames, found one at {start}; {REMEDY}"
                )
        return starts, self._classes(labels, draft, "segment_labels"), scores

    def _id(self, value, data: bytes) -> str:
        if value is None:
            raise _Misfit(
                f"expected the id under {self.id_key!r}, found keys {_keys(data)}; set dataset.id_key"
            )
        if len(value) != 1 or not isinstance(value[0], bytes):
            raise _Misfit(
                f"expected {self.id_key} of one byte string, found {_describe(value)}; set dataset.id_key"
            )
        try:
            return value[0].decode()
        except UnicodeDecodeError:
            raise _Misfit(f"expected {self.id_key} in UTF-8, found {value[0]!r}; {REMEDY}") from None

    def _classes(self, value, draft: "_Draft", key: str = "labels") -> list[int] | None:
        if draft.labelled is not None and draft.labelled != (value is not None):
            raise _Misfit(
                f"expected {key} in all records of a batch or in none, found "
                f"{'none, unlike' if value is None else 'some, unlike'} in the records before; "
                "do not mix labelled and unlabelled partitions"
            )
        if value is None:
            return None
        if not _integers(value):
            raise _Misfit(f"expected {key} of integers, found {_describe(value)}; {REMEDY}")
        if value and not (min(value) >= 0 and max(value) < self.num_classes):
            wrong = next(label for label in value if not 0 <= label < self.num_classes)
            raise _Misfit(
                f"expected {key} in 0..{self.num_classes - 1}, found {wrong}; set dataset.num_classes"
            )
        return value

    def _check_frames(self, frames: list[np.ndarray | None], data: bytes) -> int:
        """Frames to keep of a video, the same for all its features."""
        count = 0
        for (feature, size), part in zip(self.features.items(), frames, strict=True):
            if part is None:
                raise self._missing(feature, f"{size} bytes per frame", data)
            if not count:
                count = min(len(part), self.max_frames)
            if len(part) < max(count, 1):
                raise _Misfit(
                    f"expected at least {max(count, 1)} frames of {feature}, found {len(part)}; {REMEDY}"
                )
            if part.shape[1] != size:
                raise _Misfit(
                    f"expected {size} bytes per frame of {feature}, found {part.shape[1]}; set dataset.features"
                )
        return count

    def _missing(self, feature: str, size: str, data: bytes) -> "_Misfit":
        return _Misfit(
            f"expected {feature} of {size}, found keys {_keys(data)}; "
            "set dataset.features, or dataset to one of the other level"
        )


class _Misfit(Exception):
    """A sound record that does not fit the dataset; the message lacks only the place."""


class _Draft:
    """A batch in the making."""

    def __init__(self, buffer: torch.Tensor | None):
        self.buffer = buffer
        self.rows = 0  # of features, so far
        self.parts: list[list[np.ndarray]] = []  # features by row or segment, where not in the buffer yet
        self.ids: list[str] = []
        self.num_frames: list[int] = []
        self.labels: list[list[int]] = []
        self.rated: list[list[int]] = []
        self.labelled: bool | None = None  # as the first record has it
        self.faults: list[str] = []

    def add(self, name: str, frames: int, classes: list[int] | None, rated: list[int] | None = None) -> None:
        self.ids.append(name)
        self.num_frames.append(frames)
        self.rows += frames
        self.labelled = classes is not None
        if classes is not None:
            self.labels.append(classes)
        if rated is not None:
            self.rated.append(rated)

    def batch(self, feature_size: int, num_classes: int, dtype: torch.dtype) -> Batch:
        buffer = self.buffer
        if buffer is None:
            buffer = torch.empty(self.rows, feature_size, dtype=dtype)
        if len(buffer) < self.rows:
            raise ValueError(f"expected a buffer of at least {self.rows} rows, found {len(buffer)}")
        features = buffer[: self.rows]
        if self.parts:
            columns = [
                np.concatenate(parts).reshape(self.rows, -1) for parts in zip(*self.parts, strict=True)
            ]
            np.concatenate(columns, axis=1, out=features.numpy())
        return Batch(
            self.ids,
            features,
            torch.tensor(self.num_frames, dtype=torch.int64),
            _pairs(self.labels, num_classes) if self.labelled else None,
            _pairs(self.rated, num_classes) if self.rated else None,
            self.faults,
        )


def _pairs(classes: list[list[int]], num_classes: int) -> torch.Tensor:
    """Distinct (row, class) pairs in rising order, int64 [M, 2]."""
    rows = np.repeat(np.arange(len(classes)), [len(row) for row in classes])
    flat = np.unique(rows * num_classes + np.array([label for row in classes for label in row], np.int64))
    return torch.from_numpy(np.stack(np.divmod(flat, num_classes), axis=1))


def _integers(value) -> bool:
    return isinstance(value, list) and not (value and isinstance(value[0], bytes))


def _describe(value) -> str:
    kind = "floats" if isinstance(value, np.ndarray) else "integers" if _integers(value) else "byte strings"
    return f"{len(value)} {kind}"


def _keys(data: bytes) -> str:
    return ", ".join(available(data[HEADER:-FOOTER]))
