"""How long a start on all of YouTube-8M takes before the first step: python benchmarks/start.py

Makes up the index of 7,688 shards with 6,000,000 records (the shards are empty files of the right size), keeps it, and
times what a start does with it; and what it would do with one kept file per shard. Nothing is parsed or trained.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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


def main() -> None:
    from yt8m.datamodules import partition, tfrecord
    from yt8m.datamodules.sampler import BatchSampler
    from yt8m.datamodules.shards import Shards

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
            seconds.setdefault("kept as one file", []).append(took)
            took, _ = timed(lambda: [tfrecord.scan(path) for path in paths])
            seconds.setdefault("kept as a file per shard", []).append(took)
            took, shards = timed(lambda kept=kept: Shards(kept))
            seconds.setdefault("numbering the records", []).append(took)
            for name, lengths in (("", None), (" by length", shards.lookup(np.arange(RECORDS))[2])):
                sampler = BatchSampler(shards.sizes, BATCH, shuffle=True, lengths=lengths)
                took, _ = timed(lambda sampler=sampler: next(iter(sampler)))
                seconds.setdefault(f"first batch of the order{name}", []).append(took)
                sampler.start_at(0, RECORDS // 2 + 1)
                took, _ = timed(lambda sampler=sampler: next(iter(sampler)))
                seconds.setdefault(f"resumed in the middle{name}", []).append(took)
        for name, values in seconds.items():
            print(f"{name:40} {min(values):6.2f} – {np.median(values):6.2f} – {max(values):6.2f} s")


if __name__ == "__main__":
    main()
