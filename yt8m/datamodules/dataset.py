"""Indexed shards as a map-style dataset that returns whole batches."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.parse.fast import FastRows
from yt8m.datamodules.parse.frames import FrameReader
from yt8m.datamodules.parse.layouts import Integers
from yt8m.datamodules.parse.records import RecordReader, Rows
from yt8m.datamodules.parse.segments import RatedSegmentReader, WholeVideoSegmentReader
from yt8m.datamodules.parse.videos import VideoReader
from yt8m.datamodules.parse.windows import SEGMENT_FRAMES, Context
from yt8m.datamodules.partition import index_all
from yt8m.datamodules.remote import RemoteShards
from yt8m.datamodules.sampler import BatchSampler
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import REMEDY, Index
from yt8m.errors import ChangedError, ConfigError, DataError
from yt8m.storage.shard import RemoteShard


class ShardDataset(torch.utils.data.Dataset[Batch]):
    """Videos of TFRecord shards, numbered from 0 through all shards in the given order.

    Args:
        paths: the shards, plain or gzip.
        features: name in the record to size, in the order of their columns: values per frame at frame and segment
            level, floats at video level.
        num_classes: labels are 0 to ``num_classes - 1``.
        level: ``"frame"``, ``"video"``, or ``"segment"``: a row per five-frame segment of frame-level data.
        id_key: the record's key of the video's id; 2017 and AudioSet shards use ``"video_id"``.
        max_frames: frames kept of a video.
        on_corrupt: ``"raise"`` a DataError for a record that is damaged or does not fit, or ``"skip"`` it: damage to
            the framing is reported in `errors`, everything else in the `Batch` that lacks the record. A shard that
            changes or disappears after it was indexed is always an error.
        progress: called with (shards indexed, all shards) while the constructor indexes.
        dtype: how frames are stored: ``"uint8"``, one byte string per frame, or ``"float32"``, a list of floats per
            frame. Video-level features are always float32.
        window: remote shards that a process keeps open at once.
        segments: at segment level ``"rated"`` ones (a video without any has no row, and is counted in the batch), or
            ``"all"``: frames 0 to 4, 5 to 9, …, without labels.
        context: at segment level, frames before and after the segment that belong to its row, or ``"video"``.

    The frame count of a video is that of its first feature. A feature with more frames is cut to it; one with fewer
    is an error, because a missing frame has no value in uint8 (it is zero after dequantization).
    Instances can be pickled and forked.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str] | RemoteShard],
        features: dict[str, int],
        num_classes: int,
        level: str = "frame",
        id_key: str = "id",
        max_frames: int = 300,
        on_corrupt: str = "raise",
        progress: Callable[[int, int], None] | None = None,
        dtype: str = "uint8",
        window: int = 8,
        segments: str = "rated",
        context: Context = 0,
    ):
        sources = list(paths)
        self.paths = [os.fspath(path) for path in sources]
        self.features = dict(features)
        self.num_classes = num_classes
        self.level = level
        self.id_key = id_key
        self.max_frames = max_frames
        self.on_corrupt = on_corrupt
        self.segments, self.context = segments, context
        self._check_config(dtype)
        self.feature_size = sum(self.features.values())
        #: torch dtype of a batch's features.
        self.dtype = torch.float32 if level == "video" or dtype == "float32" else torch.uint8

        #: One message per damaged stretch that the index had to leave out; empty with ``on_corrupt="raise"``. Those of
        #: remote shards, which are indexed as they arrive, come with the batches.
        self.errors: list[str] = []
        remote = [path for path in sources if isinstance(path, RemoteShard)]
        self.remote = RemoteShards(remote, on_corrupt, window) if remote else None
        self._shards = self.remote or Shards(self._index_all(progress))
        stored = np.dtype(np.float32 if self.dtype == torch.float32 else np.uint8)
        self._row_bytes = self.feature_size * stored.itemsize
        arguments = self._shards, self.features, num_classes
        self._fast_reader: FrameReader | VideoReader
        if level == "video":
            self._fast_reader = VideoReader(*arguments, id_key)
        elif level == "frame":
            self._fast_reader = FrameReader(*arguments, id_key, max_frames, stored)
        elif segments == "rated" and not context:
            self._fast_reader = RatedSegmentReader(*arguments, id_key, max_frames, stored)
        else:
            self._fast_reader = WholeVideoSegmentReader(
                *arguments, id_key, max_frames, stored, segments=segments, context=context
            )
        self._record_reader = RecordReader(*arguments, level, id_key, max_frames, stored, segments, context)
        #: Records per shard, int64; -1 where unknown, for remote shards.
        self.shard_sizes = self._shards.sizes
        if not self.shard_sizes.any():
            raise DataError(
                f"{self.paths[0]} @ byte 0: expected records, found none in {len(self.paths)} shards; {REMEDY}"
            )

    def _index_all(self, progress: Callable[[int, int], None] | None) -> list[Index]:
        indices = index_all(self.paths, self.on_corrupt, progress)
        self.errors += [error for found in indices for error in found.errors]
        return indices

    def _check_config(self, dtype: str) -> None:
        if not self.paths:
            raise ConfigError("expected shards, found none; check dataset.root and the glob of the partition")
        if self.level not in ("frame", "video", "segment"):
            raise ConfigError(f"expected dataset.level frame, video or segment, found {self.level!r}")
        if self.on_corrupt not in ("raise", "skip"):
            raise ConfigError(f"expected dataset.on_corrupt raise or skip, found {self.on_corrupt!r}")
        if self.segments not in ("rated", "all"):
            raise ConfigError(f"expected dataset.segments rated or all, found {self.segments!r}")
        if self.context != "video" and self.context < 0:
            raise ConfigError(f"expected dataset.context of 0 or more frames, or video, found {self.context}")
        if dtype not in ("uint8", "float32"):
            raise ConfigError(f"expected dataset.dtype uint8 or float32, found {dtype!r}")
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
        """The records ``numbers`` as one batch; its ``features`` are a view of ``buffer`` if they fit there.

        Args:
            numbers: of the records, in the order of the batch.
            buffer: contiguous CPU tensor [capacity, D] of the dataset's dtype, owned by the caller, who may reuse it
                when the batch is no longer needed. A capacity of `max_rows` always suffices; a batch that does not
                fit gets memory of its own.

        Raises:
            IndexError: a number is not in the dataset.
            DataError: a record is damaged or does not fit, with ``on_corrupt="raise"``.
            ChangedError: a shard changed since it was indexed.
        """
        # Of rated segments alone, the rows are known after parsing.
        rows = 0 if isinstance(self._fast_reader, RatedSegmentReader) else self.max_rows(numbers)
        if buffer is None or len(buffer) < rows:
            buffer = torch.empty(rows, self.feature_size, dtype=self.dtype)
        read: dict[int, Rows | str] = {}  # position → rows, or error, of the records that were read carefully
        found = self._read_fast(numbers, buffer.numpy(), read) if len(numbers) else None
        if found is None or not _all_or_none_labeled(found, read):
            found = self._read_all_carefully(numbers, buffer.numpy(), read)
        if read:
            found = _merge(found, read)
        size = len(found.features)
        errors = [error for _, error in sorted(read.items()) if isinstance(error, str)]
        if self.remote:
            errors, self.remote.errors = self.remote.errors + errors, []
        in_buffer = found.features.ctypes.data == buffer.data_ptr()
        batch = Batch(
            found.ids,
            buffer[:size] if in_buffer else torch.from_numpy(found.features),
            # Of segments with context it is a column of a table, whose strides would need graphs of their own.
            torch.from_numpy(np.ascontiguousarray(found.num_frames)),
            self._pairs(found.labels),
            self._pairs(found.rated),
            errors,
            slow_records=len(read),
            longest=int(found.num_frames.max(initial=0)),
            unrated=found.unrated,
        )
        if self.level == "segment":
            batch.videos = torch.from_numpy(found.owners)
        if found.windows is not None and found.frames is not None:
            begins = np.cumsum(found.frames) - found.frames
            first, _, offset, length = found.windows.T
            batch.first = torch.from_numpy(begins[found.owners] + first)
            batch.marks = torch.from_numpy(np.stack([offset, offset + length], axis=1))
        return batch

    def max_rows(self, numbers: Sequence[int]) -> int:
        """Upper bound on the rows of features of the records ``numbers``, from their sizes alone."""
        if self.level == "video":
            return len(numbers)
        sizes = self._shards.lookup(numbers)[2]
        frames = int(np.minimum(sizes // self._row_bytes, self.max_frames).sum())
        return frames * (SEGMENT_FRAMES if isinstance(self._fast_reader, RatedSegmentReader) else 1)

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Start reading the records ``numbers`` from disk, without waiting for them."""
        if len(numbers):
            self._shards.prefetch(numbers)

    @property
    def stamps(self) -> list[tuple[int, int]]:
        """Size and mtime_ns of each shard when it was indexed."""
        return self._shards.stamps

    def follow(self, sampler: BatchSampler) -> Iterator[list[int]]:
        """The batches of ``sampler``; remote shards are fetched ahead of them."""
        return self.remote.follow(sampler) if self.remote else iter(sampler)

    def release(self) -> None:
        """Close the files of remote shards, which lets the cache remove them."""
        if self.remote:
            self.remote.release()

    def close(self) -> None:
        """End the process that fetches remote shards; the next `follow` starts one."""
        if self.remote:
            self.remote.close()

    def changed(self) -> str | None:
        """A message about the first shard that changed or disappeared since it was indexed, or None."""
        return self._shards.changed()

    @property
    def record_sizes(self) -> np.ndarray:
        """Bytes of every record with its framing, int64 [R]: at frame level a measure of a video's length.

        Raises ConfigError for remote shards that were never indexed.
        """
        if self.remote:
            return self.remote.record_sizes()
        return self._shards.lookup(np.arange(len(self)))[2]

    def _read_fast(
        self, numbers: Sequence[int], out: np.ndarray, read: dict[int, Rows | str]
    ) -> FastRows | None:
        """Read usual records fast and the others, into ``read``, carefully; None if that raised an error."""

        def careful(position: int) -> np.ndarray:
            found = read[position] = self._read_carefully(numbers[position])
            return out[:0] if isinstance(found, str) else found.features

        try:
            return self._fast_reader.read(numbers, out, careful)
        except DataError:
            return None  # reading one by one finds the first error in the order of the batch

    def _read_all_carefully(
        self, numbers: Sequence[int], out: np.ndarray, read: dict[int, Rows | str]
    ) -> FastRows:
        read.clear()
        labeled: bool | None = None
        frames = np.zeros(len(numbers), np.int64)
        for position, number in enumerate(numbers):
            found = read[position] = self._read_carefully(number, labeled)
            if not isinstance(found, str):
                labeled = found.classes is not None
                frames[position] = len(found.features)
        parts = [found.features for found in read.values() if not isinstance(found, str)]
        rows = sum(map(len, parts))
        if rows > len(out):
            out = np.empty((rows, self.feature_size), out.dtype)
        if parts:
            np.concatenate(parts, out=out[:rows])
        nothing = np.zeros(0, np.int64)
        segments = self.level == "segment"
        pairs = Integers(nothing, nothing) if segments and self.segments == "rated" else None
        windows = np.zeros((0, 4), np.int64) if segments and self.context else None
        return FastRows(out[:rows], nothing, [], nothing, pairs, pairs, windows=windows, frames=frames)

    def _read_carefully(self, number: int, labeled: bool | None = None) -> Rows | str:
        """Rows of a record, or why it is skipped; ``labeled``: whether the records before it in the batch are."""
        location = self._shards.locate([number])[0]
        try:
            rows = self._record_reader.read(location)
            if labeled not in (None, rows.classes is not None):
                here, before = ("none", "some") if labeled else ("some", "none")
                raise DataError(
                    f"{self._shards.describe(location)}: expected labels in all records of a batch or in none, found "
                    f"{here} here and {before} in the records before; read labeled and unlabeled shards separately"
                )
            return rows
        except DataError as error:
            if self.on_corrupt == "raise" or isinstance(error, ChangedError):
                raise
            return str(error)

    def _pairs(self, labels: Integers | None) -> torch.Tensor | None:
        """Unique (row, class) pairs in ascending order, int64 [M, 2]."""
        if labels is None:
            return None
        rows, classes = labels
        pairs = rows * self.num_classes + classes
        if not (pairs[1:] > pairs[:-1]).all():  # in published shards they are ascending
            pairs = np.sort(pairs)  # faster than np.unique, which hashes first
            pairs = pairs[np.append(True, pairs[1:] > pairs[:-1])]
            rows, classes = np.divmod(pairs, self.num_classes)
        return torch.from_numpy(np.stack([rows, classes], axis=1))


def _all_or_none_labeled(fast: FastRows, read: dict[int, Rows | str]) -> bool:
    kinds = {fast.labels is not None} if len(fast.owners) else set()
    kinds |= {rows.classes is not None for rows in read.values() if not isinstance(rows, str)}
    return not fast.mixed and len(kinds) < 2


def _merge(fast: FastRows, read: dict[int, Rows | str]) -> FastRows:
    """The rows of all records, in the order of the batch; the features are in that order already."""
    careful = {position: rows for position, rows in sorted(read.items()) if not isinstance(rows, str)}
    counts = np.array([len(rows.ids) for rows in careful.values()], np.int64)
    owners = np.concatenate([fast.owners, np.repeat(np.array(list(careful), np.int64), counts)])
    order = np.argsort(owners, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))  # of each row in the merged batch
    ids = [*fast.ids, *chain.from_iterable(rows.ids for rows in careful.values())]
    frames = [n for rows in careful.values() for n in rows.num_frames]

    def pairs(known: Integers | None, lists: list[list[list[int]] | None]) -> Integers | None:
        if known is None and (not lists or lists[0] is None):
            return None
        known = known or Integers(*np.zeros((2, 0), np.int64))
        of_rows = list(chain.from_iterable(one or () for one in lists))
        sizes = np.array([len(classes) for classes in of_rows], np.int64)
        rows = np.repeat(len(fast.ids) + np.arange(len(of_rows)), sizes)
        values = np.fromiter(chain.from_iterable(of_rows), np.int64)
        return Integers(place[np.concatenate([known.rows, rows])], np.concatenate([known.values, values]))

    windows = fast.windows
    if windows is not None:
        more = [one for rows in careful.values() for one in rows.windows or ()]
        windows = np.concatenate([windows, np.array(more, np.int64).reshape(-1, 4)])[order]
    return fast._replace(
        owners=owners[order],
        windows=windows,
        unrated=fast.unrated + sum(rows.unrated for rows in careful.values()),
        ids=[ids[row] for row in order.tolist()],
        num_frames=np.concatenate([fast.num_frames, np.array(frames, np.int64)])[order],
        labels=pairs(fast.labels, [rows.classes for rows in careful.values()]),
        rated=pairs(fast.rated, [rows.rated for rows in careful.values()]),
    )
