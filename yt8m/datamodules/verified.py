"""Remembers which files of a folder were found right, so that nobody has to read terabytes twice."""

import fcntl
import json
import os
from pathlib import Path
from typing import TextIO

from yt8m.errors import ConfigError

NAME = ".yt8m-download.jsonl"


class VerifiedFiles:
    """The files of a folder whose md5 was checked, by (size, modification time, md5).

    A file that changed since is not known any more. `lock` makes the record writable, and makes this the only
    process to download into the folder; each file found right is one line appended, so a line torn
    by a crash costs one file's check and nothing else.
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self._file: TextIO | None = None
        self._known: dict[str, tuple] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    name, *what = json.loads(line)
                    self._known[name] = tuple(what)
                except (ValueError, TypeError):
                    continue

    def lock(self) -> None:
        """Takes the folder until `close` or the end of the process; raises `ConfigError` if another has it."""
        self._file = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"{self.path.parent}: another download is at work in this folder; wait for its end, or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks, as some clusters have, must still be usable

    def close(self) -> None:
        """Gives the folder free."""
        if self._file:
            self._file.close()
            self._file = None

    def __contains__(self, file: tuple[Path, str]) -> bool:
        """Whether (path, md5) was found right and has not changed since."""
        path, md5 = file
        return self._known.get(path.name) == _state(path, md5)

    def add(self, path: Path, md5: str) -> None:
        """Remembers that `path` has this md5; written only while locked."""
        if (path, md5) in self:
            return
        self._known[path.name] = _state(path, md5)
        if self._file:
            # The line break comes first, so that a line torn by a crash does not spoil this one.
            self._file.write("\n" + json.dumps([path.name, *_state(path, md5)]))
            self._file.flush()


def _state(path: Path, md5: str) -> tuple[int, int, str]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, md5
