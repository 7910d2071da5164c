"""What a checkpoint costs: the time for which training waits, the writing behind it, and memory.

    python benchmarks/checkpoint.py                  # nn_stream_lstm, full width, with Adam's state: 4.3 GB
    python benchmarks/checkpoint.py --width 0.125

Saves `best.ckpt` and links `last.ckpt` to it, as a run does at the end of an epoch, and writes the same from the
training thread for comparison. The first copy takes new memory; later ones, what a run on a CPU keeps.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from results import add_option, command, memory, report, spread

from yt8m.models.nn_stream_lstm import NNStreamLSTM
from yt8m.train.checkpoint import AtomicCheckpointIO, _write
from yt8m.train.session import keep_freed_memory


def make_checkpoint(width):
    """Tensors of the sizes of a run's, and the number of parameters."""
    with torch.device("meta"):
        network = NNStreamLSTM(width=width)
    weights = {f"model.{name}": torch.full(one.shape, 0.5) for name, one in network.state_dict().items()}
    shapes = [one.shape for one in network.parameters()]
    state = {
        number: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.full(shape, 0.5),
            "exp_avg_sq": torch.full(shape, 0.5),
        }
        for number, shape in enumerate(shapes)
    }
    groups = [{"lr": 1e-3, "params": [*state]}]
    checkpoint = {"state_dict": weights, "optimizer_states": [{"state": state, "param_groups": groups}]}
    return checkpoint, sum(shape.numel() for shape in shapes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    arguments = parser.parse_args()
    keep_freed_memory()
    checkpoint, parameters = make_checkpoint(arguments.width)
    waited, behind, at_once, added = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        best, last = Path(folder, "best.ckpt"), Path(folder, "last.ckpt")
        for _ in range(arguments.rounds):
            files = AtomicCheckpointIO()
            before = memory()["RssAnon"]
            began = time.perf_counter()
            files.save_checkpoint(checkpoint, best)
            files.link(str(best), str(last))
            waited.append(time.perf_counter() - began)
            added.append(memory()["RssAnon"] - before)
            files.finish()
            behind.append(time.perf_counter() - began)
            files.teardown()
            began = time.perf_counter()
            _write(checkpoint, best)
            at_once.append(time.perf_counter() - began)
        size = best.stat().st_size / 1e6
    report(
        arguments.results,
        f"A checkpoint of {parameters / 1e6:.0f} M parameters with Adam, {size:,.0f} MB",
        command(parser, arguments),
        (
            "training waits, s",
            "both files are on the disk after, s",
            "memory until then, MB",
            "written at once, s",
        ),
        [[spread(waited, ".2f"), spread(behind, ".1f"), spread(added, ",.0f"), spread(at_once, ".1f")]],
        f"{arguments.rounds} rounds, min – median – max. A file that is written at once is what two names cost twice "
        "before they were links.",
    )


if __name__ == "__main__":
    main()
