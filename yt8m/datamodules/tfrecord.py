"""TFRecord framing: where the records of a shard lie, and their bytes, verified.

A record is ``uint64 length · uint32 crc(length) · payload · uint32 crc(payload)``, little endian, with masked
CRC-32C. A shard is records one after another, the whole file gzip-compressed or not. Nothing here knows what a
payload means, and nothing is ever written beside the data.
"""

import contextlib
import gzip
import hashlib
import mmap
import os
import struct
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
import platformdirs

HEADER = 12  # bytes before the payload: length and its CRC
FOOTER = 4  # bytes after it: the CRC of the payload
FRAMING = HEADER + FOOTER

REMEDY = "re-download the shard, or set dataset.on_corrupt=skip to leave out what is damaged"

_GZIP_MAGIC = b"\x1f\x8b"
_CACHE_HEADER = struct.Struct("<8sQqI")  # magic, size and mtime_ns of the shard, CRC of the records
_CACHE_MAGIC = b"yt8mix01"
_MAPPED = 1 << 15  # bytes from which a record is mapped rather than copied
_CHUNK = 1 << 20  # bytes read at a time where a file is gone through from end to end


class DataError(ValueError):
    """Damaged or ill-fitting data: one line that names file, byte offset, expected, found and what to do."""


@dataclass(frozen=True)
class Index:
    """Where the records of one shard lie.

    ``records`` is int64 [R, 2], (offset, size) with the framing counted in the size; offsets in a gzip shard are
    those of the decompressed stream. ``stamp`` is the file's (size, mtime_ns) when it was indexed. ``faults``
    holds one message per damaged stretch, empty for a sound shard.
    """

    path: str
    records: np.ndarray
    stamp: tuple[int, int]
    faults: tuple[str, ...] = ()


def masked_crc(data: bytes | np.ndarray) -> int:
    """CRC-32C of ``data`` as TFRecord stores it."""
    return mask(google_crc32c.value(data))


def mask(crc: int | np.ndarray) -> int | np.ndarray:
    """A CRC, or a uint64 array of them, rotated and shifted as TFRecord stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=1 << 14)
def header(length: int) -> bytes:
    """The 12 bytes in front of a payload of ``length`` bytes."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc(packed))


def index(path: str | os.PathLike, cache: bool = True) -> np.ndarray:
    """(offset, size) of every record of a shard, int64 [R, 2]; the size counts the 16 framing bytes.

    Taken from a ``.tfindex`` sidecar that fits the file, else from the user's cache folder
    (``YT8M_CACHE_DIR`` overrides it), else from the 12 header bytes of each record, which are then cached.
    ``cache=False`` always goes through the file. Raises DataError at the first damage.
    """
    return _sound(path, cache).records


def read(
    path: str | os.PathLike, records: Iterable[int] | None = None, verify: bool = True
) -> Iterator[bytes]:
    """Payloads of a shard's records, all or those numbered ``records``, in that order.

    ``verify`` checks both CRCs of each. Raises DataError for damage, IndexError for a number that is not there.
    """
    shards = Shards([_sound(path)], verify)
    for place in shards.locate(range(len(shards)) if records is None else list(records)):
        data, start, end = shards.record(place)
        yield data[start:end]


def _sound(path: str | os.PathLike, cache: bool = True) -> Index:
    found = scan(path, cache)
    if found.faults:
        raise DataError(found.faults[0])
    return found


def scan(path: str | os.PathLike, cache: bool = True) -> Index:
    """Index a shard as `index` does, but report damage in ``faults`` and keep every record that can be found.

    Behind a damaged length the next record is found by its own header CRC, so only damaged records are missing.
    Raises DataError only when the file cannot be read at all.
    """
    path = os.path.abspath(path)
    file = _File(path, unpack=False)
    if cache:
        for known in (_read_sidecar, _read_cache):
            records = known(file)
            if records is not None:
                return Index(path, records, file.stamp)
    if file.gzip:
        file = _File(path)
    records, faults = _walk(file)
    if cache and not faults:
        _write_cache(file, records)
    return Index(path, records, file.stamp, tuple(faults))


