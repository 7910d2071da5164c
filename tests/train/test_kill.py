"""A training that is killed or stopped at any moment resumes as if it had never stopped."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.training import TINY, train

COMMON = ("callbacks.best=null", "callbacks.last_within_epoch=null", "test=false", "trainer.max_epochs=4")


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "yt8m.train", f"hydra.run.dir={folder}", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"ended before it could be killed: {process.communicate()[1]}"
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
    process.communicate(timeout=60)
    assert torch.load(last, weights_only=True)["global_step"] < 28
    train(tmp_path, *common, "ckpt_path=last")
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_to_resume_from(tmp_path, tiny_sample, whole, number, code):
    # Its only checkpoint is the one that the signal causes.
    common = [*TINY, *tiny_sample, *COMMON, "callbacks.last.every_n_epochs=4"]
    process = start(tmp_path, *common, "trainer.log_every_n_steps=1", "dataset.num_workers=2")
    records = tmp_path / "csv" / "version_0" / "metrics.csv"
    wait_for(records.exists, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 28
    # The message ends in the command that resumes the run.
    command = shlex.split(errors.partition("resume with: ")[2].splitlines()[0])
    assert command[:3] == ["python", "-m", "yt8m.train"]
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, timeout=200)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_ends_as_if_never_stopped(tmp_path, tiny_sample, whole):
    """With submitit's local executor, which signals, requeues and starts jobs as its SLURM executor does."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = (f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=job", "hydra/launcher=submitit_local")
    # Its only checkpoint is the one that the signal causes.
    options = ("callbacks.last.every_n_epochs=4", "trainer.log_every_n_steps=1", "ckpt_path=auto")
    launcher = start(
        tmp_path, *sweep, "hydra.launcher.timeout_min=5", *TINY, *tiny_sample, *COMMON, *options, "-m"
    )
    wait_for((tmp_path / "job" / "csv" / "version_0" / "metrics.csv").exists, launcher)
    (task,) = [
        child
        for child in psutil.Process(launcher.pid).children(recursive=True)
        if "submitit.core._submit" in child.cmdline()
    ]
    task.send_signal(signal.SIGUSR2)
    _, errors = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, errors
    log = (tmp_path / "job" / "train.log").read_text()
    assert log.count("stopped by SIGUSR2; requeued") == 1
    (submitit,) = (tmp_path / ".submitit").glob("*/*_log.err")
    assert "Requeued job" in submitit.read_text()
    assert_same_end(whole, tmp_path / "job")


def test_a_second_ctrl_c_leaves_at_once():
    probe = (
        "import os, signal, time\n"
        "from yt8m.train.stop import SaveOnStop\n"
        "stop = SaveOnStop('.')\n"
        "stop._launcher = None\n"
        "signal.signal(signal.SIGINT, stop._handle)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('still here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('never here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stdout == "still here\n"
    assert done.stderr.splitlines()[-1] == "interrupted again: not saved"


@pytest.fixture
def two_ranks(tmp_path, tiny_sample):
    """A training in two processes with two readers each, in its first epochs; and all processes below it."""
    options = ("dataset.batch_size=8", "dataset.num_workers=2", "trainer.devices=2", "trainer.strategy=ddp")
    process = start(tmp_path, *TINY, *tiny_sample, *COMMON, *options, "trainer.max_epochs=4000")
    wait_for((tmp_path / "checkpoints" / "last.ckpt").exists, process)
    family = psutil.Process(process.pid).children(recursive=True)
    yield process, family
    for one in (psutil.Process(process.pid) if process.poll() is None else None, *family):
        if one is not None and one.is_running():
            one.kill()


def rank_one(process):
    (rank,) = [
        child
        for child in psutil.Process(process.pid).children()
        if "hydra.job.name" in " ".join(child.cmdline())
    ]
    return rank


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_a_rank_ends_all_others_within_seconds(two_ranks, rank):
    process, family = two_ranks
    victim = process if rank == 0 else rank_one(process)
    victim.kill()
    began = time.monotonic()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - began < 8
    assert process.returncode not in (0, None)
    lines = [line for line in errors.splitlines() if not line.startswith(("NNStream", "train:", "validate:"))]
    assert len(lines) == 1, errors
    assert f"rank {rank} was killed" in lines[0]


@pytest.mark.slow
def test_ctrl_c_of_one_rank_stops_all_after_the_same_step(two_ranks, tmp_path):
    process, family = two_ranks
    rank_one(process).send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert "Traceback" not in errors
    assert errors.count("resume with: python -m yt8m.train") == 1
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0


def test_a_diverged_loss_ends_training_at_its_step(tmp_path, tiny_sample, capfd):
    common = (
        *("model=nn", "model.hidden_sizes=[16]", "trainer=cpu", "dataset.num_workers=0", *tiny_sample),
        *("dataset.batch_size=16", "gradient_clip=null", "optimizer=sgd", "test=false"),
    )
    # Seven steps are an epoch, so the rate explodes for the eighth step, and the ninth loss shows it.
    explodes = ("scheduler=exponential", "scheduler.decay=1e38", "scheduler.every_examples=112")
    for name, overrides, expected in (
        (
            "early",
            ["optimizer.lr=1e38"],
            "at step 2 of epoch 1, at a learning rate of 1e+38; there is no checkpoint yet",
        ),
        (
            "late",
            ["optimizer.lr=1", *explodes],
            "at step 9 of epoch 2, at a learning rate of 1e+38; the last good checkpoint is "
            f"{tmp_path}/late/checkpoints/",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            train(tmp_path / name, *common, *overrides)
        assert ended.value.code == 1
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, errors
        assert f"error: the loss is NaN or infinite {expected}" in errors[0]
    for path in (tmp_path / "late" / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values()), path


def test_on_a_gpu_the_loss_is_read_only_where_it_is_logged(monkeypatch):
    """Without a GPU at hand: a loss that says it is on one counts how often the callback reads it."""
    from types import SimpleNamespace

    from yt8m.errors import DivergedError
    from yt8m.train.ranks import Vote
    from yt8m.train.stop import StopOnDivergence

    callback = StopOnDivergence()
    callback._vote = Vote()
    reads = []
    check = callback._check
    monkeypatch.setattr(
        callback, "_check", lambda trainer: reads.append(trainer.global_step) or check(trainer)
    )
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    trainer = SimpleNamespace(
        optimizers=[optimizer],
        log_every_n_steps=5,
        is_last_batch=False,
        current_epoch=0,
        checkpoint_callbacks=[],
    )

    def train_on():
        for step in range(1, 100):
            trainer.global_step, optimizer.param_groups[0]["lr"] = step - 1, float(step)
            callback.on_train_batch_start(trainer)
            trainer.global_step = step
            loss = torch.tensor(float("nan") if step in (7, 8) else 1.0)
            outputs = {"loss": _OnGPU(loss)}
            callback.on_train_batch_end(trainer, None, outputs, None, step - 1)

    with pytest.raises(DivergedError, match="at step 7 of epoch 1, at a learning rate of 7;"):
        train_on()
    assert reads == [5, 10]


class _OnGPU:
    """A tensor that says that it is on a GPU."""

    def __init__(self, tensor):
        self._tensor, self.device = tensor, torch.device("cuda")

    def isfinite(self):
        return self._tensor.isfinite()
