"""Records of many indexed shards, by one number each."""

import contextlib
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from yt8m.datamodules.tfrecord import File, Index
from yt8m.errors import ChangedError, DataError

_GAP = 1 << 16  # bytes between records that are sooner read than left out


class RecordLocation(NamedTuple):
    """Where a record lies: number of its shard, offset and size in it, framing included."""

    shard: int
    offset: int
    size: int


class Shards:
    """Records of indexed shards, numbered from 0 through all of them; at most ``max_open`` files are open.

    Files open on first use and never travel: a pickled copy opens its own. Reads are positioned, so a forked
    process and several threads may share one instance.
    """

    def __init__(self, indices: Sequence[Index], max_open: int = 64):
        self.paths = [found.path for found in indices]
        self.sizes = np.array([len(found.records) for found in indices], np.int64)  # records per shard
        self.max_open = max_open
        self._stamps = [found.stamp for found in indices]
        self._records = np.concatenate([found.records for found in indices])
        self._ends = np.cumsum(self.sizes)
        self._files: OrderedDict[int, File] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": OrderedDict()}

    def __len__(self) -> int:
        return len(self._records)

    def locate(self, numbers: Sequence[int]) -> list[RecordLocation]:
        """Where the records ``numbers`` lie. Raises IndexError for a number that is not there."""
        return list(map(RecordLocation, *(column.tolist() for column in self.lookup(numbers))))

    def lookup(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, offset and size of the records ``numbers``, as `locate` has them: three int64 arrays."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(
                f"expected record numbers in 0..{len(self) - 1}, found {numbers.min()}..{numbers.max()}"
            )
        shards = np.searchsorted(self._ends, numbers, "right")
        offsets, sizes = self._records[numbers].T
        return shards, offsets, sizes

    def record(self, place: RecordLocation) -> bytes:
        """Payload of one record, both CRCs verified.

        Raises DataError for a record that is damaged, and ChangedError for a shard that changed since it was indexed.
        """
        shard, offset, size = place
        file = self._file(shard)
        try:
            return file.record(offset, size)
        except DataError:
            if self._has_changed(shard):
                raise self._changed(shard) from None
            raise

    def mapped(self, shards: Iterable[int]) -> dict[int, mmap.mmap] | None:
        """All bytes of each of these shards, to be looked at now; None where one has changed since it was indexed."""
        maps = {}
        for shard in shards:
            try:
                mapped = self._file(shard).map()
            except (DataError, OSError):
                return None
            if mapped is None:
                return None
            maps[shard] = mapped
        return maps

    def describe(self, place: RecordLocation) -> str:
        """Path and offset, as error messages begin."""
        return f"{self.paths[place.shard]} @ byte {place.offset}"

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Let the system begin to read the records ``numbers`` into its cache, in the order of the disk."""
        shards, offsets, sizes = self.lookup(numbers)
        order = np.lexsort((offsets, shards))
        shards, offsets, ends = shards[order], offsets[order], (offsets + sizes)[order]
        apart = (np.diff(shards) != 0) | (offsets[1:] - ends[:-1] > _GAP)
        firsts, lasts = np.flatnonzero(np.append(True, apart)), np.flatnonzero(np.append(apart, True))
        for shard, start, end in zip(
            shards[firsts].tolist(), offsets[firsts].tolist(), ends[lasts].tolist(), strict=True
        ):
            with contextlib.suppress(DataError):  # which reading the record will raise
                self._file(shard).prefetch(start, end)

    def changed(self) -> str | None:
        """A message about the first shard that was changed or has gone since it was indexed; None where none was."""
        return next(
            (str(self._changed(shard)) for shard in range(len(self.paths)) if self._has_changed(shard)), None
        )

    def _file(self, shard: int) -> File:
        try:
            self._files.move_to_end(shard)
            return self._files[shard]
        except KeyError:
            pass
        try:
            file = File(self.paths[shard])
        except DataError as error:
            raise ChangedError(str(error)) from error
        if file.stamp != self._stamps[shard]:
            raise self._changed(shard)
        # An evicted file is closed when its last reader lets go of it, never under a thread that reads it; and a
        # file is never replaced, as closing one lets other threads in.
        file = self._files.setdefault(shard, file)
        while len(self._files) > self.max_open:
            with contextlib.suppress(KeyError):  # another thread was faster
                self._files.popitem(last=False)
        return file

    def _has_changed(self, shard: int) -> bool:
        try:
            now = os.stat(self.paths[shard])
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != self._stamps[shard]

    def _changed(self, shard: int) -> ChangedError:
        return ChangedError(
            f"{self.paths[shard]} @ byte 0: expected the file that was indexed ({self._stamps[shard][0]} bytes), "
            "found it changed or gone since; keep the data still during a run, and start again"
        )
