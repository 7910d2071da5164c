"""TFRecord framing: locations of the records of a shard, and their verified bytes.

A record is ``uint64 length · uint32 crc(length) · payload · uint32 crc(payload)``, little endian, with masked
CRC-32C. A shard is records one after another, the whole file gzip-compressed or not. Nothing here
interprets a payload, and nothing is ever written beside the data.
"""

import contextlib
import errno
import gzip
import hashlib
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import google_crc32c
import numpy as np

from yt8m.errors import DataError, WriteError
from yt8m.files import cache_folder, write_bytes

HEADER = 12  # bytes before the payload: length and its CRC
FOOTER = 4  # bytes after it: the CRC of the payload
FRAMING = HEADER + FOOTER

REMEDY = "re-download the shard, or set dataset.on_corrupt=skip to leave out what is damaged"

_GZIP_MAGIC = b"\x1f\x8b"
_CACHE_HEADER = struct.Struct("<8sQqI")  # magic, size and mtime_ns of the shard, CRC of the records
_CACHE_MAGIC = b"yt8mix01"
_ADVICE = 1 << 17  # bytes prefetched at a time; the kernel truncates larger requests
_CHUNK = 1 << 20  # bytes read at a time when scanning a file


@runtime_checkable
class Source(Protocol):
    """A shard that is no file under its own name, such as an object of a bucket at an `address`."""

    @property
    def address(self) -> str: ...

    @property
    def stamp(self) -> tuple[int, int]:
        """Two numbers that change with the content."""

    def open(self) -> int:
        """A descriptor of its bytes."""


@dataclass(frozen=True)
class Index:
    """Locations of the records of one shard.

    ``records`` is int64 [R, 2], (offset, size) with the framing counted in the size; offsets in a gzip shard
    refer to the decompressed stream. ``stamp`` is the file's (size, mtime_ns) when it was indexed. ``errors``
    holds one message per damaged stretch, empty for a sound shard.
    """

    path: str
    records: np.ndarray
    stamp: tuple[int, int]
    errors: tuple[str, ...] = ()


def masked_crc(data: bytes) -> int:
    """CRC-32C of ``data`` as TFRecord stores it."""
    return int(mask(google_crc32c.value(data)))


def mask(crc: int | np.ndarray) -> int | np.ndarray:
    """A CRC, or a uint64 array of them, rotated and shifted as TFRecord stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=1 << 14)
def header(length: int) -> bytes:
    """The 12 bytes before a payload of ``length`` bytes."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc(packed))


def framed(payload: bytes) -> bytes:
    """The record of ``payload``."""
    return header(len(payload)) + payload + struct.pack("<I", masked_crc(payload))


def index(path: str | os.PathLike[str], cache: bool = True) -> np.ndarray:
    """(offset, size) of every record of a shard, int64 [R, 2]; the size counts the 16 framing bytes.

    It comes from a ``.tfindex`` sidecar that fits the file, else from the user's cache folder (``YT8M_CACHE_DIR``
    overrides it), else from the 12 header bytes of each record, and is then cached. ``cache=False`` always scans the
    file. Raises DataError at the first damage.
    """
    return _sound(path, cache).records


def read(
    path: str | os.PathLike[str], records: Iterable[int] | None = None, verify: bool = True
) -> Iterator[bytes]:
    """Payloads of a shard's records, all or those numbered ``records``, in that order.

    ``verify`` checks both CRCs of each. Raises DataError for damage, IndexError for a number that is out of range.
    """
    found = _sound(path)
    file = File(found.path)
    for number in range(len(found.records)) if records is None else records:
        if not 0 <= number < len(found.records):
            raise IndexError(f"expected record numbers in 0..{len(found.records) - 1}, found {number}")
        offset, size = found.records[number].tolist()
        yield file.record(offset, size, verify)


def _sound(path: str | os.PathLike[str], cache: bool = True) -> Index:
    found = scan(path, cache)
    if found.errors:
        raise DataError(found.errors[0])
    return found


def scan(path: str | os.PathLike[str] | Source, cache: bool = True) -> Index:
    """Index a shard as `index` does, but report damage in ``errors`` and keep every readable record.

    After a damaged length, the next record is found by its own header CRC, so only damaged records are missing.
    Raises DataError only if the file cannot be read at all.
    """
    source = path if isinstance(path, Source) else os.path.abspath(path)
    file = File(source, unpack=False)
    if cache:
        for known in (_read_sidecar, _read_cache):
            records = known(file)
            if records is not None:
                return Index(file.path, records, file.stamp)
    if file.gzip:
        file = File(source)
    records, errors = _walk(file)
    if cache and not errors:
        keep_index(file.path, file.stamp, records)
    return Index(file.path, records, file.stamp, tuple(errors))


