"""Optional packages: one line with the pip command where one is missing, and an extra that brings each."""

import sys
import tomllib
from pathlib import Path

import pytest

from tests.training import run_command
from yt8m.errors import PACKAGES, ConfigError, require

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


def test_every_hint_names_an_extra_that_brings_the_package():
    extras = PROJECT["optional-dependencies"]
    for package, extra in PACKAGES.items():
        assert any(line.startswith(package) for line in extras[extra]), (package, extra)
        assert not any(line.startswith(package) for line in PROJECT["dependencies"]), package


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("yt8m.errors.is_installed", lambda package: False)
    with pytest.raises(ConfigError, match=r"^logger=wandb: expected the package wandb, .* 'yt8m\[wandb\]'$"):
        require("wandb", "logger=wandb")


def test_a_command_whose_import_fails_names_the_extra(monkeypatch, tmp_path, capfd):
    for module in [name for name in sys.modules if name.startswith(("yt8m.explore", "matplotlib"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # imports of it fail
    with pytest.raises(SystemExit) as ended:
        run_command("explore", f"hydra.run.dir={tmp_path}", f"dataset.root={tmp_path}", "dataset=yt8m_frame")
    assert ended.value.code == 2
    assert "pip install 'yt8m[plots]'" in capfd.readouterr().err.splitlines()[-1]
