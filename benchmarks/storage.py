"""Shards from S3 through the cache, against local files and against a plain parallel download.

    python benchmarks/storage.py                 # 600 MB of synthetic frame-level shards
    python benchmarks/storage.py --megabytes 2000 --repeats 5

An S3 server (moto) runs on loopback. Two readers build batches of 128 in training order, shuffled within eight shards:
from local files, from an empty cache (the first epoch, with a manifest and without), and from a full one. The plain
download fetches the same objects with s3fs, eight at a time. Ratios are of one run of all, which take turns; minimum,
median and maximum of the repeats. The server takes a core of its own, so that a first epoch is bound by it.
"""

import argparse
import os
import shutil
import sys
import tempfile
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


def measure(root: str, local: Path, manifest: Path, work: Path) -> dict[str, float]:
    """Seconds of each way, of one run of all."""
    shutil.rmtree(work / "user", ignore_errors=True)  # nothing is known about the records
    cache = {"cache_dir": str(work / "cache")}
    seconds = {"plain download": download(root, work / "plain"), "first epoch": epoch(root, **cache)}
    seconds["cached"] = epoch(root, **cache)
    seconds["local files"] = epoch(str(local))
    shutil.rmtree(work / "cache")
    seconds["first epoch, manifest"] = epoch(root, **cache, manifest=str(manifest))
    shutil.rmtree(work / "cache")
    shutil.rmtree(work / "plain")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--shard-megabytes", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
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
        runs = [measure(root, local, manifest, work) for _ in range(arguments.repeats)]
    rows = [
        [way, spread([size / 1e6 / run[way] for run in runs], ",.0f"), ""]
        for way in ("local files", "plain download")
    ]
    for way, other in (
        ("cached", "local files"),
        ("first epoch", "plain download"),
        ("first epoch, manifest", "plain download"),
    ):
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
