"""What a start costs.

    python benchmarks/start.py            # CPU seconds of every --help, and of the quickstart up to its first step
    python benchmarks/start.py --index    # seconds that the index of all of YouTube-8M takes

The index is that of 7,688 made-up shards with 6,000,000 records (empty files of the right size): it is kept, and what a
start does with it is timed, also with one kept file per shard. Nothing is parsed or trained.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results import add_option, command, report, spread

COMMANDS = sorted(path.parent.name for path in Path(__file__).parents[1].glob("yt8m/*/__main__.py"))
# The quickstart in this process, up to the end of its first step.
FIRST_STEP = """
import os, sys
from yt8m import cli
cli._import("yt8m.train.stats").RunStats.on_train_batch_end = lambda *_: os._exit(0)
from yt8m.train.__main__ import main
main()
"""
SHARDS, RECORDS = 7_688, 6_000_000
BATCH = 128
ROUNDS = 5


def made_up(folder: Path) -> list[Any]:
    """An index per shard, of records of 20 to 250 KB, and a sparse file of that size."""
    from yt8m.datamodules.tfrecord import Index

    rng = np.random.default_rng(0)
    indices = []
    for number, sizes in enumerate(np.array_split(rng.integers(20_000, 250_000, RECORDS), SHARDS)):
        path = folder / f"train{number:04}.tfrecord"
        with path.open("wb") as file:
            file.truncate(int(sizes.sum()))
        status = path.stat()
        records = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
        indices.append(Index(str(path), records, (status.st_size, status.st_mtime_ns)))
    return indices


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def time_index() -> None:
    from yt8m.datamodules import partition, tfrecord
    from yt8m.datamodules.sampler import BatchSampler
    from yt8m.datamodules.shards import Shards

    parser = argparse.ArgumentParser(description=__doc__)
    add_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["YT8M_CACHE_DIR"] = str(Path(folder, "cache"))
        indices = made_up(Path(folder))
        paths = [found.path for found in indices]
        partition._write(paths, indices)
        for found in indices:
            tfrecord.keep_index(found.path, found.stamp, found.records)
        seconds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            took, kept = timed(lambda: partition.index_all(paths))
            seconds.setdefault("read the index, kept as one file", []).append(took)
            took, _ = timed(lambda: [tfrecord.scan(path) for path in paths])
            seconds.setdefault("read the index, kept as a file per shard", []).append(took)
            took, shards = timed(lambda kept=kept: Shards(kept))
            seconds.setdefault("number the records", []).append(took)
            for name, lengths in (("", None), (" by length", shards.lookup(np.arange(RECORDS))[2])):
                sampler = BatchSampler(shards.sizes, BATCH, shuffle=True, lengths=lengths)
                took, _ = timed(lambda sampler=sampler: next(iter(sampler)))
                seconds.setdefault(f"first batch of the order{name}", []).append(took)
                sampler.start_at(0, RECORDS // 2 + 1)
                took, _ = timed(lambda sampler=sampler: next(iter(sampler)))
                seconds.setdefault(f"first batch after a resume in the middle{name}", []).append(took)
    report(
        arguments.results,
        f"Start on {SHARDS:,} shards with {RECORDS:,} records",
        command(parser, arguments),
        ["step", "seconds"],
        [[name, spread(values, ".2f")] for name, values in seconds.items()],
        f"{ROUNDS} rounds, minimum – median – maximum; an earlier run kept the index. The order of a partition in "
        "a bucket is made a window of shards at a time.",
    )


def cpu_seconds(*arguments: str) -> float:
    """Of a Python process and the readers that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.index:
        time_index()
        return
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for name in COMMANDS:
                taken.setdefault(f"{name} --help", []).append(cpu_seconds("-m", f"yt8m.{name}", "--help"))
            run = ["experiment=quickstart", f"hydra.run.dir={folder}/run", f"dataset.root={folder}/sample"]
            first = "quickstart to its first step, sample " + (
                "read" if "written" in str(taken) else "written"
            )
            taken.setdefault(first, []).append(cpu_seconds("-c", FIRST_STEP, *run))
    report(
        arguments.results,
        "Start",
        command(parser, arguments),
        ("command", "CPU seconds"),
        [[name, spread(values, ".2f")] for name, values in taken.items()],
        f"{arguments.rounds} rounds, min – median – max.",
    )


if __name__ == "__main__":
    main()
