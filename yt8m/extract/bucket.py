"""Output in a bucket: shards are written to a folder of this machine, uploaded whole, and then removed from it."""

import json
from pathlib import Path

from yt8m.datamodules.partition import fingerprint
from yt8m.errors import ConfigError
from yt8m.extract.plan import MANIFEST
from yt8m.extract.records import LEVELS
from yt8m.files import cache_folder, write_bytes
from yt8m.storage import transport

_UNWRITABLE = {
    "http": "a web server, which takes no files",
    "https": "a web server, which takes no files",
    "memory": "the memory of this process, which ends with it",
}


class BucketOutput:
    """The output at an address such as `s3://bucket/features`.

    The manifest is uploaded after the shards that it names, so it never names one that is not there. A run that was
    killed leaves its last shards in `work`; the next one uploads those that the bucket does not have.

    Raises:
        ConfigError: nothing can be written to such an address.
    """

    def __init__(self, address: str):
        transport.check_address(address, "output")
        if found := _UNWRITABLE.get(transport.protocol_of(address)):
            raise ConfigError(
                f"output: expected a folder or a bucket, such as s3://, found {address}: {found}"
            )
        self.address = address.rstrip("/")
        self.work = cache_folder() / "extract" / fingerprint(self.address)
        self._seen: bytes | None = None  # the bucket's manifest, as this run knows it

    def __str__(self) -> str:
        return self.address

    def begin(self) -> None:
        """Continue where the bucket is: upload what is left in `work`, else fetch the manifest.

        Raises:
            ConfigError: another machine has written there since.
            FetchError: the bucket cannot be read.
            WriteError: it cannot be written.
        """
        self._seen = self._fetch()
        if self._left():
            if not _videos(self._seen) <= _videos(self._mine()):
                raise ConfigError(
                    f"output: expected {self.address} as this machine left it, found videos of another run; choose "
                    f"another output, or delete {self.work} with the shards that were not uploaded"
                )
            self.upload()
        elif self._seen is not None:
            write_bytes(self.work / MANIFEST, self._seen)
        else:
            (self.work / MANIFEST).unlink(missing_ok=True)

    def upload(self) -> None:
        """Upload the shards that the manifest in `work` names, then the manifest. Raises what `begin` raises."""
        mine = self._mine()
        if self._fetch() not in (self._seen, mine):
            raise ConfigError(
                f"output: expected {self.address} for this run alone, found that another one writes to it; choose "
                "another output"
            )
        shards = self._left()
        for path in shards:
            target = f"{self.address}/{path.relative_to(self.work)}"
            if not transport.is_uploaded(path, target):
                transport.upload(path, target)
        transport.write(f"{self.address}/{MANIFEST}", mine)
        self._seen = mine
        for path in shards:
            path.unlink()

    def _fetch(self) -> bytes | None:
        try:
            return transport.read(f"{self.address}/{MANIFEST}", transport.FIRST_ATTEMPTS)
        except FileNotFoundError:
            return None

    def _mine(self) -> bytes:
        return (self.work / MANIFEST).read_bytes()

    def _left(self) -> list[Path]:
        """The shards in `work` that its manifest names."""
        if not (self.work / MANIFEST).is_file():
            return []
        entries = json.loads(self._mine())
        names = {(entries["settings"]["partition"], one["shard"]) for one in entries["videos"].values()}
        paths = [self.work / "2" / level / part / name for part, name in sorted(names) for level in LEVELS]
        return [path for path in paths if path.is_file()]


def _videos(manifest: bytes | None) -> set[str]:
    return set(json.loads(manifest)["videos"]) if manifest else set()
