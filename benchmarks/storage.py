"""Shards from S3 through the cache, against local files and against a plain parallel download.

    python benchmarks/storage.py                 # 1,000 MB of synthetic frame-level shards
    python benchmarks/storage.py --megabytes 2000 --repeats 5

An S3 server (moto) runs on loopback. Two readers build batches of 128 in training order, shuffled within eight shards:
from local files, from an empty cache (the first epoch, with a manifest and without), and from a full one. The plain
download fetches the same objects with s3fs, eight at a time. Ratios are of one run of all, which take turns; minimum,
median and maximum of the repeats. On loopback the processors are the limit, which server, downloads and readers share;
so the downloads are also measured through a relay that lets --network megabytes pass in a second, as a network does.
"""

import argparse
import os
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from read_tfrecord import LEVELS, NUM_CLASSES, write_shards
from results import add_option, command, report, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.storage.s3 import BUCKET, environment, moto_server
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.storage import transport
from yt8m.storage.manifest import Entry, to_csv
from yt8m.verify.check import check_shard

OPTIONS = {"features": LEVELS["frame"], "num_classes": NUM_CLASSES}


def epoch(root: str, **arguments) -> float:
    """Seconds from the first request for a batch to the last batch of an epoch."""
    module = YT8MDataModule(
        root=root,
        train="*.tfrecord",
        **OPTIONS,
        batch_size=128,
        num_workers=2,
        on_corrupt="skip",  # no check of the first records
        **arguments,
    )
    module.datasets["train"] = module.read(module.shards("train"))
    loader = module.train_dataloader()
    began = time.perf_counter()
    for batch in loader:
        del batch
    seconds = time.perf_counter() - began
    loader.close()
    return seconds


def download(root: str, folder: Path) -> float:
    """Seconds of a plain parallel download of the same objects."""
    fs = transport.filesystem(root)
    objects = fs.glob(f"{root}/*.tfrecord")
    folder.mkdir()
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: fs.get_file(path, str(folder / Path(path).name)), objects))
    return time.perf_counter() - began


class Network(socketserver.ThreadingTCPServer):
    """Forwards connections to a server, whose answers together pass at a rate in bytes per second."""

    daemon_threads = True

    def __init__(self, port: int, rate: float):
        super().__init__(("127.0.0.1", 0), Forward)
        self.port, self.rate = port, rate
        self.lock, self.free = threading.Lock(), 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait(self, size: int) -> None:
        """Until the bytes have passed."""
        with self.lock:
            now = time.monotonic()
            self.free = max(self.free, now) + size / self.rate
            pause = self.free - now
        time.sleep(pause)


class Forward(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            threading.Thread(target=self.ask, args=(upstream,), daemon=True).start()
            while data := upstream.recv(1 << 17):
                self.server.wait(len(data))
                self.request.sendall(data)

    def ask(self, upstream: socket.socket) -> None:
        try:
            while data := self.request.recv(1 << 17):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side has ended


def measure(root: str, local: Path, manifest: Path, work: Path, urls: dict[str, str]) -> dict[str, float]:
    """Seconds of each way, of one run of all."""
    seconds = {}
    cache = {"cache_dir": str(work / "cache")}
    for network, url in urls.items():
        os.environ["AWS_ENDPOINT_URL"] = url
        transport.forget(root)
        shutil.rmtree(work / "user", ignore_errors=True)  # nothing is known about the records
        seconds[f"plain download{network}"] = download(root, work / "plain")
        seconds[f"first epoch{network}"] = epoch(root, **cache)
        if not network:
            seconds["cached"] = epoch(root, **cache)
            seconds["local files"] = epoch(str(local))
        shutil.rmtree(work / "cache")
        seconds[f"first epoch, manifest{network}"] = epoch(root, **cache, manifest=str(manifest))
        shutil.rmtree(work / "cache")
        shutil.rmtree(work / "plain")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--shard-megabytes", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--network", type=int, default=60, help="MB/s")
    add_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, moto_server() as url:
        work, local = Path(name), Path(name, "local")
        os.environ.update(environment(url), YT8M_CACHE_DIR=str(work / "user"))
        local.mkdir()
        paths = write_shards(local, "frame", arguments.megabytes, arguments.shard_megabytes)
        size = sum(path.stat().st_size for path in paths)
        root, manifest = f"s3://{BUCKET}/shards", work / "manifest.csv"
        fs = transport.filesystem(root)
        fs.mkdir(BUCKET)
        for path in paths:
            fs.put_file(str(path), f"{root}/{path.name}")
        reports = [check_shard(path, OPTIONS, checksum=True) for path in paths]
        entries = [Entry(Path(r.path).name, r.records, r.bytes, r.crc32c) for r in reports]
        manifest.write_text(to_csv(entries))
        relay = Network(int(url.rpartition(":")[2]), arguments.network * 1e6)
        slow = f", network of {arguments.network} MB/s"
        urls = {"": url, slow: f"http://127.0.0.1:{relay.server_address[1]}"}
        runs = [measure(root, local, manifest, work, urls) for _ in range(arguments.repeats)]
    bases = ("local files", "plain download", f"plain download{slow}")
    rows = [[way, spread([size / 1e6 / run[way] for run in runs], ",.0f"), ""] for way in bases]
    firsts = [
        (f"{way}{network}", f"plain download{network}")
        for network in urls
        for way in ("first epoch", "first epoch, manifest")
    ]
    for way, other in (("cached", "local files"), *firsts):
        rate = spread([size / 1e6 / run[way] for run in runs], ",.0f")
        rows.append([way, rate, f"{spread([run[other] / run[way] for run in runs], '.2f')} × {other}"])
    report(
        arguments.results,
        f"Shards from S3, {arguments.megabytes} MB, frame level, batches of 128",
        command(parser, arguments),
        ["way", "MB/s", "ratio in one run"],
        rows,
        f"Two readers, {len(paths)} shards, moto on loopback; {arguments.repeats} runs of all ways, the first of each "
        "included. Minimum – median – maximum.",
    )


if __name__ == "__main__":
    main()
