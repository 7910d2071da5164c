"""Files that are written whole or not at all, JSON, and the user's cache folder."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs

from yt8m.errors import WriteError

#: Bytes per write. Linux puts a larger write into large pages of its cache, which it often has to clear up first: up to
#: six times slower.
PIECE = 256 << 10


class PiecewiseWriter(io.BufferedWriter):
    """A file whose large writes reach the kernel in pieces."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            super().write(view[start : start + PIECE])
        return len(view)


def cache_folder() -> Path:
    """The folder of all that this package keeps on the machine; `YT8M_CACHE_DIR` overrides the user's cache folder."""
    return Path(os.environ.get("YT8M_CACHE_DIR") or platformdirs.user_cache_dir("yt8m"))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` when the block ends, removed when it raises.

    So a reader, or a later run after a crash, finds the old file or the new one, never a part of one.

    Args:
        path: the final name; missing parent folders are made.
        sync: flush the file to the disk before it is renamed, so that a power failure cannot leave it empty.

    Raises:
        WriteError: the file could not be written. An earlier file is untouched.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(
                f"{target}: could not be written ({error.strerror or error}); free space on the disk or choose "
                "another folder"
            ) from error
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace `path` atomically. Raises WriteError."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Replace `path` atomically with UTF-8 text. Raises WriteError."""
    write_bytes(path, content.encode())


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Replace `path` atomically with indented JSON. Raises WriteError."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
