"""What a YouTube-8M mirror serves: partitions, download plans, shares, file names. Pure functions, no I/O."""

import hashlib
import json
import re
import string
from dataclasses import dataclass

from yt8m.errors import ConfigError, FetchError

MIRRORS = ("us", "eu", "asia")
BASE_62 = string.ascii_lowercase + string.ascii_uppercase + string.digits

_PARTITION = re.compile(r"([0-9]+)/(video|frame|video_level|frame_level)/(train|validate|test)", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,9}),([0-9]{1,9})", re.ASCII)
_NUMBERED = re.compile(r"(train|validate|test)([a-zA-Z0-9])([a-zA-Z0-9])\.tfrecord", re.ASCII)
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.tfrecord", re.ASCII)
_MD5 = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)


@dataclass(frozen=True)
class Partition:
    """One partition of the dataset, such as `2/frame/train`."""

    version: str
    level: str
    split: str

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Reads `V/level/split`; raises `ConfigError` on anything else."""
        if not (match := _PARTITION.fullmatch(text)):
            raise ConfigError(
                f"partition: expected V/level/split (level: video, frame; split: train, validate, test), "
                f"found {text!r}; try partition=2/frame/train"
            )
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"{self.version}/{self.level}/{self.split}"

    @property
    def plan_path(self) -> str:
        """Path of the download plan under the plans' base URL."""
        return f"{self.version}/download_plans/{self.level}_{self.split}.json"

    @property
    def folder(self) -> str:
        """Folder under the dataset's root; `frame_level` goes to `frame`, where the dataset configs look."""
        return f"{self.version}/{self.level.removesuffix('_level')}/{self.split}"


@dataclass(frozen=True)
class Share:
    """Part `part` of `parts` of a partition's files, counted from 1."""

    part: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Reads `X,Y` with 1 ≤ X ≤ Y; raises `ConfigError` on anything else."""
        match = _SHARE.fullmatch(text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard: expected X,Y with 1 ≤ X ≤ Y, found {text!r}; try shard=1,100")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, name: str) -> bool:
        digest = hashlib.md5(name.encode(errors="surrogatepass"), usedforsecurity=False).digest()
        return int.from_bytes(digest, "big") % self.parts == self.part - 1


@dataclass(frozen=True)
class PlannedFile:
    """A file of a plan: its name on the mirror, the name it is stored under, its md5 in lower-case hex."""

    name: str
    stored_name: str
    md5: str


def stored_name(name: str) -> str:
    """The name that the official script stores: `trainab.tfrecord` → `train0001.tfrecord`, base 62 to decimal.

    It keeps apart `trainab` and `trainAB` on file systems that ignore case. Other names stay as they are.
    """
    if not (match := _NUMBERED.fullmatch(name)):
        return name
    split, high, low = match.groups()
    return f"{split}{BASE_62.index(high) * 62 + BASE_62.index(low):04d}.tfrecord"


def read_plan(body: bytes, share: Share) -> tuple[list[PlannedFile], dict[str, str]]:
    """Parse the files of one share from a download plan, which is not trusted.

    Returns:
        the files in order of their stored names, and the refused entries as {printable name: why}.

    Raises:
        FetchError: `body` is not of the form {"files": {name: md5}}.
    """
    try:
        files = json.loads(body)["files"]
        names = sorted(files.items())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise FetchError('not a download plan: expected JSON {"files": {name: md5}}') from None
    planned: dict[str, PlannedFile] = {}
    refused: dict[str, str] = {}
    for name, md5 in names:
        if name not in share:
            continue
        file = stored_name(name)
        if not _SAFE_NAME.fullmatch(name) or ".." in name:
            refused[ascii(name)] = "refused: the plan may name plain .tfrecord files only"
        elif not isinstance(md5, str) or not _MD5.fullmatch(md5):
            refused[name] = f"refused: the plan gives no md5 but {md5!a:.60}"
        elif file in planned:
            refused[name] = f"refused: would be stored as {file}, as would {planned[file].name}"
        else:
            planned[file] = PlannedFile(name, file, md5.lower())
    return [planned[file] for file in sorted(planned)], refused
