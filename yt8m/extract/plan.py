"""Which files to extract, under which id, and what an earlier run has done."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from yt8m.errors import ConfigError
from yt8m.files import read_json, write_json
from yt8m.storage import transport
from yt8m.storage.folder import find_objects
from yt8m.storage.shard import RemoteShard
from yt8m.storage.storage import Storage

MANIFEST = "extract.json"

# The fixed folder of the pattern, (size, mtime_ns), and the object of a bucket.
_Found = tuple[str, tuple[int, int], RemoteShard | None]


@dataclass(frozen=True)
class Video:
    """A file to extract: its path or address, its id in the records, and what shows that it has not changed.

    ``mtime_ns`` of an object in a bucket is a hash of its ETag.
    """

    path: str
    id: str
    size: int
    mtime_ns: int
    remote: RemoteShard | None = None

    def key(self, settings: dict[str, Any]) -> str:
        """A name for what these settings make of this file."""
        own = {"path": self.path, "id": self.id, "size": self.size, "mtime_ns": self.mtime_ns}
        text = json.dumps([own, settings], sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass
class Manifest:
    """What a folder holds: the settings, and an entry for each video; written after each shard.

    ``videos`` maps a path to {id, size, mtime_ns, frames, shard, notes}; ``failed`` a path to its error, of the last
    run only.
    """

    settings: dict[str, Any]
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, settings: dict[str, Any]) -> "Manifest":
        """The manifest in `root`, or a new one.

        Raises:
            ConfigError: it is damaged, or an earlier run had other settings.
        """
        path = root / MANIFEST
        try:
            found = read_json(path)
            if not found:
                return cls(settings)
            manifest = cls(found["settings"], dict(found["videos"]))
            earlier = dict(manifest.settings)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError(
                f"output: expected the record of an earlier run in {path}, found: {error}"
            ) from None
        for key, value in settings.items():
            if earlier.get(key) != value:
                raise ConfigError(
                    f"output: expected {key} = {earlier.get(key)} as in {path}, found {value}; choose another output"
                )
        return manifest

    def write(self, root: Path) -> None:
        write_json(root / MANIFEST, asdict(self))

    def left(self, videos: Sequence[Video]) -> list[Video]:
        """The videos that are in no shard yet.

        Raises:
            ConfigError: a file was changed after it was extracted.
        """
        left = []
        for video in videos:
            entry = self.videos.get(video.path)
            if entry is None:
                left.append(video)
            elif (entry["size"], entry["mtime_ns"]) != (video.size, video.mtime_ns):
                raise ConfigError(
                    f"videos: expected {video.path} as when it was extracted, found another; choose another output"
                )
        return left

    @property
    def shards(self) -> int:
        return len({entry["shard"] for entry in self.videos.values()})

    @property
    def next_number(self) -> int:
        """The number of the next shard."""
        numbers = [
            int("".join(filter(str.isdigit, entry["shard"].split(".")[0]))) for entry in self.videos.values()
        ]
        return max(numbers, default=-1) + 1


def find_videos(patterns: Sequence[str], output: Path, manifest: Manifest) -> list[Video]:
    """The files that match, sorted. An id is the path below the pattern's fixed folder, without its ending.

    Raises:
        ConfigError: nothing matches.
    """
    found: dict[str, _Found] = {}
    for pattern in patterns:
        remote = transport.is_remote(pattern)
        matches = _find_remote(pattern) if remote else _find_local(transport.local_path(pattern), output)
        for name, file in matches.items():
            found.setdefault(name, file)
    taken = {entry["id"]: path for path, entry in manifest.videos.items()}
    videos = []
    for name, (base, stamp, shard) in sorted(found.items()):
        below = _printable(name.removeprefix(base) if shard else Path(name).relative_to(base).as_posix())
        choices = (os.path.splitext(below)[0], below, _printable(name))
        identifier = next(one for one in choices if taken.get(one, name) == name)
        taken[identifier] = name
        videos.append(Video(name, identifier, *stamp, shard))
    return videos


def _find_local(pattern: str, output: Path) -> dict[str, _Found]:
    """Files outside of the output that match, with the pattern's fixed folder and their size and mtime_ns."""
    expanded = os.path.abspath(os.path.expanduser(pattern))
    base = Path(expanded)
    while has_magic(str(base)) or not base.is_dir():
        base = base.parent
    matches = [expanded] if os.path.isfile(expanded) else glob(expanded, recursive=True)
    if matches and all(map(os.path.isdir, matches)):
        raise ConfigError(
            f"videos: expected files, found the folder {matches[0]}; set videos={pattern}/**/*.mp4"
        )
    if not matches:
        raise ConfigError(f"videos: expected local files that match {pattern}, found none")
    found: dict[str, _Found] = {}
    for name in matches:
        if os.path.isfile(name) and not Path(name).is_relative_to(output.absolute()):
            status = os.stat(name)
            found[name] = str(base), (status.st_size, status.st_mtime_ns), None
    if not found:
        raise ConfigError(f"videos: expected files outside of {output}, found none")
    return found


def _find_remote(pattern: str) -> dict[str, _Found]:
    """Objects that match, with the fixed beginning of their addresses and their stamps."""
    transport.check_address(pattern, "videos")
    base = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0] + "/"
    objects = find_objects(pattern, Storage(base).cache)
    if not objects:
        raise ConfigError(f"videos: expected files that match {pattern}, found none in the bucket")
    return {one.address: (base, one.stamp, one) for one in objects}


def _printable(text: str) -> str:
    """A file's name as text that any terminal and any reader of UTF-8 takes."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
