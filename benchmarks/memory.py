"""Memory of a training rank, by the number of shards, local and remote: python benchmarks/memory.py

Trains `logistic` for 300 steps on 20, 2,000, and 7,688 shards of 780 synthetic video-level records: at most 6 million,
as many as YouTube-8M has. Local shards are links to one file; remote ones come from a web server on loopback that
answers every name with that file, with a manifest, through a cache of 300 MB. Memory is that of the rank, its two
readers, and its fetching process, each page counted once (Pss of private and shared memory; not mapped files, which the
system can evict), sampled four times a second.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google_crc32c
import psutil
from read_tfrecord import write_shards
from results import add_option, command, report

from yt8m.datamodules.tfrecord import index
from yt8m.storage.manifest import Entry, to_csv

RECORDS = 780
STEPS = 300


class Server(ThreadingHTTPServer):
    """Answers every name that ends in .tfrecord with the same bytes, and `manifest.csv`."""

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.manifest = content, b""
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        names = {".tfrecord": self.server.content, "manifest.csv": self.server.manifest}
        content = next((data for name, data in names.items() if self.path.endswith(name)), None)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if content is not None and wanted:
            content = content[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_response(404 if content is None else 206 if wanted else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


def megabytes(pid: int) -> dict[str, float]:
    """Memory of a process and of all that it started, in MB, by kind of process."""
    sums = {"rank": 0.0, "all": 0.0}
    processes = [psutil.Process(pid)]
    processes += processes[0].children(recursive=True)
    for process in processes:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        size = sum(int(kb) for kb in re.findall(r"Pss_(?:Anon|Shmem):\s*(\d+) kB", rollup)) / 1000
        sums["all"] += size
        sums["rank"] += size if process.pid == pid else 0
    return sums


def train(folder: Path, root: str, steps: int, *overrides: str) -> tuple[float, dict[str, float]]:
    """Seconds of a training of some steps, and its peaks of memory."""
    words = [
        sys.executable,
        "-m",
        "yt8m.train",
        "dataset=yt8m_video",
        f"dataset.root={root}",
        "model=logistic",
    ]
    words += ["dataset.train=train*.tfrecord", "dataset.validate=train0000.tfrecord", "dataset.test=null"]
    words += ["trainer=cpu", f"+trainer.max_steps={steps}", "logger=none", "callbacks={}", "test=false"]
    words += [
        "dataset.batch_size=256",
        "dataset.num_workers=2",
        f"hydra.run.dir={folder / 'run'}",
        *overrides,
    ]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peaks = {"rank": 0.0, "all": 0.0}
    while process.poll() is None:
        time.sleep(0.25)
        try:
            now = megabytes(process.pid)
        except psutil.NoSuchProcess:
            continue
        peaks = {kind: max(peak, now[kind]) for kind, peak in peaks.items()}
    if process.returncode:
        raise RuntimeError(process.stderr.read())
    return time.perf_counter() - began, peaks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, nargs="+", default=[20, 2_000, 7_688])
    add_option(parser)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (whole,) = write_shards(work, "video", 5, 5)
        offset, size = index(whole)[RECORDS - 1].tolist()
        content = whole.read_bytes()[: offset + size]
        shard = work / "shard"
        shard.write_bytes(content)
        server = Server(content)
        os.environ |= {"YT8M_CACHE_DIR": str(work / "user"), "OMP_NUM_THREADS": "1"}
        for count in arguments.shards:
            names = [f"train{number:04}.tfrecord" for number in range(count)]
            local = work / "local"
            local.mkdir()
            for one in names:
                (local / one).symlink_to(shard)
            crc = google_crc32c.value(content)
            server.manifest = to_csv(Entry(one, RECORDS, len(content), crc) for one in names).encode()
            address = f"http://127.0.0.1:{server.server_port}"
            for source, root, overrides in (
                ("local files", str(local), ()),
                ("web server, manifest", address, ("dataset.cache_limit=300MB",)),
            ):
                first, _ = train(work, root, 1, *overrides)
                again, _ = train(work, root, 1, *overrides)
                _, peaks = train(work, root, STEPS, *overrides)
                rows.append([source, f"{count:,}", f"{count * RECORDS:,}", f"{first:.1f}", f"{again:.1f}"])
                rows[-1] += [f"{peaks[kind]:,.0f}" for kind in ("rank", "all")]
            shutil.rmtree(work / "user")
            shutil.rmtree(local)
        server.shutdown()
    columns = ("shards from", "shards", "records", "first run of one step, s", "the same again, s")
    columns += (f"rank, {STEPS} steps, peak MB", "with readers and fetcher, peak MB")
    report(
        arguments.results,
        "Memory of a training rank",
        command(parser, arguments),
        columns,
        rows,
        f"`model=logistic dataset=yt8m_video`, batches of 256, two readers, {len(content) / 1e6:.1f} MB a shard. "
        "Seconds include starting Python, and validating one shard.",
    )


if __name__ == "__main__":
    main()
