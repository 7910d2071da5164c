"""Checkpoints are written in the background from a copy, whole or not at all, and once for all their names."""

import os
import threading

import pytest
import torch

from tests.training import TINY, train
from yt8m.errors import ConfigError
from yt8m.train import checkpoint
from yt8m.train.checkpoint import AtomicCheckpointIO


def load(path):
    return torch.load(path, weights_only=True)


def test_what_is_saved_is_the_state_at_the_call(tmp_path, monkeypatch):
    """The writer is held back until everything has changed."""
    may_write, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *job: may_write.wait(20) and write(*job))
    files = AtomicCheckpointIO()
    state = {"weights": torch.zeros(3), "steps": [1], "nested": {"lr": 0.1}}
    files.save_checkpoint(state, tmp_path / "best.ckpt")
    files.link(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    state["weights"] += 1
    state["steps"].append(2)
    state["nested"]["lr"] = 7
    assert not list(tmp_path.iterdir())
    may_write.set()
    files.finish()
    found = load(tmp_path / "best.ckpt")
    assert (found["weights"].tolist(), found["steps"], found["nested"]) == ([0, 0, 0], [1], {"lr": 0.1})
    assert os.path.samefile(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    files.link(tmp_path / "best.ckpt", tmp_path / "last.ckpt")  # a rename onto itself
    files.save_checkpoint({"weights": 2}, tmp_path / "best.ckpt")
    files.teardown()
    assert load(tmp_path / "best.ckpt") == {"weights": 2}
    assert load(tmp_path / "last.ckpt")["steps"] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_without_memory_for_a_copy_or_hard_links(tmp_path, monkeypatch):
    class Full:
        available = 100

    monkeypatch.setattr(checkpoint.psutil, "virtual_memory", Full)
    monkeypatch.setattr(checkpoint, "_copy", None)
    files = AtomicCheckpointIO()
    files.save_checkpoint({"weights": torch.zeros(100)}, tmp_path / "best.ckpt")
    assert load(tmp_path / "best.ckpt")["weights"].shape == (100,)  # already

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    files.link(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    files.teardown()
    assert load(tmp_path / "last.ckpt")["weights"].shape == (100,)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    target = tmp_path / "last.ckpt"
    files = AtomicCheckpointIO()
    files.save_checkpoint({"step": 1}, target)

    class Unsaveable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    files.save_checkpoint({"step": Unsaveable()}, target)
    with pytest.raises(
        ConfigError, match=r"last\.ckpt: the checkpoint could not be written \(.*No space left"
    ):
        files.save_checkpoint({"step": 2}, target)  # the next call tells
    files.teardown()
    assert load(target) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_run_serializes_each_state_once(tmp_path, tiny_sample, monkeypatch):
    written, write = [], checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *job: written.append(job[1].name) or write(*job))
    train(tmp_path, *TINY, *tiny_sample, "trainer.max_epochs=1", "test=false")
    assert written == ["best.ckpt"]
    folder = tmp_path / "checkpoints"
    assert os.path.samefile(folder / "best.ckpt", folder / "last.ckpt")
    train(tmp_path, *TINY, *tiny_sample, "trainer.max_epochs=2", "test=false", "ckpt_path=last")
    assert load(folder / "last.ckpt")["epoch"] == 1
    assert len(written) == 2
