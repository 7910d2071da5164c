"""What `dataset.bucket_by_length` saves: padded frames, and time per training step of `stream_lstm`.

    python benchmarks/bucketing.py                # 1,024 synthetic videos of 120 to 300 frames, an eighth as wide
    python benchmarks/bucketing.py --narrow 1 --videos 128 --batch-size 16 --rounds 2    # full width: minutes a step

Alternates between epochs with random batches and with batches of similar length. A step is padding, forward, loss,
backward, and the optimizer's step, on all CPU cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from results import add_option, command, report, spread
from rich.progress import track

from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.sample import write_sample
from yt8m.datamodules.sampler import BatchSampler
from yt8m.module import VideoClassifier

FEATURES = {"rgb": 1024, "audio": 128}


def classifier(narrow, num_classes):
    return VideoClassifier(
        model={
            "_target_": "yt8m.models.stream_lstm.StreamLSTM",
            "width": 1 / narrow,
        },
        feature_sizes=FEATURES,
        num_classes=num_classes,
        loss={"_target_": "yt8m.losses.BCE"},
        optimizer={"_target_": "torch.optim.Adam"},
    )


def train(module, optimizer, loader):
    """Seconds of each step of an epoch, and its number of frames without and with padding."""
    seconds, frames, padded = [], 0, 0
    for batch in loader:
        began = time.perf_counter()
        loss = module.loss(module(*module.inputs(batch)), module.labels(batch), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        frames += int(batch.num_frames.sum())
        padded += len(batch) * int(batch.num_frames.max())
    return seconds, frames, padded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--frames", type=int, nargs=2, default=(120, 300), metavar=("FROM", "TO"))
    parser.add_argument("--narrow", type=int, default=8, help="divides all widths of the network")
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_sample(
            f"{folder}/sample",
            train_videos=arguments.videos,
            validate_videos=4,
            test_videos=4,
            min_frames=arguments.frames[0],
            max_frames=arguments.frames[1],
        )
        dataset = ShardDataset(sorted(Path(folder, "sample", "train").glob("*.tfrecord")), FEATURES, 40)
        module = classifier(arguments.narrow, dataset.num_classes)
        module.configure_model()
        optimizer = torch.optim.Adam(module.parameters())
        orders = {"by chance": None, "by length": dataset.record_sizes}
        taken = {name: [] for name in orders}
        share = {}
        for epoch in track(range(arguments.rounds), "rounds", transient=True):
            for name, lengths in orders.items():
                sampler = BatchSampler(
                    dataset.shard_sizes, arguments.batch_size, shuffle=True, lengths=lengths
                )
                sampler.set_epoch(epoch)
                seconds, frames, padded = train(module, optimizer, Loader(dataset, sampler, 0))
                taken[name].append(statistics.mean(seconds))
                share.setdefault(name, []).append(1 - frames / padded)
    rows = []
    for name, values in taken.items():
        ratios = [value / base for value, base in zip(values, taken["by chance"], strict=True)]
        rows.append([name, spread(share[name], ".1%"), spread(values, ".2f"), spread(ratios, ".2f")])
    first, last = arguments.frames
    report(
        arguments.results,
        f"Batches of like length, stream_lstm, 1/{arguments.narrow} of its width",
        command(parser, arguments),
        ("batches", "frames that are padding", "seconds a step", "of the step by chance"),
        rows,
        f"All cores, {arguments.rounds} rounds of {arguments.videos:,} videos of {first} to {last} frames, "
        f"{arguments.batch_size} a batch, min – median – max.",
    )


if __name__ == "__main__":
    main()
