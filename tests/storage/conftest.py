"""An S3 server with a proxy before it, and a cache of each test's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import tenacity

from tests.storage.s3 import BUCKET, FaultProxy, environment, moto_server
from yt8m.storage import transport


@dataclass
class Bucket:
    """A folder of its own in the bucket, reached through a proxy."""

    root: str
    proxy: FaultProxy

    def put(self, name: str, content: bytes) -> None:
        transport.write(f"{self.root}/{name}", content)

    def upload(self, folder: Path) -> None:
        """Every file of a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(str(path.relative_to(folder)), path.read_bytes())
        self.proxy.requests.clear()

    def delete(self, name: str) -> None:
        transport.filesystem(self.root).rm(f"{self.root}/{name}")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    proxy = FaultProxy(s3_server)
    for name, value in environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transport, "WAIT", tenacity.wait_none())
    root = f"s3://{BUCKET}/{uuid4().hex}"
    transport.forget(root)
    fs = transport.filesystem(root)
    if not fs.exists(BUCKET):
        fs.mkdir(BUCKET)
    yield Bucket(root, proxy)
    transport.forget(root)
    proxy.shutdown()
    proxy.server_close()
