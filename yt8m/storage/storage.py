"""Where the shards of a dataset come from: a local folder, or any file system of fsspec through the cache."""

import os
import shutil
from functools import cached_property
from pathlib import Path

from yt8m.errors import ConfigError
from yt8m.files import cache_folder
from yt8m.storage import transport
from yt8m.storage.cache import Cache, parse_bytes
from yt8m.storage.folder import (
    RemoteFolder,
    check_limit,
    fetch_file,
    find_remote_shards,
    read_manifest,
)
from yt8m.storage.manifest import Entry
from yt8m.storage.shard import RemoteShard

_SHARE = 2  # a cache may take the free space of its disk divided by this


class Storage:
    """A dataset's root, its manifest, and the cache of its shards. Connects to nothing before it has to.

    Args:
        root: a path (`~` is expanded) or an address such as `s3://bucket/yt8m`.
        manifest: its name below a remote root, or a path or an address; None uses `manifest.csv` if there is one.
        cache_dir: folder of the cache; None for one in the user's cache folder (`YT8M_CACHE_DIR`).
        cache_limit: such as 200GB; None for half of the disk's free space.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        manifest: str | None = None,
        cache_dir: str | None = None,
        cache_limit: str | int | None = None,
    ):
        text = os.fspath(root)
        self.root: Path | RemoteFolder
        if transport.is_remote(text):
            transport.check_address(text, "dataset.root")
            self.root = RemoteFolder(text.rstrip("/"))
        else:
            try:
                self.root = Path(transport.local_path(text)).expanduser()
            except RuntimeError as error:
                raise ConfigError(f"dataset.root: expected a folder, found {text}: {error}") from None
            if manifest is not None:
                raise ConfigError(
                    f"dataset.manifest: expected none for the local folder {text}, whose shards are indexed, found "
                    f"{manifest}"
                )
        if cache_dir is not None and transport.is_remote(cache_dir):
            raise ConfigError(f"dataset.cache_dir: expected a folder on a local disk, found {cache_dir}")
        self._manifest, self._cache_dir = manifest, cache_dir
        self._fetched: dict[str, Path | None] = {}
        self._limit = None if cache_limit is None else parse_bytes(cache_limit, "dataset.cache_limit")

    @property
    def name(self) -> str:
        """Of the root, for titles."""
        return self.root.name if isinstance(self.root, RemoteFolder) else self.root.resolve().name

    def is_remote(self, pattern: str) -> bool:
        """Whether the shards of a glob lie elsewhere."""
        if isinstance(self.root, RemoteFolder) and not os.path.isabs(pattern):
            return True
        return transport.is_remote(pattern)

    def find(self, pattern: str, key: str, window: int) -> list[RemoteShard]:
        """The remote shards of a glob, sorted; `window` of them must fit into the cache, twice.

        Raises ConfigError for no match or a cache that is too small, and FetchError.
        """
        root = self.root if isinstance(self.root, RemoteFolder) else RemoteFolder("")
        manifest = None if transport.is_remote(pattern) else self.manifest
        shards = find_remote_shards(root, pattern, key, self.cache, manifest)
        check_limit(self.cache, shards, window)
        return shards

    def file(self, name: str | os.PathLike[str]) -> Path | None:
        """A small file below the root, as a local path, fetched once; None if there is no such file."""
        path = Path(name).expanduser()
        if isinstance(self.root, Path):
            path = self.root / path  # an absolute one stays as it is
        elif not path.is_absolute():
            address = str(self.root / name)
            if address not in self._fetched:
                self._fetched[address] = fetch_file(address)
            return self._fetched[address]
        return path if path.is_file() else None

    @cached_property
    def manifest(self) -> list[Entry] | None:
        """The entries of the manifest of a remote root, or None."""
        return read_manifest(self.root, self._manifest) if isinstance(self.root, RemoteFolder) else None

    @cached_property
    def cache(self) -> Cache:
        """The cache, which is made when the first shard arrives."""
        folder = (
            Path(self._cache_dir).expanduser().absolute() if self._cache_dir else cache_folder() / "shards"
        )
        cache = Cache(folder, self._limit or 0)
        if self._limit is None:
            existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
            cache.limit = (shutil.disk_usage(existing).free + cache.used()) // _SHARE
        return cache
