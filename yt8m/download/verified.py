"""Remember which files were verified, so that terabytes are not hashed twice."""

import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from yt8m.errors import ConfigError

RECORD = ".yt8m-download.jsonl"


class VerifiedFiles:
    """The files of a folder whose md5 was checked, known by size and modification time.

    Each file found right is one appended line: a line torn by a crash costs one more check of one file.

    Args:
        folder: where the files lie.
        writable: whether to record what `add` is told. The folder must exist, and is locked against other
            processes until the context ends; raises `ConfigError` if another process holds the lock.
    """

    def __init__(self, folder: Path, writable: bool):
        self._file = _locked(folder / RECORD) if writable else None
        self._known: dict[str, tuple[int, int, str]] = {}
        if (folder / RECORD).exists():
            for line in (folder / RECORD).read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    name, *state = json.loads(line)
                    self._known[name] = tuple(state)
                except (ValueError, TypeError):
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def knows(self, path: Path, md5: str) -> bool:
        """Whether `path` was verified to have this md5 and has not changed since."""
        return self._known.get(path.name) == _state(path, md5)

    def add(self, path: Path, md5: str) -> None:
        """Record that `path` has this md5."""
        if self._file and not self.knows(path, md5):
            self._known[path.name] = _state(path, md5)
            # The line break comes first, so that a line torn by a crash does not spoil this one.
            self._file.write("\n" + json.dumps([path.name, *_state(path, md5)]))
            self._file.flush()


def _state(path: Path, md5: str) -> tuple[int, int, str]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, md5


def _locked(path: Path) -> TextIO:
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            f"{path.parent}: another download is at work in this folder; wait for it to finish, or stop it"
        ) from None
    except OSError:
        pass  # a file system without locks, as some clusters have, must still be usable
    return file
