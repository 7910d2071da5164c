"""Videos per second through the loader with two readers, compared with plain reading on two cores.

    python benchmarks/loader.py                  # 600 MB of synthetic frame-level shards in the page cache
    python benchmarks/loader.py --megabytes 2000 --rounds 9

Shuffled, ragged batches of 128 videos (120 to 300 frames of rgb and audio), both CRCs of every record verified.
The contenders alternate: two processes that only read into private buffers (the upper bound), this project's loader
with 2 readers, torch's DataLoader with 2 workers on the same dataset, and this project's loader without readers. The
consumer drops each batch.
"""

import argparse
import multiprocessing
import tempfile
import time

import torch
from read_tfrecord import LEVELS, NUM_CLASSES, write_shards
from results import add_option, command, report, spread
from torch.utils.data import DataLoader

from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.sampler import BatchSampler

BATCH_SIZE = 128


def plain(dataset, epochs, start, done):
    """A process that reads its half of the records, `epochs` times."""
    torch.set_num_threads(1)
    for rank in iter(start.get, None):
        batches = list(BatchSampler(dataset.shard_sizes, BATCH_SIZE, shuffle=True, rank=rank, world_size=2))
        buffer = torch.zeros(max(map(dataset.max_rows, batches)), dataset.feature_size, dtype=torch.uint8)
        done.put("ready")
        start.get()
        for _ in range(epochs):
            for numbers in batches:
                dataset.read_into(numbers, buffer)
        done.put("done")


def time_plain(dataset, epochs):
    context = multiprocessing.get_context("fork")
    start, done = context.Queue(), context.Queue()
    processes = [context.Process(target=plain, args=(dataset, epochs, start, done)) for _ in range(2)]
    for process in processes:
        process.start()
    for rank in range(2):
        start.put(rank)
        done.get()
    began = time.perf_counter()
    for _ in processes:
        start.put("go")
    for _ in processes:
        done.get()
    seconds = time.perf_counter() - began
    for _ in processes:
        start.put(None)
    for process in processes:
        process.join()
    return seconds


def time_loader(loader, epochs):
    for batch in loader:  # starts the readers and touches every buffer once
        del batch
    began = time.perf_counter()
    for _ in range(epochs):
        for batch in loader:
            del batch
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="epochs timed in each turn")
    add_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = ShardDataset(
            write_shards(folder, "frame", arguments.megabytes), LEVELS["frame"], NUM_CLASSES
        )

        def sampler():
            return BatchSampler(dataset.shard_sizes, BATCH_SIZE, shuffle=True)

        loaders = {
            "this loader, 2 readers": Loader(dataset, sampler(), 2),
            "torch DataLoader, 2 workers": DataLoader(
                dataset,
                batch_sampler=sampler(),
                collate_fn=lambda batch: batch,
                num_workers=2,
                persistent_workers=True,
            ),
            "this loader, no readers": Loader(dataset, sampler(), 0),
        }
        turns = {"plain reading, 2 processes": lambda: time_plain(dataset, arguments.epochs)}
        turns |= {name: lambda one=one: time_loader(one, arguments.epochs) for name, one in loaders.items()}
        rates = {name: [] for name in turns}
        for _ in range(arguments.rounds):
            for name, turn in turns.items():
                rates[name].append(len(dataset) * arguments.epochs / turn())
    base = rates["plain reading, 2 processes"]
    rows = []
    for name, values in rates.items():
        shares = [value / plain_rate for value, plain_rate in zip(values, base, strict=True)]
        rows.append([name, spread(values, ",.0f"), spread(shares, ".2f")])
    report(
        arguments.results,
        f"Through the loader, {arguments.megabytes} MB, batches of {BATCH_SIZE}",
        command(parser, arguments),
        ("", "videos/s", "share of plain reading"),
        rows,
        f"All cores, {arguments.rounds} rounds of {arguments.epochs} × {len(dataset):,} videos, min – median – max.",
    )


if __name__ == "__main__":
    main()
