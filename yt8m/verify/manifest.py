"""The manifest that a verification writes."""

import os
from collections.abc import Sequence
from pathlib import Path

from yt8m.errors import ConfigError
from yt8m.files import write_text
from yt8m.storage import transport
from yt8m.storage.folder import RemoteFolder
from yt8m.storage.manifest import Entry, to_csv
from yt8m.storage.shard import RemoteShard


class OutputManifest:
    """A manifest to write, or none.

    Args:
        target: path or address; None writes nothing.
        root: of the dataset; the manifest's names are relative to it.
        overwrite: whether a file may be there.

    Raises:
        ConfigError: the target cannot be used.
    """

    def __init__(self, target: str | None, root: Path | RemoteFolder, overwrite: bool):
        self.target, self.root = target, root
        if not target:
            return
        if transport.is_remote(target):
            transport.check_address(target, "manifest")
            there = bool(
                transport.call(target, "look up", lambda fs: fs.exists(target), transport.FIRST_ATTEMPTS)
            )
        else:
            path = Path(transport.local_path(target)).expanduser()
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise ConfigError(f"manifest: expected a file in an existing folder, found {path}")
            self.target, there = str(path), path.exists()
        if there and not overwrite:
            raise ConfigError(f"manifest: {self.target} exists; choose another file, or set overwrite=true")

    def check(self, shards: Sequence[Path | RemoteShard]) -> None:
        """Raise ConfigError for a shard that is not below the root."""
        for shard in shards if self.target else ():
            self._name(os.fspath(shard))

    def write(self, found: Sequence[tuple[str, int, int, int]]) -> None:
        """Write (path, records, bytes, CRC-32C) of all shards. Raises WriteError."""
        if not self.target:
            return
        text = to_csv(Entry(self._name(path), *rest) for path, *rest in sorted(found))
        if transport.is_remote(self.target):
            transport.write(self.target, text.encode())
        else:
            write_text(self.target, text)
        print(f"manifest of {len(found):,} shards: {self.target}")

    def _name(self, path: str) -> str:
        is_local = isinstance(self.root, Path)
        name = os.path.relpath(path, self.root) if is_local else path.removeprefix(f"{self.root}/")
        if name.startswith("../") or name == path:
            raise ConfigError(
                f"manifest: expected shards below dataset.root, found {path}; set dataset.root to a folder above it"
            )
        return name