class File:
    """Random access to the bytes of a shard.

    `read` and `record` copy, which is safe whatever happens to the file. `map` is for reading many records at once,
    where a copy would double the cost. A gzip shard is unpacked once into an unlinked temporary file (in ``TMPDIR``),
    whose pages the system can evict.
    """

    def __init__(self, path: str | os.PathLike[str] | Source, unpack: bool = True):
        self.path = path.address if isinstance(path, Source) else os.fspath(path)
        self.gzip_error = ""
        self._map: mmap.mmap | None = None
        self.fd = -1
        try:
            self.fd = path.open() if isinstance(path, Source) else os.open(path, os.O_RDONLY)
            status = os.fstat(self.fd)
            self.size = status.st_size
            own = path.stamp if isinstance(path, Source) else None
            self.stamp = own or (status.st_size, status.st_mtime_ns)
            self.gzip = os.pread(self.fd, len(_GZIP_MAGIC), 0) == _GZIP_MAGIC
            if self.gzip and unpack:
                self._unpack()
        except OSError as error:
            remedy = "check dataset.root and the glob of the partition"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                remedy = "raise the limit of open files (ulimit -n)"
            elif error.errno in (errno.ENOSPC, errno.EDQUOT):
                remedy = "free space in TMPDIR, where gzip shards are unpacked"
            raise DataError(
                f"{self.path} @ byte 0: expected a readable shard, found: {error.strerror}; {remedy}"
            ) from error

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        try:
            return os.pread(self.fd, size, offset)
        except OSError as error:
            raise DataError(
                f"{self.path} @ byte {offset}: expected {size} bytes, found: {error.strerror}; "
                "check the disk or the network mount"
            ) from error

    def record(self, offset: int, size: int, verify: bool = True) -> bytes:
        """Payload of the record at ``offset``. Raises DataError if a CRC is wrong."""
        data = self.read(offset, size)
        if len(data) != size:
            raise self._damage(offset, f"expected {size} bytes, found {len(data)}")
        payload = data[HEADER:-FOOTER]
        if verify:
            if data[:HEADER] != header(len(payload)):
                problem = f"expected the header of a record of {len(payload)} bytes, found another"
                raise self._damage(
                    offset, f"{problem} (does a .tfindex beside the shard belong to another one?)"
                )
            stored = int.from_bytes(data[-FOOTER:], "little")
            computed = masked_crc(payload)
            if computed != stored:
                raise self._damage(offset, f"expected payload CRC {stored:08x}, found {computed:08x}")
        return payload

    def map(self) -> mmap.mmap | None:
        """A map of the whole file for immediate use; None if the file has become shorter.

        Reading a page that no longer exists kills the process (SIGBUS). The size is checked on each call, so this
        happens only if the file is truncated while its map is being read, or the disk fails; `loader` reports it.
        """
        if os.fstat(self.fd).st_size < self.size:
            return None
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)
        return self._map

    def prefetch(self, start: int, end: int) -> None:
        """Start reading the bytes from ``start`` to ``end`` into the page cache, unless they are there."""
        if not hasattr(os, "posix_fadvise"):
            return  # macOS
        # Probing one byte takes a quarter of the time of the advice, and a record's pages come and go together.
        with contextlib.suppress(OSError):  # not cached, or unsupported by this file system
            if os.preadv(self.fd, [bytearray(1)], end - 1, os.RWF_NOWAIT):
                return
        with contextlib.suppress(OSError):  # it is only advice
            for piece in range(start, end, _ADVICE):
                os.posix_fadvise(self.fd, piece, min(_ADVICE, end - piece), os.POSIX_FADV_WILLNEED)

    def _damage(self, offset: int, problem: str) -> DataError:
        return DataError(f"{self.path} @ byte {offset}: {problem}; {REMEDY}")

    def _unpack(self) -> None:
        packed, self.fd = self.fd, -1
        with open(packed, "rb") as file, tempfile.TemporaryFile() as unpacked:
            try:
                with gzip.open(file) as stream:
                    while chunk := stream.read1(_CHUNK):
                        unpacked.write(chunk)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                self.gzip_error = f"expected a whole gzip stream, found: {error}"
            unpacked.flush()
            self.size = unpacked.tell()
            self.fd = os.dup(unpacked.fileno())


