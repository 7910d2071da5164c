"""A dataset's root in a bucket or on a web server: its shards, its sidecars, its small files."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from yt8m.errors import ConfigError, FetchError
from yt8m.files import cache_folder, write_bytes
from yt8m.storage import transport
from yt8m.storage.cache import Cache
from yt8m.storage.manifest import MANIFEST, Entry, from_csv
from yt8m.storage.shard import RemoteShard, identity_of

_LOOKUPS = 32  # requests at once, for the sizes of single objects and for sidecars
SMALLEST_LIMIT = 2  # windows: the one that is read, and the one that follows; two more shards for validation


@dataclass(frozen=True)
class RemoteFolder:
    """A folder that fsspec can read.

    Args:
        address: such as `s3://bucket/yt8m`, without a slash at the end.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str | os.PathLike[str]) -> "RemoteFolder":
        return RemoteFolder(f"{self.address}/{os.fspath(name)}")

    @property
    def name(self) -> str:
        return self.address.rstrip("/").rpartition("/")[2]


def fetch_file(address: str) -> Path | None:
    """A local copy of a small file, such as a vocabulary; None if there is no such object."""
    try:
        content = transport.read(address, transport.FIRST_ATTEMPTS)
    except (FileNotFoundError, IsADirectoryError):
        return None
    folder = cache_folder() / "files" / hashlib.sha256(address.encode()).hexdigest()[:32]
    target = folder / re.sub(r"[^\w.-]", "_", address.rpartition("/")[2])
    write_bytes(target, content)
    return target


def read_manifest(root: RemoteFolder, name: str | None) -> list[Entry] | None:
    """The entries of a manifest below the root, or at an address or a path; without a name, of the usual one or None.

    Raises ConfigError if there is none of that name, or if it is not a manifest.
    """
    if name is None:
        address, where = f"{root}/{MANIFEST}", None
    elif transport.is_remote(name):
        transport.check_address(name, "dataset.manifest")
        address, where = name, name
    elif os.path.isabs(os.path.expanduser(name)):
        path = Path(name).expanduser()
        try:
            return from_csv(path.read_bytes(), str(path))
        except OSError as error:
            raise ConfigError(
                f"dataset.manifest: expected a file, found {error.strerror} at {path}"
            ) from None
    else:
        address = where = f"{root}/{name}"
    try:
        return from_csv(transport.read(address, transport.FIRST_ATTEMPTS), address)
    except (FileNotFoundError, IsADirectoryError):
        if where is None:
            return None
    except FetchError:
        # A bucket whose contents may be read but not listed denies what is not there.
        if where is None:
            return None
        raise
    raise ConfigError(f"dataset.manifest: expected a file, found nothing at {address}")


def find_remote_shards(
    root: RemoteFolder, pattern: str, key: str, cache: Cache, manifest: Sequence[Entry] | None
) -> list[RemoteShard]:
    """The objects that match a glob, sorted; from the manifest, if there is one, else from a listing.

    Args:
        root: folder that the glob is relative to, unless it is an address.
        pattern: the glob; `**` matches any number of folders.
        key: the glob's configuration key, for messages.
        cache: where the shards will be kept.
        manifest: of the root.

    Raises:
        ConfigError: nothing matches.
        FetchError: the listing failed.
    """
    absolute = transport.is_remote(pattern)
    if absolute:
        transport.check_address(pattern, key)
    if manifest is not None and not absolute:
        shards = _from_manifest(root, pattern, cache, manifest)
    else:
        shards = _from_listing(pattern if absolute else f"{glob.escape(str(root))}/{pattern}", cache)
    if not shards:
        where = "the manifest" if manifest is not None and not absolute else "the bucket"
        raise ConfigError(
            f"{key}: expected shards at {pattern if absolute else root / pattern}, found none in {where}; set "
            f"dataset.root or {key}"
        )
    return sorted(shards, key=lambda shard: shard.address)


def check_limit(cache: Cache, shards: Iterable[RemoteShard], window: int) -> None:
    """Raise ConfigError if the cache cannot hold what a training needs at once."""
    sizes = sorted((shard.size for shard in shards), reverse=True)
    least = sum(sizes[: SMALLEST_LIMIT * window + 2])
    if cache.limit < least:
        raise ConfigError(
            f"dataset.cache_limit: expected {least / 1e9:,.2f} GB or more, two windows of {window} shards "
            f"(dataset.shuffle_window) and two for validation, found {cache.limit / 1e9:,.2f} GB; raise it, free "
            "space on the disk, or lower dataset.shuffle_window"
        )


def _from_manifest(
    root: RemoteFolder, pattern: str, cache: Cache, manifest: Sequence[Entry]
) -> list[RemoteShard]:
    matches = re.compile(glob_translate(pattern)).match
    return [
        RemoteShard(
            f"{root}/{entry.shard}",
            entry.bytes,
            f"crc32c={entry.crc32c:08x}",
            cache,
            entry.records,
            entry.crc32c,
        )
        for entry in manifest
        if matches(entry.shard)
    ]


def find_objects(pattern: str, cache: Cache) -> list[RemoteShard]:
    """The objects that match a glob of addresses, from a listing. Raises FetchError."""
    try:
        found: dict[str, dict[str, Any]] = transport.call(
            pattern, "list", lambda fs: fs.glob(pattern, detail=True), transport.FIRST_ATTEMPTS
        )
    except FileNotFoundError:
        return []
    fs = transport.filesystem(pattern)
    objects = {
        fs.unstrip_protocol(path): info for path, info in found.items() if info.get("type", "file") == "file"
    }

    def complete(address: str) -> RemoteShard:
        info = objects[address]
        if info.get("size") is None or not identity_of(info):  # a web server's listing has only names
            info = transport.call(address, "look up", lambda fs: fs.info(address))
        if info.get("size") is None:
            raise FetchError(
                f"{address}: expected a server that tells sizes (Content-Length), found none; use another"
            )
        return RemoteShard(address, info["size"], identity_of(info), cache)

    with ThreadPoolExecutor(_LOOKUPS) as pool:
        return list(pool.map(complete, objects))


def _from_listing(full: str, cache: Cache) -> list[RemoteShard]:
    shards = find_objects(full, cache)
    sidecars = _sidecars(shards)
    return [replace(shard, sidecar=sidecars.get(shard.address)) for shard in shards]


def _sidecars(shards: Sequence[RemoteShard]) -> dict[str, str]:
    """Addresses of the `.tfindex` beside shards that are not older than their shards."""
    found: dict[str, str] = {}
    for folder in {shard.address.rpartition("/")[0] for shard in shards}:
        try:
            listed: list[dict[str, Any]] = transport.call(
                folder, "list", partial(_listed, folder=folder), transport.FIRST_ATTEMPTS
            )
        except FileNotFoundError:
            continue
        fs = transport.filesystem(folder)
        infos = {fs.unstrip_protocol(info["name"]): info for info in listed}
        for shard in shards:
            if shard.address.rpartition("/")[0] != folder:
                continue
            stem = os.path.splitext(shard.address)[0]
            for name in (f"{stem}.tfindex", f"{shard.address}.tfindex"):
                if name in infos and not _is_older(infos[name], infos.get(shard.address, {})):
                    found[shard.address] = name
    return found


def _listed(fs: Any, folder: str) -> list[dict[str, Any]]:
    return list(fs.ls(folder, detail=True))


def _is_older(sidecar: dict[str, Any], shard: dict[str, Any]) -> bool:
    for key in ("LastModified", "mtime", "updated", "created"):
        if sidecar.get(key) and shard.get(key):
            return bool(sidecar[key] < shard[key])
    return False