class Place(NamedTuple):
    """Where a record lies: number of its shard, offset and size in it, framing included."""

    shard: int
    offset: int
    size: int


class Payload(NamedTuple):
    """A record's payload: the bytes ``start`` to ``end`` (excluded) of ``data``."""

    data: bytes | mmap.mmap
    start: int
    end: int


class Shards:
    """Records of indexed shards, numbered from 0 through all of them; at most ``max_open`` files are open.

    Files open on first use and never travel: a pickled copy opens its own. Reads are positioned, so a forked
    process and several threads may share one instance.
    """

    def __init__(self, indices: Sequence[Index], verify: bool = True, max_open: int = 64):
        self.paths = [found.path for found in indices]
        self.sizes = np.array([len(found.records) for found in indices], np.int64)  # records per shard
        self.verify = verify
        self.max_open = max_open
        self._stamps = [found.stamp for found in indices]
        self._records = np.concatenate([found.records for found in indices])
        self._ends = np.cumsum(self.sizes)
        self._files: OrderedDict[int, _File] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": OrderedDict()}

    def __len__(self) -> int:
        return len(self._records)

    def locate(self, numbers: Sequence[int]) -> list[Place]:
        """Where the records ``numbers`` lie. Raises IndexError for a number that is not there."""
        return list(map(Place, *(column.tolist() for column in self.lookup(numbers))))

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

    def record(self, place: Place) -> Payload:
        """Payload of one record, both CRCs verified.

        Raises DataError for a record that is damaged and for a shard that changed since it was indexed.
        """
        shard, offset, size = place
        data, base, found = self._file(shard).view(offset, size)
        if found != size:
            raise self._error(place, f"expected {size} bytes, found {found}")
        start, end = base + HEADER, base + size - FOOTER
        if self.verify:
            length = end - start
            if data[base:start] != header(length):
                problem = f"expected the header of a record of {length} bytes, found another"
                raise self._error(place, f"{problem} (is a .tfindex beside the shard of another one?)")
            stored = int.from_bytes(data[end : end + FOOTER], "little")
            computed = masked_crc(np.frombuffer(data, np.uint8, length, start))
            if computed != stored:
                raise self._error(place, f"expected payload CRC {stored:08x}, found {computed:08x}")
        return Payload(data, start, end)

    def mapped(self, shard: int) -> mmap.mmap | None:
        """All bytes of a shard, to be touched at once and no later; None where the file has become shorter."""
        return self._file(shard).map()

    def describe(self, place: Place) -> str:
        """Path and offset, as error messages begin."""
        return f"{self.paths[place.shard]} @ byte {place.offset}"

    def will_need(self, first: int, last: int) -> None:
        """Ask the system to read records ``first`` to ``last`` (excluded) into its cache, without waiting."""
        if not hasattr(os, "posix_fadvise"):
            return  # macOS
        start, end = self.locate([first, last - 1])
        for shard in range(start.shard, end.shard + 1):
            file = self._file(shard)
            begin = start.offset if shard == start.shard else 0
            stop = end.offset + end.size if shard == end.shard else file.size
            os.posix_fadvise(file.fd, begin, stop - begin, os.POSIX_FADV_WILLNEED)

    def _file(self, shard: int) -> "_File":
        try:
            self._files.move_to_end(shard)
            return self._files[shard]
        except KeyError:
            pass
        file = _File(self.paths[shard])
        if file.stamp != self._stamps[shard]:
            raise self._changed(shard)
        # An evicted file is closed when its last reader lets go of it, never under a thread that reads it; and a
        # file is never replaced, as closing one lets other threads in.
        file = self._files.setdefault(shard, file)
        while len(self._files) > self.max_open:
            with contextlib.suppress(KeyError):  # another thread was faster
                self._files.popitem(last=False)
        return file

    def _error(self, place: Place, problem: str) -> DataError:
        with contextlib.suppress(OSError):
            now = os.stat(self.paths[place.shard])
            if (now.st_size, now.st_mtime_ns) == self._stamps[place.shard]:
                return DataError(f"{self.describe(place)}: {problem}; {REMEDY}")
        return self._changed(place.shard)

    def _changed(self, shard: int) -> DataError:
        return DataError(
            f"{self.paths[shard]} @ byte 0: expected the file that was indexed ({self._stamps[shard][0]} bytes), "
            "found it changed or gone since; keep the data still during a run, and start again"
        )


