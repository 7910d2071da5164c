"""Hydra sweeps: a folder per job, failures that do not affect other jobs, launchers, and no leaked memory."""

import gc
import importlib.util
import json
import subprocess
import sys

import pytest
import yaml

from tests.training import TINY, run_command
from yt8m.train.launch import refuse_unusable

ONCE = ("trainer.max_epochs=1", "test=false")


def sweep(folder, *overrides):
    run_command("train", "-m", f"hydra.sweep.dir={folder}", *overrides)


def job(folder, number):
    (found,) = folder.glob(f"{number}_*")
    return found


@pytest.fixture
def fire(monkeypatch):
    """Make training with a learning rate of 0.001 fail with an unexpected error."""
    from yt8m.module import VideoClassifier

    def on_train_start(self):
        if self.hparams.optimizer["lr"] == 0.001:
            raise RuntimeError("the network caught fire")

    monkeypatch.setattr(VideoClassifier, "on_train_start", on_train_start, raising=False)


def test_a_failed_job_is_named_and_the_others_run(tmp_path, tiny_sample, fire, capsys):
    with pytest.raises(SystemExit) as end:
        sweep(tmp_path, *TINY, *tiny_sample, *ONCE, "optimizer.lr=1e-3,2e-3")
    assert end.value.code not in (0, None)
    assert "job 0" in capsys.readouterr().err
    for number, lr in enumerate((0.001, 0.002)):
        folder = job(tmp_path, number)
        assert f"optimizer.lr={lr}" in folder.name
        assert yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["optimizer"]["lr"] == lr
    failed, good = job(tmp_path, 0), job(tmp_path, 1)
    assert not (failed / "metrics.json").exists()
    log = (failed / "train.log").read_text()
    assert "Traceback" in log
    assert "RuntimeError: the network caught fire" in log
    assert json.loads((good / "metrics.json").read_text())["lr"] == 0.002
    assert "Traceback" not in (good / "train.log").read_text()


def test_jobs_do_not_keep_earlier_networks_in_memory(tmp_path, tiny_sample, fire, monkeypatch):
    from yt8m import cli
    from yt8m.module import VideoClassifier
    from yt8m.train import run

    def networks():
        # Without collecting garbage first: reference cycles count as memory in use.
        return sum(type(thing) is VideoClassifier for thing in gc.get_objects())

    monkeypatch.setattr(cli.log, "exception", cli.log.error)  # pytest would keep the record and its traceback
    alive = []
    make_trainer = run.make_trainer
    monkeypatch.setattr(run, "make_trainer", lambda *args: alive.append(networks()) or make_trainer(*args))
    gc.collect()
    before = networks()
    with pytest.raises(SystemExit):
        sweep(tmp_path, *TINY, *tiny_sample, *ONCE, "optimizer.lr=2e-3,1e-3,3e-3")
    assert alive == [before + 1] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("joblib", "hydra.launcher.n_jobs=2"),
        ("submitit_local", "hydra.launcher.timeout_min=5"),
    ],
    ids=lambda launcher: launcher[0],
)
def test_a_launcher_runs_every_job_in_a_process_of_its_own(launcher, tmp_path, tiny_sample):
    name, option = launcher
    if importlib.util.find_spec(f"hydra_plugins.hydra_{name.split('_')[0]}_launcher") is None:
        pytest.skip("needs the extra `launchers`")
    # In a process, as `python -m` makes the job a function of __main__, which the launcher must pickle.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "yt8m.train", "-m", f"hydra.sweep.dir={tmp_path}"),
            *(f"hydra/launcher={name}", option, "optimizer.lr=1e-3,fast", *TINY, *tiny_sample, *ONCE),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0
    assert "job 1" in done.stderr
    assert json.loads((job(tmp_path, 0) / "metrics.json").read_text())["lr"] == 0.001
    assert "fast" in (job(tmp_path, 1) / "train.log").read_text()


@pytest.fixture
def hydra_mode(monkeypatch):
    """Pretend that Hydra started this process in a mode, with a launcher and overrides of its own keys."""

    def arrange(mode, launcher="basic", overrides=()):
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        config = {
            "mode": RunMode[mode],
            "launcher": {"_target_": f"hydra_plugins.{launcher}.Launcher"},
            "overrides": {"hydra": list(overrides)},
        }
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: OmegaConf.create(config)))

    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return arrange


TWO = {"devices": 2, "num_nodes": 1, "strategy": "ddp"}


@pytest.mark.parametrize("trainer", [TWO, TWO | {"devices": "auto"}, TWO | {"devices": 1, "num_nodes": 2}])
def test_several_processes_in_a_multirun_are_rejected_with_a_way_out(hydra_mode, trainer):
    from yt8m.errors import ConfigError

    hydra_mode("MULTIRUN")
    with pytest.raises(ConfigError, match=r"leave out -m .* or set hydra/launcher=submitit_slurm"):
        refuse_unusable(trainer)
    hydra_mode("RUN")
    refuse_unusable(trainer)


def test_one_process_per_job_is_fine_in_a_multirun(hydra_mode):
    hydra_mode("MULTIRUN")
    for devices in (1, "1", [3]):
        refuse_unusable(TWO | {"devices": devices})


def test_a_submitit_job_whose_tasks_slurm_started_may_have_several_devices(hydra_mode, monkeypatch):
    from yt8m.errors import ConfigError

    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "sweep")
    hydra_mode("MULTIRUN", "hydra_submitit_launcher.submitit_launcher")
    refuse_unusable(TWO)
    hydra_mode("MULTIRUN")
    with pytest.raises(ConfigError, match="leave out -m"):
        refuse_unusable(TWO)


def test_processes_started_from_outside_must_share_a_named_folder(hydra_mode, monkeypatch):
    from yt8m.errors import ConfigError

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    hydra_mode("RUN")
    with pytest.raises(ConfigError, match=r"set hydra\.run\.dir"):
        refuse_unusable(TWO)
    hydra_mode("RUN", overrides=["hydra.run.dir=outputs/a"])
    refuse_unusable(TWO)


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn", "ddp_notebook"])
def test_strategies_that_lose_the_results_are_rejected(hydra_mode, strategy):
    from yt8m.errors import ConfigError

    hydra_mode("RUN")
    with pytest.raises(ConfigError, match=r"set trainer\.strategy=ddp"):
        refuse_unusable(TWO | {"strategy": strategy})
