"""Every network as ONNX and PT2, against PyTorch on real clips: `python benchmarks/export.py PATH [NETWORK …]`.

PATH is AudioSet's folder, as `dataset=audioset` has it. Each network trains for one epoch at a small width, so that GAP
means something; then it is exported with each precision. Prints a row of Markdown per network.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CONF = Path(__file__).resolve().parents[1] / "conf" / "model"
FORMS = (("fp32", ".onnx"), ("fp16", ".onnx"), ("int8", ".onnx"), ("fp32", ".pt2"))
_RESULT = re.compile(
    r": ([\d.,]+) MB in.*differ by at most ([\d.e+-]+); GAP ([\d.]+), PyTorch's ([\d.]+)", re.S
)


def run(name: str, *overrides: str) -> str:
    """What `python -m yt8m.NAME` prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"yt8m.{name}", *overrides], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} {' '.join(overrides)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def row(network: str, root: str) -> str:
    """The network's row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = ["dataset=audioset", f"dataset.root={root}", "dataset.num_workers=0", "trainer=cpu"]
        small = [f"model={network}", "model.width=0.02", "trainer.max_epochs=1", "logger=none"]
        run(
            "train",
            *data,
            *small,
            "optimizer.lr=3e-3",
            "dataset.limit_videos=4000",
            f"hydra.run.dir={folder}",
        )
        cells = []
        for precision, ending in FORMS:
            printed = run(
                "export",
                f"ckpt_path={folder}/checkpoints/best.ckpt",
                f"output={folder}/{precision}{ending}",
                f"precision={precision}",
                "dataset.limit_videos=500",
                f"hydra.run.dir={folder}/export",
            )
            size, difference, gap, torch_gap = _RESULT.search(printed).groups()
            cells += [torch_gap] if not cells else []
            cells.append(f"{size} MB, {float(difference):.0e}, {float(gap) - float(torch_gap):+.5f}")
    return f"| `{network}` | " + " | ".join(cells) + " |"


def main() -> None:
    root, *chosen = sys.argv[1:]
    print("| network | GAP in PyTorch | " + " | ".join(f"{p} {e}" for p, e in FORMS) + " |")
    print("|---|" + "---|" * (len(FORMS) + 1), flush=True)
    for network in chosen or sorted(path.stem for path in CONF.glob("*.yaml")):
        print(row(network, root), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
