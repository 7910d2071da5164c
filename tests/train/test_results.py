"""The record of a run: its commit and its table in the terminal."""

import subprocess
from pathlib import Path

import pytest
import torch

from yt8m.train import results
from yt8m.train.results import git_commit, print_results

ROOT = Path(__file__).resolve().parents[2]


def repository(folder, pyproject):
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(pyproject)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_only_the_projects_own_checkout_has_a_commit(tmp_path):
    own = repository(tmp_path / "own", '[project]\nname = "yt8m"\n')
    assert git_commit(tmp_path / "own") == own
    repository(tmp_path / "foreign", '[project]\nname = "another"\n')
    assert git_commit(tmp_path / "foreign") is None
    # A wheel installed into the virtual environment of a foreign repository.
    site = tmp_path / "foreign" / ".venv" / "lib" / "site-packages"
    (site / "yt8m").mkdir(parents=True)
    assert git_commit(site) is None


def test_a_damaged_pyproject_is_no_reason_to_stop(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project")
    assert git_commit(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text("")
    assert git_commit(tmp_path) is None


def test_results_do_not_need_git(tmp_path, monkeypatch):
    repository(tmp_path / "own", '[project]\nname = "yt8m"\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path / "own") is None
    assert results.provenance()["git_commit"] is None


def test_a_piped_table_cuts_neither_paths_nor_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    record = {
        **{f"{prefix}/{key}": 0.25 for prefix in ("val", "last/val", "test") for key in ("gap", "loss")},
        **{"best_epoch": 3, "epochs": 5, "params": 62_448, "train/loss": 1.5},
    }
    folder = Path("/", *["a_folder_with_a_long_name"] * 8, "[brackets] stay")
    print_results(record, folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"output folder: {folder}"
    assert "validate, best (epoch 3)" in lines[0]
    assert "validate, last (epoch 5)" in lines[0]
    (loss,) = [line for line in lines if line.startswith("loss")]
    assert loss.split() == ["loss", "0.2500", "0.2500", "0.2500", "1.5000"]
    assert any(line.split() == ["parameters", "62,448"] for line in lines)


def test_gpu_stats_are_those_of_the_runs_device(monkeypatch):
    """The current CUDA device is per thread, so the sampling thread needs the run's device."""
    pynvml = pytest.importorskip("pynvml")
    from yt8m.train.stats import _gpu_handle

    class Properties:
        def __init__(self, device):
            self.uuid = f"uuid-of-{device}"

    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    assert _gpu_handle(torch.device("cuda", 3)) == "GPU-uuid-of-cuda:3"
    assert _gpu_handle(torch.device("cpu")) is None


def test_where_time_went_adds_up(monkeypatch):
    """A clock that only the parts of a training move, and a checkpoint after a step and after a validation."""
    from types import SimpleNamespace

    from yt8m.train import stats
    from yt8m.train.stats import RunStats

    now = [100.0]
    monkeypatch.setattr(stats.time, "perf_counter", lambda: now[0])
    files = SimpleNamespace(blocked_seconds=5.0)  # of an earlier fit
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(checkpoint_io=files, root_device=torch.device("cpu")),
        state=SimpleNamespace(fn="fit"),
        world_size=1,
        global_step=1,
        log_every_n_steps=10,
        is_last_batch=False,
    )

    def passes(seconds, *, saving=False):
        now[0] += seconds
        files.blocked_seconds += seconds if saving else 0.0

    run = RunStats()
    run.spent["input_seconds"] = 1000.0  # before a resume
    monkeypatch.setattr(run, "_log_curves", lambda trainer: None)
    run._blocked = files.blocked_seconds
    run.on_train_start(trainer, None)
    for step in range(3):
        passes(0.5)
        run.on_train_batch_start(trainer, None, None, step)
        passes(2.0)
        run.on_train_batch_end(trainer, None, None, range(4), step)
        if step == 0:
            passes(7.0, saving=True)
    run.on_validation_start(trainer, None)
    passes(11.0)
    run.on_validation_end(trainer, None)
    passes(13.0, saving=True)
    run.on_train_epoch_start(trainer, None)
    passes(0.25)
    run.on_train_batch_start(trainer, None, None, 0)
    resumed = RunStats()
    run._thread = None
    resumed.load_state_dict(run.state_dict())
    expected = {
        "input_seconds": 1001.75,
        "step_seconds": 6,
        "validation_seconds": 11,
        "checkpoint_seconds": 20,
    }
    assert {key: resumed.summary()[key] for key in expected} == expected
