"""Time to index many shards, and the memory of a process that reads them.

    python benchmarks/index.py                   # 20 and 2,000 shards of 100 synthetic video-level records, 1 GB
    python benchmarks/index.py --shards 10 1000 --records 5 --level frame

For each number of shards, a separate process indexes them twice, from the shards and from the cached index, and reads
every record once in training order, shuffled within eight shards, in batches of 256. Own memory is private to the
process (RssAnon); the rest of its peak is mapped files, which the system can evict. The shards are in the page cache.
Indexing uses threads; --cores 1 restricts it to one core.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from read_tfrecord import LEVELS, NUM_CLASSES, write_shards
from results import add_option, command, memory, report

from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.sampler import BatchSampler
from yt8m.datamodules.tfrecord import index

BATCH_SIZE = 256


def measure(folder, level):
    """Index and read the shards of a folder; the measurements as plain data."""
    torch.set_num_threads(1)
    paths = sorted(Path(folder).iterdir())
    peaks = [memory()]
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        dataset = ShardDataset(paths, LEVELS[level], NUM_CLASSES, level=level)
        seconds.append(time.perf_counter() - began)
    batches = BatchSampler(dataset.shard_sizes, BATCH_SIZE, shuffle=True)
    buffer = torch.empty(max(map(dataset.max_rows, batches)), dataset.feature_size, dtype=dataset.dtype)
    for numbers in batches:
        dataset.read_into(numbers, buffer)
        peaks.append(memory())
    own, whole = (max(peak[kind] for peak in peaks) for kind in ("RssAnon", "VmRSS"))
    before = peaks[0]["RssAnon"]
    return {"records": len(dataset), "seconds": seconds, "before": before, "own": own, "whole": whole}


def copies(folder, level, shards, records):
    """Fill a folder with copies of the first records of a synthetic shard."""
    with tempfile.TemporaryDirectory() as source:
        megabytes = 2 if level == "video" else 25
        (whole,) = write_shards(source, level, megabytes, megabytes)
        offset, size = index(whole)[records - 1].tolist()
        first = Path(source, "first")
        first.write_bytes(whole.read_bytes()[: offset + size])
        for number in range(shards):
            shutil.copyfile(first, Path(folder, f"{number:05d}.tfrecord"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--records", type=int, default=100, help="in each shard")
    parser.add_argument("--level", choices=LEVELS, default="video")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.level)))
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    rows = []
    for shards in arguments.shards:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            copies(folder, arguments.level, shards, arguments.records)
            measuring = [sys.executable, __file__, "--level", arguments.level, "--measure", folder]
            output = subprocess.run(
                measuring,
                env=os.environ | {"YT8M_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
        found = json.loads(output.stdout)
        cells = [
            f"{seconds:.2f} s ({found['records'] / seconds:,.0f} records/s)" for seconds in found["seconds"]
        ]
        sizes = [f"{found[key]:,.0f}" for key in ("before", "own", "whole")]
        rows.append([f"{shards:,}", f"{found['records']:,}", *cells, *sizes])
    columns = (
        *("shards", "records", "index, first time", "index, kept"),
        *("own memory before, MB", "own, peak, MB", "with mapped files, peak, MB"),
    )
    report(
        arguments.results,
        f"Index and memory, {arguments.level} level",
        command(parser, arguments),
        columns,
        rows,
        f"{arguments.cores} core, one process each, both CRCs of every record verified.",
    )


if __name__ == "__main__":
    main()
