"""Indexed shards as a map-style dataset that hands out whole batches."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.parse.frames import FrameReader
from yt8m.datamodules.parse.records import SEGMENT_FRAMES, RecordReader
from yt8m.datamodules.parse.videos import VideoReader
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import REMEDY, scan
from yt8m.errors import ConfigError, DataError

_INDEXING_THREADS = 8


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
            damage to the framing is reported in `faults`, all else in the `Batch` that lacks the record. A shard
            that changes or goes after it was indexed is an error in any case.
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
        # One for batches of nothing but usual records, and one for all others.
        self._fast_reader: FrameReader | VideoReader | None = None
        if level == "frame":
            self._fast_reader = FrameReader(self._shards, self.features, num_classes, id_key, max_frames)
        elif level == "video":
            self._fast_reader = VideoReader(self._shards, self.features, num_classes, id_key)
        self._careful_reader = RecordReader(
            self._shards, self.features, num_classes, level, id_key, max_frames
        )
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
        batch = self._read_at_once(numbers, buffer) if self._fast_reader else None
        return self._read_one_by_one(numbers, buffer) if batch is None else batch

    def max_rows(self, numbers: Sequence[int]) -> int:
        """Rows of features that the records ``numbers`` can have at most, known from their sizes alone."""
        if self.level == "video":
            return len(numbers)
        sizes = self._shards.lookup(numbers)[2]
        frames = int(np.minimum(sizes // self.feature_size, self.max_frames).sum())
        return frames * (SEGMENT_FRAMES if self.level == "segment" else 1)

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Let the system begin to read the records ``numbers`` from the disk, without waiting for them."""
        if len(numbers):
            self._shards.prefetch(numbers)

    def changed(self) -> str | None:
        """A message about the first shard that was changed or has gone since it was indexed; None where none was."""
        return self._shards.changed()

    @property
    def record_sizes(self) -> np.ndarray:
        """Bytes of every record with its framing, int64 [R]: at frame level a measure of a video's length."""
        return self._shards.lookup(np.arange(len(self)))[2]

    def _read_at_once(self, numbers: Sequence[int], buffer: torch.Tensor | None) -> Batch | None:
        """The records ``numbers``; None where there are none, or one is damaged, unusual or does not fit."""
        rows = self.max_rows(numbers)
        if rows == 0:
            return None
        if buffer is None:
            buffer = torch.empty(rows, self.feature_size, dtype=self.dtype)
        _check_room(buffer, rows)
        found = self._fast_reader.read(numbers, buffer[:rows].numpy())
        if found is None:
            return None
        values, num_frames = found
        return Batch(
            values.ids,
            buffer[: int(num_frames.sum())],
            torch.from_numpy(num_frames),
            None if values.rows is None else self._pairs(values.rows, values.labels),
        )

    def _read_one_by_one(self, numbers: Sequence[int], buffer: torch.Tensor | None) -> Batch:
        draft = self._careful_reader.read(numbers, skip=self.on_corrupt == "skip")
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

    def _pairs(self, rows: np.ndarray, classes: np.ndarray) -> torch.Tensor:
        """Distinct (row, class) pairs in rising order, int64 [M, 2]."""
        pairs = rows * self.num_classes + classes
        if not (pairs[1:] > pairs[:-1]).all():  # as they nearly always are
            rows, classes = np.divmod(np.unique(pairs), self.num_classes)
        return torch.from_numpy(np.stack([rows, classes], axis=1))


def _flat(classes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Row and class of each label."""
    rows = np.repeat(np.arange(len(classes)), [len(row) for row in classes])
    return rows, np.fromiter(chain.from_iterable(classes), np.int64)


def _check_room(buffer: torch.Tensor, rows: int) -> None:
    if len(buffer) < rows:
        raise ValueError(f"expected a buffer of at least {rows} rows (see max_rows), found {len(buffer)}")
