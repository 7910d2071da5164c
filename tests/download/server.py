"""A mirror on loopback that speaks the download protocol, and misbehaves as it is told."""

import functools
import hashlib
import json
import random
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from yt8m.config import CONFIG_DIR
from yt8m.download.download import download
from yt8m.download.verified import RECORD
from yt8m.schema import validate

PARTITION = "2/frame/train"
SIZE = 300_000
NAMES = {"trainaa.tfrecord": "train0000.tfrecord", "trainab.tfrecord": "train0001.tfrecord"}
FIRST = "/2/frame/train/trainaa.tfrecord"
WHOLE = ["2/frame/train/train0000.tfrecord", "2/frame/train/train0001.tfrecord"]
LABELS = ["segment_label_ids.csv", "vocabulary.csv"]
FAST = ["backoff=0.01", "max_backoff=0.05", "read_timeout=0.4", "retries=3"]


@dataclass
class Request:
    """One request as the server saw it; `sent` counts the bytes of the body that went out."""

    method: str
    path: str
    range: str | None
    sent: int = 0


@dataclass
class Fault:
    """What goes wrong with one answer.

    Args:
        status: answered instead of the file.
        headers: added to the answer, or put in place of its own; None takes one out.
        body: sent instead of the file's bytes.
        cut: the connection ends after so many bytes of the body.
        stall: the connection goes silent after so many bytes of the body.
        wait: called before the answer.
        ignore_range: the file is sent from its first byte whatever was asked for.
    """

    status: int | None = None
    headers: dict[str, str | None] | None = None
    body: bytes | None = None
    cut: int | None = None
    stall: int | None = None
    wait: Callable[[], object] | None = None
    ignore_range: bool = False


class Mirror(ThreadingHTTPServer):
    """Serves `files` {path: bytes} on loopback.

    `faults[path]` holds what the next GETs of a path meet, one each, and `always[path]` what all further ones
    do. `requests` logs all that was asked.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.closing = threading.Event()

    def add_partition(self, partition: str, files: dict[str, bytes], **plan: str) -> None:
        """Serves `files` {name: bytes} and their plan; `plan` gives further, or false, md5s."""
        version, level, split = partition.split("/")
        md5s = {name: hashlib.md5(body).hexdigest() for name, body in files.items()} | plan
        self.files[f"/{version}/download_plans/{level}_{split}.json"] = json.dumps({"files": md5s}).encode()
        self.files |= {f"/{partition}/{name}": body for name, body in files.items()}

    def asked(self, *methods: str, ending: str = ".tfrecord") -> list[Request]:
        """The requests so far for paths of that ending, by default those for shards."""
        return [
            r for r in self.requests if r.path.endswith(ending) and r.method in (methods or ("GET", "HEAD"))
        ]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up, as killed ones do, is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for the client's delayed acknowledgement
    server: Mirror

    def do_HEAD(self) -> None:
        self._answer(Fault())

    def do_GET(self) -> None:
        faults = self.server.faults[self.path]
        self._answer(faults.pop(0) if faults else self.server.always.get(self.path, Fault()))

    def _answer(self, fault: Fault) -> None:
        request = Request(self.command, self.path, self.headers["Range"])
        self.server.requests.append(request)
        body = self.server.files.get(self.path)
        status, headers = (200, {}) if body is not None else (404, {})
        body = fault.body if fault.body is not None else body or b""
        if request.range and not fault.ignore_range and status == 200:
            start, size = int(re.fullmatch(r"bytes=(\d+)-", request.range)[1]), len(body)
            status, body = (206, body[start:]) if start < size else (416, b"")
            whole = f"{start}-{size - 1}" if status == 206 else "*"
            headers["Content-Range"] = f"bytes {whole}/{size}"
        if fault.status:
            status, body = fault.status, b""
        headers |= {"Content-Length": str(len(body))} | (fault.headers or {})
        if fault.wait:
            fault.wait()
        self.send_response(status)
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = min(n for n in (fault.cut, fault.stall, len(body)) if n is not None)
        for at in range(0, end, 1 << 14):
            piece = body[at : min(end, at + (1 << 14))]
            self.wfile.write(piece)
            request.sent += len(piece)
        if fault.stall is not None:
            self.server.closing.wait(30)
        if end < len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Silent; `Mirror.requests` is the log."""


@contextmanager
def serving() -> Iterator[Mirror]:
    """A mirror with the two shards `NAMES` of `PARTITION`, and the label files."""
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.add_partition(PARTITION, {name: some_bytes(i) for i, name in enumerate(NAMES)})
    server.files["/vocabulary.csv"] = b"Index,TrainVideoCount\n0,1\n"
    server.files["/segment_label_ids.csv"] = b"Index\n3\n"
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def some_bytes(seed: int, size: int = SIZE) -> bytes:
    """Bytes that nothing but `seed` decides."""
    return random.Random(seed).randbytes(size)


def path_of(name: str) -> str:
    """Where the mirror has a shard of `PARTITION`."""
    return f"/{PARTITION}/{name}"


def arguments(mirror: Mirror, root: Path, *more: str) -> list[str]:
    """The command line for a quick download of `PARTITION` from `mirror`."""
    bases = [f"plan_base={mirror.url}", f"file_base={mirror.url}"]
    labels = [f"{name}_url={mirror.url}/{name}.csv" for name in ("vocabulary", "segment_label_ids")]
    return [f"partition={PARTITION}", f"root={root}", *bases, *labels, *FAST, *more]


@functools.cache
def defaults() -> DictConfig:
    """The configuration that Hydra composes of `conf/download.yaml`."""
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("download")


def run(mirror: Mirror, root: Path, *more: str) -> None:
    """Downloads in this process."""
    overrides = OmegaConf.from_dotlist(arguments(mirror, root, *more))
    config = OmegaConf.to_container(OmegaConf.merge(defaults(), overrides), resolve=True)
    validate("download", config)
    download(config)


def leftovers(root: Path) -> list[str]:
    """All files below `root` but the records of what was verified."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != RECORD)