class _File:
    """Bytes of a shard by position: the one place that knows where they live.

    Small records are read one by one, which is safe whatever happens to the file. Large ones, and many at once, are
    seen through a memory map, as copying or asking for each costs as much as all else that is done with it.
    Touching a map beyond the end of its file kills the interpreter, so the file's size is asked for each time; only
    a file that is cut short within the millisecond that follows, or a failing disk, is left. A gzip shard is
    unpacked once into an unlinked temporary file (in ``TMPDIR``), whose pages the system can evict.
    """

    def __init__(self, path: str, unpack: bool = True):
        self.path = path
        self.fault = ""
        self._map: mmap.mmap | None = None
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY)
            status = os.fstat(self.fd)
            self.size = status.st_size
            self.stamp = (status.st_size, status.st_mtime_ns)
            self.gzip = os.pread(self.fd, len(_GZIP_MAGIC), 0) == _GZIP_MAGIC
            if self.gzip and unpack:
                self._unpack()
        except OSError as error:
            raise DataError(
                f"{path} @ byte 0: expected a readable shard, found: {error.strerror}; "
                "check dataset.root and the glob of the partition, and for gzip the room in TMPDIR"
            ) from error

    def __del__(self):
        if self.fd >= 0:
            os.close(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only where the file ends."""
        try:
            return os.pread(self.fd, size, offset)
        except OSError as error:
            raise DataError(
                f"{self.path} @ byte {offset}: expected {size} bytes, found: {error.strerror}; "
                "check the disk or the network mount"
            ) from error

    def view(self, offset: int, size: int) -> tuple[bytes | mmap.mmap, int, int]:
        """A buffer with ``size`` bytes of the file, where they begin in it, and how many of them are there."""
        mapped = self.map() if size >= _MAPPED else None
        if mapped is None:
            data = self.read(offset, size)
            return data, 0, len(data)
        return mapped, offset, min(self.size - offset, size)

    def map(self) -> mmap.mmap | None:
        """The whole file; None where it has become shorter."""
        if os.fstat(self.fd).st_size < self.size:
            return None
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)
        return self._map

    def _unpack(self) -> None:
        packed, self.fd = self.fd, -1
        with open(packed, "rb") as file, tempfile.TemporaryFile() as unpacked:
            try:
                with gzip.open(file) as stream:
                    while chunk := stream.read1(_CHUNK):
                        unpacked.write(chunk)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                self.fault = f"expected a whole gzip stream, found: {error}"
            unpacked.flush()
            self.size = unpacked.tell()
            self.fd = os.dup(unpacked.fileno())


def _walk(file: _File) -> tuple[np.ndarray, list[str]]:
    """Go from header to header; the records found and a message per damaged stretch."""
    records, faults = [], []
    offset, size = 0, file.size
    if size == 0 and not file.fault:
        faults.append(f"{file.path} @ byte 0: expected records, found an empty file; {REMEDY}")
    while offset < size:
        head = file.read(offset, HEADER)
        length = int.from_bytes(head[:8], "little")
        if len(head) < HEADER:
            problem = f"expected a record header of {HEADER} bytes, found {len(head)}"
        elif masked_crc(head[:8]) != int.from_bytes(head[8:], "little"):
            problem = "expected a record, found a length whose CRC does not match"
        elif length > size - offset - FRAMING:
            problem = f"expected a record of {length + FRAMING} bytes, found {size - offset} to the end"
        else:
            records.append((offset, length + FRAMING))
            offset += length + FRAMING
            continue
        following = _resynchronise(file, offset + 1)
        lost = f"{following - offset} bytes without a readable record"
        faults.append(f"{file.path} @ byte {offset}: {problem} ({lost}); {REMEDY}")
        offset = following
    if file.fault:
        faults.append(f"{file.path} @ byte {size}: {file.fault}; {REMEDY}")
    return np.array(records, np.int64).reshape(-1, 2), faults


def _resynchronise(file: _File, start: int) -> int:
    """Offset of the first whole record at or after ``start``, the file's size if there is none.

    A stray match of the length's CRC with a length that fits is one chance in 2**60 per byte.
    """
    while start < file.size:
        chunk = file.read(start, _CHUNK)
        positions = max(len(chunk) - HEADER + 1, 0)
        lengths = np.ndarray(positions, "<u8", chunk, strides=(1,))
        room = np.maximum(file.size - FRAMING - start - np.arange(positions), 0).astype(np.uint64)
        # A length of zero is passed over: stretches of zeros are common, empty records mean nothing.
        for position in np.flatnonzero((lengths > 0) & (lengths <= room)).tolist():
            head = chunk[position : position + HEADER]
            if head == header(int.from_bytes(head[:8], "little")):
                return start + position
        start += positions or file.size
    return file.size


def _read_sidecar(file: _File) -> np.ndarray | None:
    """Index in a ``.tfindex`` of the `tfrecord` package or NVIDIA DALI, where it fits the shard."""
    if file.gzip:
        return None
    for sidecar in (Path(file.path).with_suffix(".tfindex"), Path(file.path + ".tfindex")):
        with contextlib.suppress(OSError, ValueError, OverflowError):
            if sidecar.stat().st_mtime_ns < file.stamp[1]:
                continue
            numbers = np.array([int(number) for number in sidecar.read_bytes().split()], np.int64)
            if _fits(records := numbers.reshape(-1, 2), file):
                return records
    return None


def _fits(records: np.ndarray, file: _File) -> bool:
    offsets, sizes = records.T
    if not len(records) or offsets[0] != 0 or sizes.min() < FRAMING or offsets[-1] + sizes[-1] != file.size:
        return False
    # An index made of a shard that was cut short covers it without a gap; its last header tells.
    last = file.read(int(offsets[-1]), HEADER) == header(int(sizes[-1]) - FRAMING)
    return last and bool((offsets[1:] == offsets[:-1] + sizes[:-1]).all())


def _cache_file(path: str) -> Path:
    folder = os.environ.get("YT8M_CACHE_DIR") or platformdirs.user_cache_dir("yt8m")
    return Path(folder, "index", hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def _read_cache(file: _File) -> np.ndarray | None:
    with contextlib.suppress(OSError, struct.error):
        data = _cache_file(file.path).read_bytes()
        magic, *stamp, crc = _CACHE_HEADER.unpack_from(data)
        body = data[_CACHE_HEADER.size :]
        if magic == _CACHE_MAGIC and tuple(stamp) == file.stamp and crc == google_crc32c.value(body):
            return np.frombuffer(body, "<i8").reshape(-1, 2).copy()
    return None


def _write_cache(file: _File, records: np.ndarray) -> None:
    body = records.astype("<i8").tobytes()
    target = _cache_file(file.path)
    # Whole or not at all, and a cache that cannot be written only costs time.
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_bytes(_CACHE_HEADER.pack(_CACHE_MAGIC, *file.stamp, google_crc32c.value(body)) + body)
        partial.replace(target)
