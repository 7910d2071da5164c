"""How much of the disk's throughput the loader reaches with a cold page cache.

    python benchmarks/cold.py                    # 2 GB of synthetic frame-level shards of 125 MB, in the current folder
    python benchmarks/cold.py --folder /data/tmp --gigabytes 8 --rounds 5

The contenders alternate, and the shards' pages are dropped before each turn (posix_fadvise): reading the files
sequentially, which is the disk's own speed; this project's loader with 2 readers in training order, shuffled within
eight shards, with and without prefetching; and the same loader with a warm page cache. The loader verifies both CRCs
of every record.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from read_tfrecord import LEVELS, NUM_CLASSES, write_shards
from results import add_option, command, report, spread
from rich.console import Console

from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.sampler import BatchSampler

BATCH_SIZE = 128
CHUNK = 1 << 20


class NotAhead(ShardDataset):
    """Leaves read-ahead to the system."""

    def prefetch(self, numbers):
        pass


def drop(paths):
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # only clean pages can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_files(paths):
    began = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(CHUNK):
                pass
    return time.perf_counter() - began


def time_loader(dataset):
    sampler = BatchSampler(dataset.shard_sizes, BATCH_SIZE, shuffle=True)
    began = time.perf_counter()
    loader = Loader(dataset, sampler, 2)  # its readers reopen the files: mapped pages cannot be dropped
    for batch in loader:
        del batch
    seconds = time.perf_counter() - began
    loader.close()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured")
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    add_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        with Console().status("writing shards"):
            paths = write_shards(folder, "frame", int(arguments.gigabytes * 1000), shard_megabytes=125)
        ahead, not_ahead = (kind(paths, LEVELS["frame"], NUM_CLASSES) for kind in (ShardDataset, NotAhead))
        size = sum(path.stat().st_size for path in paths)
        turns = {
            "the files, from end to end": lambda: time_files(paths),
            "loader, reading ahead": lambda: time_loader(ahead),
            "loader, not reading ahead": lambda: time_loader(not_ahead),
            "loader, from the page cache": lambda: time_loader(ahead),
        }
        rates = {name: [] for name in turns}
        for _ in range(arguments.rounds):
            for name, turn in turns.items():
                if name == "loader, from the page cache":
                    time_files(paths)
                else:
                    drop(paths)
                rates[name].append(size / turn() / 1e9)
    disk = rates["the files, from end to end"]
    rows = []
    for name, values in rates.items():
        videos = [value * 1e9 / size * len(ahead) for value in values]
        shares = [value / disk_rate for value, disk_rate in zip(values, disk, strict=True)]
        rows.append([name, *(spread(*cell) for cell in ((values, ".2f"), (videos, ",.0f"), (shares, ".2f")))])
    report(
        arguments.results,
        f"From the disk, {size / 1e9:.0f} GB in {len(paths)} shards, batches of {BATCH_SIZE}",
        command(parser, arguments),
        ("", "GB/s", "videos/s", "share of the files' speed"),
        rows,
        f"All cores, 2 readers, {arguments.rounds} rounds of {len(ahead):,} videos, min – median – max.",
    )


if __name__ == "__main__":
    main()
