"""The index of a whole partition, kept as one file, so that a start reads that file and not one per shard."""

import contextlib
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np

from yt8m.datamodules.tfrecord import Index, scan
from yt8m.errors import DataError, WriteError
from yt8m.files import cache_folder, replacing

_THREADS = 8
_MAGIC = b"yt8mpt01"
_HEADER = struct.Struct("<8sQQI")  # magic, shards, records, CRC of what follows


def index_all(
    paths: Sequence[str], on_corrupt: str = "raise", progress: Callable[[int, int], None] | None = None
) -> list[Index]:
    """The indices of all shards, as `scan` gives them; kept in the user's cache folder if all are sound.

    Args:
        paths: the shards, in the order of their records' numbers.
        on_corrupt: `raise` a DataError for the first damaged shard, or `skip`.
        progress: called with (shards indexed, all shards).
    """
    paths = [os.path.abspath(path) for path in paths]
    with ThreadPoolExecutor(_THREADS) as pool:
        kept = _read(paths, pool)
        if kept is not None:
            return kept
        indices: list[Index] = []
        for found in pool.map(scan, paths):
            if found.errors and on_corrupt == "raise":
                pool.shutdown(cancel_futures=True)
                raise DataError(found.errors[0])
            indices.append(found)
            if progress:
                progress(len(indices), len(paths))
    if len(paths) > 1 and not any(found.errors for found in indices):
        _write(paths, indices)
    return indices


def fingerprint(*parts: object) -> str:
    """A name for what these describe, usable as a file name."""
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()[:32]


def is_checked(check: str) -> bool:
    """Whether `keep_check` was called with this fingerprint of data and settings."""
    return (cache_folder() / "checked" / check).is_file()


def keep_check(check: str) -> None:
    """Remember that these data were read with these settings."""
    with contextlib.suppress(WriteError), replacing(cache_folder() / "checked" / check) as path:
        path.touch()


def _file(paths: Sequence[str]) -> Path:
    return cache_folder() / "partitions" / fingerprint(*paths)


def _read(paths: Sequence[str], pool: ThreadPoolExecutor) -> list[Index] | None:
    """What was kept, if no shard has changed since."""
    try:
        content = _file(paths).read_bytes()
        magic, shards, records, crc = _HEADER.unpack_from(content)
        body = memoryview(content)[_HEADER.size :]
        if (magic, shards) != (_MAGIC, len(paths)) or len(body) != 8 * (3 * shards + records):
            return None
        if crc != google_crc32c.value(np.frombuffer(body, np.uint8)):
            return None
        stamps = [(status.st_size, status.st_mtime_ns) for status in pool.map(os.stat, paths)]
    except (OSError, struct.error):
        return None
    numbers = np.frombuffer(body, "<i8")
    counts, sizes = numbers[2 * shards : 3 * shards], numbers[3 * shards :]
    if stamps != list(map(tuple, numbers[: 2 * shards].reshape(-1, 2).tolist())):
        return None
    # The records of a sound shard follow one another.
    ends = np.cumsum(sizes)
    last = np.cumsum(counts)
    before = np.append(0, ends)[last - counts]
    table = np.stack([ends - sizes - np.repeat(before, counts), sizes], axis=1)
    parts = np.split(table, last[:-1])
    return [Index(path, part, stamp) for path, part, stamp in zip(paths, parts, stamps, strict=True)]


def _write(paths: Sequence[str], indices: Sequence[Index]) -> None:
    stamps = np.array([found.stamp for found in indices], "<i8")
    counts = np.array([len(found.records) for found in indices], "<i8")
    sizes = np.concatenate([found.records[:, 1] for found in indices]).astype("<i8")
    body = b"".join(part.tobytes() for part in (stamps, counts, sizes))
    # A cache that cannot be written only costs time.
    with contextlib.suppress(WriteError), replacing(_file(paths)) as path:
        header = _HEADER.pack(_MAGIC, len(paths), len(sizes), google_crc32c.value(body))
        path.write_bytes(header + body)
