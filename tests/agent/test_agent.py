"""Sweep files: their keys exist in the configuration, and the real `wandb` commands run them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.agent.wandb_server import WandbServer
from tests.training import TINY
from yt8m.config import CONFIG_DIR

SWEEPS = sorted((Path(CONFIG_DIR) / "sweep").glob("*.yaml"))


def values_of(parameter):
    return [parameter[key] for key in ("value", "min", "max") if key in parameter] + parameter.get(
        "values", []
    )


def composed(*overrides):
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_of_a_sweep_file_composes_with_its_type(path):
    sweep = yaml.safe_load(path.read_text())
    parameters = sweep["parameters"]
    model = next(iter(values_of(parameters["model"])))
    for key, parameter in parameters.items():
        for value in values_of(parameter):
            # As `wandb agent` writes ${args_no_hyphens}.
            config = composed(f"model={model}", f"{key}={value}")
            if key == "model":
                assert config.model == composed(f"model={value}").model
            else:
                found = OmegaConf.select(config, key.lstrip("+"))
                assert found == value
                assert type(found) is type(value)
    assert sweep["metric"] == {"name": composed().optimized_metric, "goal": "maximize"}


def test_the_grid_covers_the_eight_networks():
    grid = yaml.safe_load((Path(CONFIG_DIR) / "sweep" / "networks.yaml").read_text())
    study = {
        name + kind for name in ("", "keras_") for kind in ("nn", "bi_lstm", "stream_lstm", "nn_stream_lstm")
    }
    assert set(grid["parameters"]["model"]["values"]) == study


def agent(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "yt8m.agent", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_agents_help_and_a_missing_sweep():
    shown = agent("--help")
    assert shown.returncode == 0
    assert "python -m yt8m.agent ENTITY/PROJECT/ID" in shown.stdout
    wrong = agent("--count")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: yt8m.agent: expected a sweep, ENTITY/PROJECT/ID, found none; see --help\n"


def test_runs_that_w_and_b_handed_out_are_held_against_those_that_finished():
    from yt8m.agent.agent import outcomes_of

    def of(outcomes):
        return [(run, finished) for run, _, finished in outcomes]

    commands = [f'/usr/bin/env python -m yt8m.train model=nn "seed={seed} "' for seed in range(3)]
    events = ["began a model=nn seed=0 ", "done a model=nn seed=0 ", "began b model=nn seed=2 "]
    outcomes = outcomes_of(commands, events)
    assert of(outcomes) == [("a", True), ("b", False), (None, False)]
    assert outcomes[-1].arguments == commands[1]
    assert of(outcomes_of(commands[:1], events[:2])) == [("a", True)]
    assert of(outcomes_of([commands[0]] * 2, events[:2])) == [("a", True), (None, False)]


@pytest.mark.slow
def test_runs_use_the_agents_interpreter_and_those_that_cannot_start_are_named(tmp_path, tiny_sample):
    """With another `python` on the PATH, which knows nothing of this project, and a second sweep of a program that
    does not exist."""
    (tmp_path / "foreign").mkdir()
    foreign = tmp_path / "foreign" / "python"
    foreign.write_text("#!/bin/sh\necho \"No module named 'hydra'\" >&2\nexit 1\n")
    foreign.chmod(0o755)
    sweep = yaml.safe_load((Path(CONFIG_DIR) / "sweep" / "networks.yaml").read_text())
    fixed = dict(override.split("=", 1) for override in (*TINY, *tiny_sample))
    sweep["parameters"] = {
        **{key: {"value": value} for key, value in fixed.items()},
        **{
            "logger": {"value": "none"},
            "trainer.max_epochs": {"value": 1},
            "optimizer.lr": {"values": [0.002]},
        },
    }
    sweep["command"] = [part for part in sweep["command"] if not part.startswith("logger=")]
    broken = sweep | {"command": ["/nowhere/python", *sweep["command"][2:]]}
    with WandbServer() as server:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WANDB_")},
            "PATH": f"{foreign.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0123456789" * 4,
        }
        for number, content in enumerate((sweep, broken)):
            (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
            made, done = (
                subprocess.run(
                    [sys.executable, "-m", *command],
                    **{"cwd": tmp_path, "env": environment, "capture_output": True},
                    **{"text": True, "timeout": 200, "check": False},
                )
                for command in (
                    ("wandb", "sweep", "sweep.yaml"),
                    ("yt8m.agent", f"entity/yt8m/sweep{number}"),
                )
            )
            assert made.returncode == 0, made.stderr
            named = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            if content is sweep:
                assert done.returncode == 0, done.stderr
                assert not named
                assert (tmp_path / "outputs" / "sweep" / "sweep0" / "run0" / "metrics.json").is_file()
            else:
                assert done.returncode == 1, done.stderr
                (line,) = named
                assert line.startswith("error: a run could not start: /nowhere/python -m yt8m.train")


@pytest.mark.slow
def test_the_real_commands_run_a_sweep_and_a_failed_run_is_noticed(tmp_path, tiny_sample):
    fixed = dict(override.split("=", 1) for override in (*TINY, *tiny_sample))
    sweep = yaml.safe_load((Path(CONFIG_DIR) / "sweep" / "nn_stream_lstm.yaml").read_text()) | {
        "method": "grid",
        "parameters": {
            **{key: {"value": value} for key, value in fixed.items()},
            "logger.wandb.offline": {"value": True},
            "trainer.max_epochs": {"value": 1},
            "model.dropout": {"value": 0.25},
            "optimizer.lr": {"values": [0.002, "fast"]},
        },
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    programs = Path(sys.executable).parent
    with WandbServer() as server:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WANDB_")},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0123456789" * 4,
        }

        def run(*command):
            return subprocess.run(
                command,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )

        made = run(programs / "wandb", "sweep", "sweep.yaml")
        assert made.returncode == 0, made.stdout + made.stderr
        sweep_path = re.search(r"wandb agent (\S+)", made.stderr).group(1)
        assert sweep_path == "entity/yt8m/sweep0"
        agent = run(sys.executable, "-m", "yt8m.agent", sweep_path)
    assert [point["optimizer.lr"] for point in server.sweeps["sweep0"].dealt] == [0.002, "fast"]

    good, bad = (tmp_path / "outputs" / "sweep" / "sweep0" / name for name in ("run0", "run1"))
    metrics = json.loads((good / "metrics.json").read_text())
    assert (metrics["lr"], metrics["batch_size"], metrics["epochs"]) == (0.002, 16, 1)
    config = yaml.safe_load((good / ".hydra" / "config.yaml").read_text())
    assert config["model"]["dropout"] == 0.25
    assert config["model"]["mlp_sizes"]["rgb"] == [16]
    assert config["logger"]["wandb"]["offline"] is True
    assert [path.name.split("-")[-1] for path in good.glob("wandb/offline-run-*")] == ["run0"]

    assert not (bad / "metrics.json").exists()
    assert agent.returncode == 1, agent.stdout + agent.stderr
    (named,) = [line for line in agent.stderr.splitlines() if line.startswith("error: run ")]
    assert named.startswith("error: run run1 failed: ")
    assert "optimizer.lr=fast" in named
