"""The trainer configs, with two CPU processes in the place of GPUs."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.training import TINY, run_command, train

FIXED = [override for override in TINY if override != "trainer=cpu"]
SMALL = ("trainer.accelerator=cpu", "trainer.max_epochs=1", "dataset.batch_size=7")


def start(*command):
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_sharded_weights_train_resume_and_evaluate_as_whole_ones_do(tmp_path, tiny_sample):
    import torch

    # Without dropout, for the ranks' random numbers differ; two batches of 7 are one of 14.
    common = [*FIXED, *tiny_sample, *SMALL, "model.dropout=0", "+trainer.limit_train_batches=3"]
    sharded = [*common, "trainer=fsdp", "trainer.devices=2", f"hydra.run.dir={tmp_path / 'fsdp'}"]
    train(tmp_path / "whole", *common, "dataset.batch_size=14", "trainer.max_epochs=2")
    finish(start("yt8m.train", *sharded))
    finish(start("yt8m.train", *sharded, "trainer.max_epochs=2", "ckpt_path=last"))
    whole, sharded = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "fsdp")
    )
    assert whole.keys() == sharded.keys()
    for key, value in whole.items():
        torch.testing.assert_close(sharded[key], value, rtol=1e-4, atol=1e-6, msg=key)
    run_command(
        *("eval", f"ckpt_path={tmp_path / 'fsdp' / 'checkpoints' / 'last.ckpt'}", "trainer=cpu"),
        f"hydra.run.dir={tmp_path / 'eval'}",
    )
    trained, evaluated = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("fsdp", "eval")
    )
    assert evaluated["val/gap"] == pytest.approx(trained["val/gap"], abs=1e-5)


@pytest.mark.slow
def test_sharded_batch_norms_validate_with_the_statistics_that_are_saved(tmp_path, tiny_sample):
    """In a network with a training loss of its own, and parameters beside those of its layers."""
    network = ("model=mix_nextvlad", "model.num_branches=1", "model.width=0.01", *FIXED[4:])
    options = ("trainer=fsdp", "trainer.devices=2", *SMALL, "+trainer.limit_train_batches=3", "test=false")
    finish(start("yt8m.train", *network, *tiny_sample, *options, f"hydra.run.dir={tmp_path / 'fsdp'}"))
    run_command(
        *("eval", f"ckpt_path={tmp_path / 'fsdp' / 'checkpoints' / 'last.ckpt'}", "trainer=cpu"),
        f"hydra.run.dir={tmp_path / 'eval'}",
    )
    trained, evaluated = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("fsdp", "eval")
    )
    assert evaluated["val/loss"] == pytest.approx(trained["val/loss"], rel=1e-5)


@pytest.mark.slow
def test_two_nodes_under_torchrun_leave_one_folder(tmp_path, tiny_sample):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        start(
            *("torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}"),
            *("--master-addr=127.0.0.1", f"--master-port={port}", "-m", "yt8m.train", "trainer=ddp_nodes"),
            *(*FIXED, *tiny_sample, *SMALL, "trainer.devices=1", f"hydra.run.dir={tmp_path / 'run'}"),
        )
        for rank in range(2)
    ]
    for node in nodes:
        finish(node)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 1
