"""Runs of the real commands, for tests."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# A network and a sample that train in a moment.
TINY = (
    "model=nn_stream_lstm",
    "model.mlp_sizes={rgb: [16], audio: [16]}",
    "model.hidden_sizes={rgb: 16, audio: 8}",
    "model.projection_size=16",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "dataset.batch_size=16",
    "dataset.num_workers=0",
)
TINY_SAMPLE = {
    "train_videos": 100,
    "validate_videos": 30,
    "test_videos": 20,
    "min_frames": 10,
    "max_frames": 16,
    "shards": 3,
}

# Two ranks, the second of which the first starts.
DDP = ("trainer.devices=2", "trainer.strategy=ddp")


def sample_overrides(root: Path) -> list[str]:
    """The tiny sample at `root`, written on first use."""
    return [f"dataset.root={root}", *(f"+dataset.sample.{key}={value}" for key, value in TINY_SAMPLE.items())]


def run_command(name: str, *overrides: str) -> None:
    """`python -m yt8m.NAME OVERRIDES` in this process."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *overrides])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        importlib.import_module(f"yt8m.{name}.__main__").main()


def train(folder: Path, *overrides: str) -> dict[str, Any]:
    """Train into `folder`; its metrics.json."""
    run_command("train", f"hydra.run.dir={folder}", *overrides)
    return json.loads((folder / "metrics.json").read_text())


def in_processes(name: str, *overrides: str) -> None:
    """The command in a process of its own, which starts the second rank."""
    done = subprocess.run(
        [sys.executable, "-m", f"yt8m.{name}", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
