"""Work that one process of a machine does while the others wait for its result."""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from yt8m import errors
from yt8m.errors import RankError, YT8MError
from yt8m.files import cache_folder, write_json

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds without progress after which a waiting process gives up
_POLL = 0.2  # seconds


class Turn:
    """One process's turn at the work; it must report progress, or those that wait give up."""

    def __init__(self, files: Path | None):
        self._files = files
        self._reported = 0.0

    def progress(self) -> None:
        """Show those that wait that the work goes on."""
        if self._files and time.monotonic() - self._reported > 1:
            self._reported = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._files.with_suffix(".holder"))


@contextlib.contextmanager
def one_at_a_time(key: str, work: str) -> Iterator[Turn]:
    """Let one process of this machine do the work in the block at a time.

    Those that come later find what it left in the cache folder. If it fails, those that waited raise the same error. If
    it dies, one of them takes over: the system releases its lock. Without a cache folder every process works alone.

    Args:
        key: name of the work, usable as a file name.
        work: what it is, for messages: `indexing train`.

    Raises:
        RankError: the process that works has made no progress for `PATIENCE` seconds.
    """
    files = cache_folder() / "turns" / key
    lock = FileLock(files.with_suffix(".lock"))
    failed = files.with_suffix(".failed")
    before = _changed(failed)
    try:
        files.parent.mkdir(parents=True, exist_ok=True)
        waited = _acquire(lock, files, work)
    except (OSError, NotImplementedError):  # a cache that cannot be used only costs time
        yield Turn(None)
        return
    try:
        if waited and _changed(failed) not in (None, before):
            raise _error_in(failed)
        _note(files.with_suffix(".holder"), {"pid": os.getpid(), "host": socket.gethostname()})
        try:
            yield Turn(files)
        except YT8MError as error:
            _note(failed, {"type": type(error).__name__, "message": str(error)})
            raise
    finally:
        lock.release()


def _acquire(lock: FileLock, files: Path, work: str) -> bool:
    """Whether the lock was had only after waiting for another process."""
    began = seen = time.monotonic()
    last, told = None, False
    while True:
        try:
            lock.acquire(timeout=_POLL)
            return seen != began
        except Timeout:
            now = time.monotonic()
        beat = _changed(files.with_suffix(".holder"))
        if beat != last or seen == began:
            last, seen = beat, now
        if now - seen > PATIENCE:
            raise RankError(
                f"{work}: {_holder(files)} has made no progress for {PATIENCE:.0f} seconds; check the disk or the "
                "network mount of dataset.root, end that process, and start again"
            )
        if not told and now - began > 2:
            told = True
            log.info("%s: waiting for %s", work, _holder(files))


def _holder(files: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(files.with_suffix(".holder").read_text())
        return f"process {holder['pid']} on {holder['host']}"
    return "another process"


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _note(path: Path, content: dict[str, object]) -> None:
    with contextlib.suppress(YT8MError):
        write_json(path, content)


def _error_in(path: Path) -> YT8MError:
    """The error of the process that was waited for."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, message = getattr(errors, str(content["type"]), None), str(content["message"])
    except (OSError, ValueError, KeyError, TypeError):
        kind, message = None, "another process of this run failed; see its message"
    return kind(message) if isinstance(kind, type) and issubclass(kind, YT8MError) else RankError(message)