def _walk(file: File) -> tuple[np.ndarray, list[str]]:
    """The records found by following the headers, and a message per damaged stretch."""
    records, errors = [], []
    offset, size = 0, file.size
    if size == 0 and not file.gzip_error:
        errors.append(f"{file.path} @ byte 0: expected records, found an empty file; {REMEDY}")
    while offset < size:
        head = file.read(offset, HEADER)
        length = int.from_bytes(head[:8], "little")
        end = offset + length + FRAMING
        if end <= size and head == header(length):
            records.append((offset, end - offset))
            offset = end
            continue
        if len(head) < HEADER:
            problem = f"expected a record header of {HEADER} bytes, found {len(head)}"
        elif head != header(length):
            problem = "expected a record, found a length whose CRC does not match"
        else:
            problem = f"expected a record of {end - offset} bytes, found {size - offset} to the end"
        following = _resynchronise(file, offset + 1)
        lost = f"{following - offset} bytes without a readable record"
        errors.append(f"{file.path} @ byte {offset}: {problem} ({lost}); {REMEDY}")
        offset = following
    if file.gzip_error:
        errors.append(f"{file.path} @ byte {size}: {file.gzip_error}; {REMEDY}")
    return np.array(records, np.int64).reshape(-1, 2), errors


def _resynchronise(file: File, start: int) -> int:
    """Offset of the first whole record at or after ``start``; the file's size if there is none.

    The probability of a false match, a length that fits and its CRC by chance, is 2**-60 per byte.
    """
    while start < file.size:
        chunk = file.read(start, _CHUNK)
        positions = max(len(chunk) - HEADER + 1, 0)
        lengths = np.ndarray(positions, "<u8", chunk, strides=(1,))
        room = np.maximum(file.size - FRAMING - start - np.arange(positions), 0).astype(np.uint64)
        # Ignore a length of zero: stretches of zeros are common, empty records are useless.
        for position in np.flatnonzero((lengths > 0) & (lengths <= room)).tolist():
            head = chunk[position : position + HEADER]
            if head == header(int.from_bytes(head[:8], "little")):
                return start + position
        start += positions or file.size
    return file.size


def _read_sidecar(file: File) -> np.ndarray | None:
    """Index from a ``.tfindex`` of the `tfrecord` package or NVIDIA DALI, if it fits the shard."""
    if file.gzip:
        return None
    for sidecar in (Path(file.path).with_suffix(".tfindex"), Path(file.path + ".tfindex")):
        with contextlib.suppress(OSError, ValueError, OverflowError):
            if sidecar.stat().st_mtime_ns < file.stamp[1]:
                continue
            records = parse_sidecar(sidecar.read_bytes(), file.size)
            if records is not None and fits(records, file):
                return records
    return None


def parse_sidecar(content: bytes, size: int) -> np.ndarray | None:
    """The records of a ``.tfindex``, int64 [R, 2], if they cover a shard of ``size`` bytes; raises ValueError."""
    records = np.array([int(number) for number in content.split()], np.int64).reshape(-1, 2)
    offsets, sizes = records.T
    if not len(records) or offsets[0] != 0 or sizes.min() < FRAMING or offsets[-1] + sizes[-1] != size:
        return None
    return records if (offsets[1:] == offsets[:-1] + sizes[:-1]).all() else None


def sidecar_of(records: np.ndarray) -> bytes:
    """The content of the ``.tfindex`` of these records."""
    return b"".join(b"%d %d\n" % (offset, size) for offset, size in records.tolist())


def fits(records: np.ndarray, file: File) -> bool:
    """Whether the last record is where an index says.

    The index of a truncated shard covers it without a gap, too, but the last header does not fit.
    """
    offset, size = records[-1].tolist()
    return file.read(offset, HEADER) == header(size - FRAMING)


def _cache_file(path: str) -> Path:
    return Path(cache_folder(), "index", hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def _read_cache(file: File) -> np.ndarray | None:
    return kept_index(file.path, file.stamp)


def kept_index(path: str, stamp: tuple[int, int]) -> np.ndarray | None:
    """The records of the shard at ``path`` from the user's cache folder, if they were kept with this stamp."""
    with contextlib.suppress(OSError, struct.error):
        data = _cache_file(path).read_bytes()
        magic, *kept, crc = _CACHE_HEADER.unpack_from(data)
        body = data[_CACHE_HEADER.size :]
        if magic == _CACHE_MAGIC and tuple(kept) == stamp and crc == google_crc32c.value(body):
            return np.frombuffer(body, "<i8").reshape(-1, 2).copy()
    return None


def keep_index(path: str, stamp: tuple[int, int], records: np.ndarray) -> None:
    """Keep the records of the shard at ``path`` in the user's cache folder."""
    body = records.astype("<i8").tobytes()
    # A cache that cannot be written only costs time.
    with contextlib.suppress(WriteError):
        content = _CACHE_HEADER.pack(_CACHE_MAGIC, *stamp, google_crc32c.value(body)) + body
        write_bytes(_cache_file(path), content)
