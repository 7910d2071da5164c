"""The record of a run: its commit and its table in the terminal."""

import subprocess
from pathlib import Path

import pytest

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
    import torch

    from yt8m.train.stats import _gpu_handle

    class Properties:
        def __init__(self, device):
            self.uuid = f"uuid-of-{device}"

    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    assert _gpu_handle(torch.device("cuda", 3)) == "GPU-uuid-of-cuda:3"
    assert _gpu_handle(torch.device("cpu")) is None
