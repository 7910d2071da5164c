"""Killed at any moment, a training goes on as if it had never stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training import TINY, train

COMMON = ("callbacks.best=null", "callbacks.last_within_epoch=null", "test=false", "trainer.max_epochs=4")


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "yt8m.train", f"hydra.run.dir={folder}", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same_end(whole: Path, stopped: Path) -> None:
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, stopped)
    )
    assert first["global_step"] == second["global_step"] == 28
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_sample):
    folder = tmp_path_factory.mktemp("whole")
    train(folder, *TINY, *tiny_sample, *COMMON)
    return folder


@pytest.mark.slow
def test_kill_9_at_any_step(tmp_path, tiny_sample, whole):
    """Checkpoints after every step, so that the kill often meets one that is being written."""
    every_step = ("callbacks.last.every_n_epochs=null", "+callbacks.last.every_n_train_steps=1")
    common = [*TINY, *tiny_sample, *COMMON, *every_step]
    last = tmp_path / "checkpoints" / "last.ckpt"
    process = start(tmp_path, *common, "dataset.num_workers=2")
    wait_for(last.exists, process)
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert torch.load(last, weights_only=True)["global_step"] < 28
    train(tmp_path, *common, "ckpt_path=last")
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_to_go_on_from(tmp_path, tiny_sample, whole):
    # Its only checkpoint is the one that SIGTERM makes.
    common = [*TINY, *tiny_sample, *COMMON, "callbacks.last.every_n_epochs=4"]
    process = start(tmp_path, *common, "trainer.log_every_n_steps=1")
    records = tmp_path / "csv" / "version_0" / "metrics.csv"
    wait_for(records.exists, process)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 28
    train(tmp_path, *common, "ckpt_path=last")
    assert_same_end(whole, tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    from yt8m.errors import ConfigError
    from yt8m.train.checkpoint import AtomicCheckpointIO

    target = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, target)

    class Unsaveable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(
        ConfigError, match=r"last\.ckpt: the checkpoint could not be written \(.*No space left"
    ):
        AtomicCheckpointIO().save_checkpoint({"step": Unsaveable()}, target)
    assert torch.load(target, weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
