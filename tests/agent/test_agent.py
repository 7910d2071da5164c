"""Sweep files: every key is one of the configuration, and the real `wandb` commands run them."""

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
