"""A training step on a CPU, over that of an earlier commit: python benchmarks/against.py 636247e

The commit is checked out beside this one for as long as it takes. Each contender is a process of its own, on one
thread; they take turns, a few steps each. A step is what `VideoClassifier` does with a batch in memory, the backward
pass, clipping, and Adam. The commit computes in float32; this one as its defaults say, with trainer.matmul=medium, with
trainer.precision=bf16-mixed, and with compile=true.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from results import add_option, command, report, spread

HERE = Path(__file__).resolve().parents[1]
NARROW = {  # of the quickstart, with widths that every commit takes
    "_target_": "yt8m.models.nn_stream_lstm.NNStreamLSTM",
    "mlp_sizes": {"rgb": [256], "audio": [256]},
    "projection_size": 64,
    "hidden_sizes": {"rgb": 64, "audio": 32},
    "dropout": 0.3,
}
WIDE = {"_target_": "yt8m.models.nn.NN", "hidden_sizes": [2048]}
#: Title: network, videos, their frames (None: vectors), classes, steps a turn.
CASES = {
    "nn [2048], 256 videos": (WIDE, 256, None, 3862, 4),
    "nn [2048], 1024 videos": (WIDE, 1024, None, 3862, 1),
    "nn_stream_lstm as in the quickstart, 64 videos of 12 to 32 frames": (NARROW, 64, (12, 32), 40, 6),
    "the same, 120 to 300 frames": (NARROW, 64, (120, 300), 40, 1),
}
NOW = ("defaults", "medium", "bf16-mixed", "compiled")


def make_step(title, column):
    """A function that takes one training step; in the process of a contender."""
    import torch

    from yt8m.datamodules.dataset import Batch
    from yt8m.module import VideoClassifier

    if column in NOW:
        from yt8m.train.session import keep_freed_memory

        torch.set_flush_denormal(True)
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, videos, lengths, classes, _ = CASES[title]
    sizes = {"rgb": 1024, "audio": 128}
    features, num_frames = torch.randn(videos, sum(sizes.values())), torch.ones(videos, dtype=torch.int64)
    if lengths:
        num_frames = torch.randint(lengths[0], lengths[1] + 1, (videos,))
        features = torch.randint(0, 256, (int(num_frames.sum()), sum(sizes.values())), dtype=torch.uint8)
    rows = torch.arange(videos).repeat_interleave(3)
    index = torch.stack([rows, torch.randint(0, classes, (3 * videos,))], 1).unique(dim=0)
    batch = Batch([str(number) for number in range(videos)], features, num_frames, index)
    module = VideoClassifier(
        model=network,
        feature_sizes=sizes,
        num_classes=classes,
        loss={"_target_": "yt8m.losses.BCE"},
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3},
        scheduler=None,
        gradient_clip={"norm": 1.0, "per": "variable"},
        level="frame" if lengths else "video",
    ).train()
    optimizer = module.configure_optimizers()
    if column == "medium":
        torch.set_float32_matmul_precision("medium")
    if column == "compiled":
        module.model.compile(dynamic=True if lengths else None)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=column == "bf16-mixed"):
            loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()

    return step


def serve(root, title, column):
    """Take as many steps as each line of the input says; print the seconds of one."""
    sys.path.insert(0, root)
    warnings.simplefilter("ignore")
    step = make_step(title, column)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print((time.perf_counter() - began) / int(line), flush=True)


@contextlib.contextmanager
def checkout(commit):
    with tempfile.TemporaryDirectory() as folder:
        tree = str(Path(folder, "tree"))
        subprocess.run(["git", "-C", HERE, "worktree", "add", "-q", "--detach", tree, commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", HERE, "worktree", "remove", "--force", tree], check=True)


def compare(title, tree, columns, rounds):
    """Seconds a step of each contender, in turns."""
    roots = {"before": tree, **dict.fromkeys(columns, str(HERE))}
    serving = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", root, title, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        )
        for name, root in roots.items()
    }
    seconds = {name: [] for name in roots}
    for process in serving.values():
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a contender could not start")
    for _ in range(rounds):
        for name, process in serving.items():
            print(CASES[title][-1], file=process.stdin, flush=True)
            seconds[name].append(json.loads(process.stdout.readline()))
    for process in serving.values():
        process.stdin.close()
        process.wait()
    return seconds


def main():
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--columns", nargs="+", choices=NOW, default=list(NOW))
    parser.add_argument("--rounds", type=int, default=9)
    add_option(parser)
    arguments = parser.parse_args()
    rows = []
    with checkout(arguments.commit) as tree:
        for title in CASES:
            seconds = compare(title, tree, arguments.columns, arguments.rounds)
            for name, values in seconds.items():
                ratios = [value / base for value, base in zip(values, seconds["before"], strict=True)]
                median = statistics.median(values)
                rows.append([title, name, f"{1e3 * median:.1f}", spread(ratios, ".2f")])
    report(
        arguments.results,
        f"A training step on a CPU, over that of {arguments.commit}",
        command(parser, arguments),
        ("step", "contender", "ms", "of the step before"),
        rows,
        f"One thread, {arguments.rounds} rounds, min – median – max.",
    )


if __name__ == "__main__":
    main()
