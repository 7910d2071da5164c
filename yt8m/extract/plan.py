"""Which files to extract, under which id, and what an earlier run has done."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from yt8m.errors import ConfigError
from yt8m.files import read_json, write_json

MANIFEST = "extract.json"


@dataclass(frozen=True)
class Video:
    """A file to extract: its path, its id in the records, and what shows that it has not changed."""

    path: str
    id: str
    size: int
    mtime_ns: int

    def key(self, settings: dict[str, Any]) -> str:
        """A name for what these settings make of this file."""
        text = json.dumps([asdict(self), settings], sort_keys=True)
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
    found: dict[str, Path] = {}
    for pattern in patterns:
        expanded = os.path.abspath(os.path.expanduser(pattern))
        base = Path(expanded)
        while has_magic(str(base)) or not base.is_dir():
            base = base.parent
        matches = [expanded] if os.path.isfile(expanded) else glob(expanded, recursive=True)
        if matches and all(map(os.path.isdir, matches)):
            raise ConfigError(
                f"videos: expected files, found the folder {matches[0]}; set videos={pattern}/**/*.mp4"
            )
        for match in matches:
            path = Path(match)
            if path.is_file() and not path.is_relative_to(output.absolute()):
                found.setdefault(str(path), base)
        if not matches:
            raise ConfigError(f"videos: expected local files that match {pattern}, found none")
    if not found:
        raise ConfigError(f"videos: expected files outside of {output}, found none")
    taken = {entry["id"]: path for path, entry in manifest.videos.items()}
    videos = []
    for name, base in sorted(found.items()):
        status = os.stat(name)
        below = _printable(Path(name).relative_to(base).as_posix())
        choices = (str(Path(below).with_suffix("")), below, _printable(name))
        identifier = next(one for one in choices if taken.get(one, name) == name)
        taken[identifier] = name
        videos.append(Video(name, identifier, status.st_size, status.st_mtime_ns))
    return videos


def _printable(text: str) -> str:
    """A file's name as text that any terminal and any reader of UTF-8 takes."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
