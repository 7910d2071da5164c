"""Shards on disk: found by glob, and the records of many of them, numbered consecutively."""

import contextlib
import glob
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yt8m.datamodules.tfrecord import File, Index
from yt8m.errors import ChangedError, ConfigError, DataError

_GAP = 1 << 16  # bytes; merge reads closer than this
# Where `yt8m.download` puts the official partitions, below its root.
_OFFICIAL = re.compile(r"[23]/(frame|video)/(train|validate|test)(?=/)")


def find_shards(root: Path, pattern: str, key: str) -> list[Path]:
    """The files that match a glob, sorted.

    Args:
        root: folder that the glob is relative to, unless it is absolute.
        pattern: the glob; `**` matches any number of folders.
        key: the glob's configuration key, for messages.

    Raises:
        ConfigError: there is no such folder or file, or a folder cannot be read.
    """
    absolute = os.path.isabs(pattern)
    full = pattern if absolute else os.path.join(glob.escape(str(root)), pattern)
    official = None if absolute else _OFFICIAL.match(pattern)
    fetch = f", or fetch it: python -m yt8m.download partition={official[0]} root={root}" if official else ""
    try:
        if not absolute:
            os.stat(root)  # unlike Path.exists, says why
        paths = sorted(Path(path) for path in glob.glob(full, recursive=True) if os.path.isfile(path))
    except OSError as error:
        found = "nothing" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(
            f"dataset.root: expected the dataset's folder, found {found} at {root}; set dataset.root{fetch}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{key}: expected a glob, found {pattern!r} ({error}); set {key}") from None
    # A glob silently passes over what it may not read, and shards would be missing.
    folder = os.path.dirname(full)
    while folder not in ("", "/"):
        for path in glob.glob(folder, recursive=True):
            if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
                raise ConfigError(
                    f"{key}: expected folders that can be read, found {path}: Permission denied"
                )
        folder = os.path.dirname(folder)
    if not paths:
        keys = key if absolute or not key.startswith("dataset.") else f"dataset.root or {key}"
        raise ConfigError(
            f"{key}: expected shards at {pattern if absolute else root / pattern}, found none; set {keys}{fetch}"
        )
    return paths


class RecordLocation(NamedTuple):
    """Location of a record: number of its shard, offset and size in it, framing included."""

    shard: int
    offset: int
    size: int


class Shards:
    """Records of indexed shards, numbered from 0 through all of them; at most ``max_open`` files are open.

    Files are opened on first use and are not pickled: a copy opens its own. Reads are positioned, so a forked process
    and several threads can share one instance.
    """

    def __init__(self, indices: Sequence[Index], max_open: int = 64):
        self.paths = [found.path for found in indices]
        self.sizes = np.array([len(found.records) for found in indices], np.int64)  # records per shard
        self.max_open = max_open
        self.stamps = [found.stamp for found in indices]
        self._records = np.concatenate([found.records for found in indices])
        self._ends = np.cumsum(self.sizes)
        self._files: OrderedDict[int, File] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def __len__(self) -> int:
        return len(self._records)

    def locate(self, numbers: Sequence[int]) -> list[RecordLocation]:
        """Locations of the records ``numbers``. Raises IndexError for a number that is out of range."""
        return list(map(RecordLocation, *(column.tolist() for column in self.lookup(numbers))))

    def lookup(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, offset, and size of the records ``numbers``: three int64 arrays."""
        rows = np.asarray(numbers, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"expected record numbers in 0..{len(self) - 1}, found {rows.min()}..{rows.max()}"
            )
        shards = np.searchsorted(self._ends, rows, "right")
        offsets, sizes = self._records[rows].T
        return shards, offsets, sizes

    def record(self, location: RecordLocation) -> bytes:
        """Payload of one record, both CRCs verified.

        Raises DataError for a record that is damaged, and ChangedError for a shard that changed since it was indexed.
        """
        shard, offset, size = location
        file = self._file(shard)
        try:
            return file.record(offset, size)
        except DataError:
            if self._has_changed(shard):
                raise self._changed(shard) from None
            raise

    def mapped(self, shards: Iterable[int]) -> dict[int, mmap.mmap] | None:
        """Maps of these shards, for immediate use; None if one has changed since it was indexed."""
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

    def describe(self, location: RecordLocation) -> str:
        """Path and offset, the beginning of an error message."""
        return f"{self.paths[location.shard]} @ byte {location.offset}"

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Start reading the records ``numbers`` into the page cache, in the order of the disk."""
        shards, offsets, sizes = self.lookup(numbers)
        order = np.lexsort((offsets, shards))
        shards, offsets, ends = shards[order], offsets[order], (offsets + sizes)[order]
        apart = (np.diff(shards) != 0) | (offsets[1:] - ends[:-1] > _GAP)
        firsts, lasts = np.flatnonzero(np.append(True, apart)), np.flatnonzero(np.append(apart, True))
        for shard, start, end in zip(
            shards[firsts].tolist(), offsets[firsts].tolist(), ends[lasts].tolist(), strict=True
        ):
            with contextlib.suppress(DataError):  # reading the record will raise it
                self._file(shard).prefetch(start, end)

    def changed(self) -> str | None:
        """A message about the first shard that changed or disappeared since it was indexed, or None."""
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
            file = self._open(shard)
        except DataError as error:
            raise ChangedError(str(error)) from error
        # An evicted file is closed when its last reader drops it, never under a thread that reads it. A file is never
        # replaced, because closing one lets other threads in.
        file = self._files.setdefault(shard, file)
        while len(self._files) > self.max_open:
            with contextlib.suppress(KeyError):  # another thread was faster
                self._files.popitem(last=False)
        return file

    def _open(self, shard: int) -> File:
        file = File(self.paths[shard])
        if file.stamp != self.stamps[shard]:
            raise self._changed(shard)
        return file

    def _has_changed(self, shard: int) -> bool:
        try:
            now = os.stat(self.paths[shard])
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != self.stamps[shard]

    def _changed(self, shard: int) -> ChangedError:
        return ChangedError(
            f"{self.paths[shard]} @ byte 0: expected the file that was indexed ({self.stamps[shard][0]} bytes), "
            "found it changed or gone since; do not modify the data during a run, and start again"
        )
