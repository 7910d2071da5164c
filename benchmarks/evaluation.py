"""What evaluation costs: the metrics' updates and final computation, and `eval` and `predict` from shards to file.

    python benchmarks/evaluation.py                   # 3,862 classes, 100,000 videos, nn [2048]
    python benchmarks/evaluation.py --videos 5000     # a quick look

The reference is the loop of the YouTube-8M starter code (`eval_util.py`, `average_precision_calculator.py`), which this
file repeats: one video, one class, and one pair at a time, in NumPy and heaps.
"""

import argparse
import heapq
import multiprocessing
import numbers
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from read_tfrecord import write_shards
from results import add_option, command, memory, report, spread

from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.metrics import RankedMetrics, make_metrics
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import Ensemble
from yt8m.predict.output import OutputFile
from yt8m.predict.writers import KaggleWriter
from yt8m.ranking import Ranking
from yt8m.train.session import keep_freed_memory, make_trainer

FEATURES, CLASSES, TOP_K = {"mean_rgb": 1024, "mean_audio": 128}, 3862, 20
ALL_OF_YOUTUBE8M = 1_100_000  # videos of the partition to validate
TRAINER = {
    "_target_": "pytorch_lightning.Trainer",
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Calculator:
    """The starter code's `AveragePrecisionCalculator`, of all pairs."""

    def __init__(self):
        self.heap, self.positives = [], 0

    def accumulate(self, predictions, actuals, num_positives):
        if len(predictions) != len(actuals):
            raise ValueError
        if not isinstance(num_positives, numbers.Number) or num_positives < 0:
            raise ValueError
        self.positives += num_positives
        for number in range(np.size(predictions)):
            heapq.heappush(self.heap, (predictions[number], actuals[number]))


class Reference:
    """The starter code's `EvaluationMetrics`, updated batch by batch."""

    def __init__(self):
        self.by_class, self.all = [Calculator() for _ in range(CLASSES)], Calculator()
        self.hit1 = self.perr = 0.0

    def update(self, predictions, labels):
        hits = labels[np.arange(len(labels)), np.argmax(predictions, 1)]
        self.hit1 += np.average(hits) * len(labels)
        for row in np.arange(len(labels)):
            num_labels = int(np.sum(labels[row]))
            precision = 0.0
            best = np.argpartition(predictions[row], -num_labels)[-num_labels:]
            for label in best:
                if predictions[row][label] > 0:
                    precision += labels[row][label]
            self.perr += precision / best.size
        triplets = []
        for row in range(len(labels)):
            best = np.argpartition(predictions[row], -TOP_K)[-TOP_K:]
            triplets.extend((index, predictions[row][index], labels[row][index]) for index in best)
        scores, truth = [[] for _ in range(CLASSES)], [[] for _ in range(CLASSES)]
        for label, score, hit in triplets:
            scores[label].append(score)
            truth[label].append(hit)
        positives = [np.sum(labels[:, label]) for label in range(CLASSES)]
        for label, calculator in enumerate(self.by_class):
            calculator.accumulate(scores[label], truth[label], positives[label])
        flat = [[item for part in parts for item in part] for parts in (scores, truth)]
        self.all.accumulate(*flat, sum(positives))


def updates(options):
    """µs a video of both, batch by batch in turn."""
    torch.set_flush_denormal(True)
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    metrics, reference = make_metrics("val/"), Reference()
    ours, theirs = [], []
    for _ in range(options["rounds"]):
        scores = torch.randn(options["batch_size"], CLASSES).mul_(2).sub_(6).sigmoid_()
        labels = torch.rand(scores.shape) < 3 / CLASSES
        labels[:, 0] |= ~labels.any(1)  # the reference fails at a video without labels
        pair = scores.numpy(), labels.numpy()
        began = time.perf_counter()
        metrics.update(scores, labels)
        middle = time.perf_counter()
        reference.update(*pair)
        ours.append((middle - began) / len(scores) * 1e6)
        theirs.append((time.perf_counter() - middle) / len(scores) * 1e6)
    return ours[1:], theirs[1:]


def computation(options):
    """Seconds, and MB beyond the states, of `compute()` for all of YouTube-8M's videos to validate."""
    generator = torch.Generator().manual_seed(0)
    metrics = make_metrics("val/")
    size = 10_000
    for _ in range(ALL_OF_YOUTUBE8M // size):
        scores = torch.rand(size, TOP_K, generator=generator).sort(1, descending=True).values
        classes = torch.randint(0, CLASSES, scores.shape, generator=generator)
        hits = torch.rand(scores.shape, generator=generator) < scores / 7
        positives = torch.bincount(classes[hits], minlength=CLASSES) + 1
        ranking = Ranking(scores, classes, hits, hits.sum(1) + 1, positives)
        super(RankedMetrics, metrics).update(ranking=ranking)
    del scores, classes, hits, positives, ranking
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory()
    began = time.perf_counter()
    metrics.compute()
    return time.perf_counter() - began, memory()["VmHWM"] - before["VmRSS"]


class Shards:
    """Made-up video-level shards, and a network on them."""

    def __init__(self, folder, videos, batch_size):
        (shard,) = write_shards(folder, "video", 25)
        self.data = self._data(folder, batch_size)
        self.data.setup("validate")
        each = len(self.data.datasets["validate"])
        for number in range(1, max(round(videos / each), 1)):
            shutil.copy(shard, shard.with_name(f"video{number:04d}.tfrecord"))
        self.data.teardown()
        self.videos, self.folder = each * max(round(videos / each), 1), folder
        self.data = self._data(folder, batch_size)
        self.module = VideoClassifier(
            model={"_target_": "yt8m.models.nn.NN", "hidden_sizes": [2048]},
            feature_sizes=FEATURES,
            num_classes=CLASSES,
            loss={"_target_": "yt8m.losses.BCE"},
            optimizer={"_target_": "torch.optim.Adam"},
            level="video",
        ).eval()

    def _data(self, folder, batch_size):
        return YT8MDataModule(
            root=folder,
            train="*.tfrecord",
            validate="*.tfrecord",
            test="*.tfrecord",
            level="video",
            features=FEATURES,
            num_classes=CLASSES,
            batch_size=batch_size,
        )

    def forward(self, batch_size):
        """The network alone, on one batch in memory."""
        batch = torch.randn(batch_size, sum(FEATURES.values()))
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(self.videos // batch_size):
                self.module(batch)
        return self.videos // batch_size * batch_size / (time.perf_counter() - began)

    def evaluate(self):
        trainer = make_trainer({"trainer": TRAINER}, [], [])
        began = time.perf_counter()
        trainer.validate(self.module, self.data, verbose=False)
        return self.videos / (time.perf_counter() - began)

    def predict(self):
        path = Path(self.folder, "submission.csv")
        trainer = make_trainer(
            {"trainer": TRAINER}, [OutputFile(path, KaggleWriter, TOP_K, overwrite=True)], []
        )
        began = time.perf_counter()
        trainer.predict(Ensemble([self.module], [1.0]), self.data, return_predictions=False)
        return self.videos / (time.perf_counter() - began)


def end_to_end(options):
    """Videos per second of the bare forward pass, of evaluation, and of a submission."""
    torch.set_flush_denormal(True)
    keep_freed_memory()
    rates = {"forward": [], "eval": [], "predict": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["YT8M_CACHE_DIR"] = f"{folder}/cache"
        shards = Shards(folder, options["videos"], options["batch_size"])
        for _ in range(options["passes"]):
            rates["forward"].append(shards.forward(options["batch_size"]))
            rates["eval"].append(shards.evaluate())
            rates["predict"].append(shards.predict())
    return rates


def in_process(work, options):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, (options,))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15, help="batches that are scored")
    parser.add_argument("--passes", type=int, default=3, help="over the shards")
    add_option(parser)
    arguments = parser.parse_args()
    options = vars(arguments)
    ours, theirs = in_process(updates, options)
    seconds, megabytes = in_process(computation, options)
    rates = end_to_end(options)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    forward = rates["forward"]
    rows = [
        ["updates of all metrics, 1 core", f"{spread(ours, '.1f')} µs a video"],
        ["the reference's updates", f"{spread(theirs, '.0f')} µs a video"],
        ["times faster", spread(ratios, ".1f")],
        [
            f"compute() of {ALL_OF_YOUTUBE8M:,} videos",
            f"{seconds:.1f} s, {megabytes:,.0f} MB beyond the states",
        ],
        ["forward pass of nn [2048] alone", f"{spread(forward, ',.0f')} videos/s"],
    ]
    for key, title in (
        ("eval", "evaluation, from shards to metrics"),
        ("predict", "submission, from shards to CSV"),
    ):
        share = [rate / bare for rate, bare in zip(rates[key], forward, strict=True)]
        rate = statistics.median(rates[key])
        rows.append([title, f"{rate:,.0f} videos/s, {spread(share, '.2f')} of the forward pass"])
    report(
        arguments.results,
        "Evaluation, 3,862 classes",
        command(parser, arguments),
        ("what", "cost"),
        rows,
        f"Batches of {arguments.batch_size}, min – median – max; shards are made up, {arguments.videos:,} videos.",
    )


if __name__ == "__main__":
    main()
