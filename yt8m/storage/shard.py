"""One object of a bucket as a shard: identified, fetched whole into the cache, checked, opened."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import google_crc32c

from yt8m.errors import ChangedError
from yt8m.files import PIECE
from yt8m.storage import transport, usage
from yt8m.storage.cache import Cache

BLOCK = 16 << 20  # bytes per request; each costs about 20 ms of a processor
_AGAIN = "do not modify the data during a run, and start again"
# What tells two versions of an object apart, best first; the keys of several file systems.
_IDENTITIES = (
    "ETag",
    "etag",
    "md5Hash",
    "crc32c",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "mtime",
    "created",
)


@dataclass(frozen=True)
class RemoteShard:
    """A shard that lies elsewhere; reading it brings it into the cache.

    Args:
        address: such as `s3://bucket/train/train0001.tfrecord`.
        size: in bytes.
        identity: text that changes when the object is replaced.
        cache: where it is kept.
        records: how many it has, and
        crc32c: of the whole object; both from the dataset's manifest, or None.
        sidecar: address of its `.tfindex`, or None.
    """

    address: str
    size: int
    identity: str
    cache: Cache
    records: int | None = None
    crc32c: int | None = None
    sidecar: str | None = None

    def __fspath__(self) -> str:
        return self.address

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @cached_property
    def stamp(self) -> tuple[int, int]:
        """(size, hash of the identity): in the place of a file's (size, mtime_ns)."""
        return self.size, int.from_bytes(hashlib.sha256(self.identity.encode()).digest()[:8], "little") >> 1

    @cached_property
    def _key(self) -> str:
        text = f"{self.address}\n{self.size}\n{self.identity}"
        return hashlib.sha256(os.fsencode(text)).hexdigest()[:40]

    def is_here(self) -> bool:
        """Whether the cache has it."""
        return self.cache.has(self._key, self.size)

    def open(self) -> int:
        """A descriptor of the whole shard, which the cache keeps until it is closed.

        Raises:
            ChangedError: the object was replaced or deleted.
            FetchError: it could not be read.
            WriteError: the cache cannot take it.
        """
        return self.cache.open(self._key, self.size, self._download)[0]

    @contextlib.contextmanager
    def local_copy(self) -> Iterator[str]:
        """The path of the whole file in the cache, for programs that read files. Raises what `open` raises."""
        fd = self.open()
        try:
            yield self.cache.path(self._key)
        finally:
            os.close(fd)

    def fetch(self) -> None:
        """Bring the shard into the cache. Raises BusyError if another process does, and what `open` raises."""
        os.close(self.cache.open(self._key, self.size, self._download, wait=False)[0])

    def discard(self) -> None:
        """Remove it from the cache."""
        self.cache.discard(self._key)

    def check(self) -> None:
        """Raise ChangedError if the object is no longer the one that was listed."""
        try:
            info = transport.call(self.address, "look up", lambda fs: fs.info(self.address))
        except FileNotFoundError:
            raise self._changed("found it deleted") from None
        if info.get("size") not in (None, self.size):
            raise self._changed(f"found {info['size']:,} bytes instead of {self.size:,}")
        key, _, value = self.identity.partition("=")
        if self.crc32c is None and _text(info.get(key, value)) != value:
            raise self._changed("found it replaced")

    def _download(self, fd: int) -> None:
        began = time.perf_counter()
        crc = 0
        try:
            for start in range(0, self.size, BLOCK):
                end = min(start + BLOCK, self.size)
                block = transport.read_range(self.address, start, end, self.check)
                _write_at(fd, block, start)
                crc = google_crc32c.extend(crc, block)
        except FileNotFoundError:
            raise self._changed("found it deleted") from None
        usage.add(download_bytes=self.size, download_seconds=time.perf_counter() - began)
        # After the last byte: had the object been replaced before, this would be the other one.
        if self.crc32c is None:
            self.check()
        elif crc != self.crc32c:
            raise ChangedError(
                f"{self.address} @ byte 0: expected the shard of the manifest (CRC-32C {self.crc32c:08x}), found "
                f"{crc:08x}; upload it again, or make a new manifest with yt8m.verify manifest=FILE"
            )

    def _changed(self, found: str) -> ChangedError:
        return ChangedError(
            f"{self.address} @ byte 0: expected the object that was listed, {found}; {_AGAIN}"
        )


def identity_of(info: dict[str, Any]) -> str:
    """Text that changes when an object is replaced, from what its file system says about it."""
    return next((f"{key}={_text(info[key])}" for key in _IDENTITIES if info.get(key)), "")


def _text(value: Any) -> str:
    """A time in seconds: a listing and a look-up may differ in its type."""
    return str(value.timestamp() if isinstance(value, datetime) else value)


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view[:PIECE], offset)
        view, offset = view[written:], offset + written
