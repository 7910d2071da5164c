"""A folder of whole files with a limit in bytes, shared by the processes of a machine.

Nothing but the file system holds its state, so a process may die at any time. A file arrives as `KEY.part`, which its
writer locks, and is renamed when it is whole; a part whose lock is free was left behind. An open file carries a shared
lock, and only a file that nobody has locked is removed, the least recently used first. The system frees a dead
process's locks.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from yt8m.errors import ConfigError, WriteError

PATIENCE = 600.0  # seconds to wait for space that other processes use
POLL = 0.02  # seconds between two looks at a file that another process fetches

_OURS = re.compile(r"[0-9a-f]{40}\.(shard|part)")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


class BusyError(Exception):
    """Another process is fetching the file."""


def parse_bytes(text: str | int, key: str) -> int:
    """`200GB` as a number of bytes. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get(match[2].lower()) if match else None
    if not match or not unit or not float(match[1]):
        raise ConfigError(f"{key}: expected a size such as 200GB, found {text!r}")
    return int(float(match[1]) * unit)


class Cache:
    """Whole files by key (40 hexadecimal digits), at most `limit` bytes of them.

    Args:
        folder: on a local disk; it is made when the first file arrives. Files of other names are never touched.
        limit: bytes, those that are arriving included.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def has(self, key: str, size: int) -> bool:
        """Whether the file is here, whole."""
        try:
            return os.stat(self.path(key)).st_size == size
        except OSError:
            return False

    def open(
        self, key: str, size: int, fetch: Callable[[int], None], *, wait: bool = True
    ) -> tuple[int, bool]:
        """A descriptor of the whole file, which stays in the cache until it is closed; and whether it was there.

        Args:
            key: of the file.
            size: of the file, in bytes.
            fetch: writes the file to a descriptor; called if it is not there, by one process at a time.
            wait: False raises `BusyError` if another process is fetching it.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
            ConfigError: all of the limit is in use, by processes that do not end.
        """
        try:
            while True:
                fd = self._open_whole(key, size)
                if fd is not None:
                    return fd, True
                part = self._claim(key)
                if part is None:
                    if not wait:
                        raise BusyError
                    time.sleep(POLL)
                    continue
                # The last holder of the claim may have finished just before.
                if self.has(key, size):
                    self._drop(part, key)
                    continue
                return self._fill(part, key, size, fetch), False
        except OSError as error:
            raise WriteError(
                f"dataset.cache_dir: expected a folder to write to, found {self.folder}: {error.strerror or error}; "
                "free space on the disk, lower dataset.cache_limit, or choose another folder"
            ) from error

    def discard(self, key: str) -> None:
        """Remove a file, whoever uses it: they keep their copies."""
        with contextlib.suppress(OSError):
            os.unlink(self.path(key))

    def used(self) -> int:
        """Bytes of all files, those that are arriving included."""
        return sum(status.st_size for _, status in self._entries())

    def path(self, key: str, kind: str = "shard") -> str:
        """Where a file is, while it is open."""
        return os.path.join(self.folder, f"{key}.{kind}")

    def _open_whole(self, key: str, size: int) -> int | None:
        try:
            fd = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(fd, fcntl.LOCK_SH)
        status = os.fstat(fd)
        if status.st_nlink and status.st_size == size:
            with contextlib.suppress(OSError):  # another user's file
                os.utime(fd, ns=(time.time_ns(), status.st_mtime_ns))
            return fd
        os.close(fd)
        if status.st_nlink:  # somebody cut it
            self.discard(key)
        return None

    def _claim(self, key: str) -> int | None:
        """A descriptor of the part, locked for this process alone; None if another one has it."""
        path = self.path(key, "part")
        try:
            part = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._claim(key)
        with contextlib.suppress(OSError):
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(part).st_ino == os.stat(path).st_ino:
                os.truncate(part, 0)  # what a killed process left
                return part
        os.close(part)
        return None

    def _fill(self, part: int, key: str, size: int, fetch: Callable[[int], None]) -> int:
        try:
            self._reserve(part, size)
            while True:
                try:
                    fetch(part)
                    break
                except OSError as error:
                    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                    if not full or not self._remove_oldest(part):
                        raise
            # A cache that somebody emptied has no part any more; the descriptor is as good.
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path(key, "part"), self.path(key))
            fcntl.flock(part, fcntl.LOCK_SH)
            return part
        except BaseException:
            self._drop(part, key)
            raise

    def _drop(self, part: int, key: str) -> None:
        """Give up a claim."""
        with contextlib.suppress(OSError):
            os.unlink(self.path(key, "part"))
        os.close(part)

    def _reserve(self, part: int, size: int) -> None:
        """Give the part its size, once there is room for it below the limit and on the disk."""
        if size > self.limit:
            raise ConfigError(
                f"dataset.cache_limit: expected room for a shard of {size:,} bytes, found a limit of {self.limit:,}"
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._locked():
                while (over := self.used() + size > self.limit) or shutil.disk_usage(self.folder).free < size:
                    if not self._remove_oldest(part):
                        break
                else:
                    os.truncate(part, size)
                    return
            if not over:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"dataset.cache_limit: expected room for a shard of {size:,} bytes, found all {self.limit:,} bytes "
                    f"in use for {PATIENCE:.0f} s; raise it, or give other runs a dataset.cache_dir of their own"
                )
            time.sleep(POLL)

    def _remove_oldest(self, part: int) -> bool:
        """Remove the least recently used file that nobody uses, or a part that was left behind; False if none."""
        mine = os.fstat(part).st_ino
        for path, status in sorted(self._entries(), key=lambda entry: entry[1].st_atime_ns):
            if status.st_ino == mine:
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                return True
            except OSError:
                continue  # in use
            finally:
                os.close(fd)
        return False

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.path, entry.stat(follow_symlinks=False)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time makes room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
