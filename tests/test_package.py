"""The project as a wheel: whole without its checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built from the checkout and unpacked as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            folder,
            ROOT,
        ],
        check=True,
        timeout=120,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_a_wheel_carries_every_config(installed):
    def configs(folder):
        return sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))

    assert configs(installed / "yt8m" / "conf") == configs(ROOT / "conf")


@pytest.mark.slow
def test_training_from_an_installed_wheel(installed, tmp_path):
    done = run(
        installed,
        tmp_path,
        "yt8m.train",
        "model=nn",
        "model.width=0.01",
        "debug=fast",
        "trainer=cpu",
        "+dataset.sample.train_videos=40",
        "+dataset.sample.validate_videos=20",
        "+dataset.sample.test_videos=20",
    )
    assert done.returncode == 0, done.stderr
    (run_folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert (run_folder / "metrics.json").is_file()
    assert (tmp_path / "data" / "sample" / "vocabulary.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "eval"])
def test_help_needs_no_torch(installed, tmp_path, command):
    probe = (
        "import sys; sys.argv = ['x', '--help']; import runpy\n"
        f"try: runpy.run_module('yt8m.{command}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'pytorch_lightning', 'tfrecord', 'wandb'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "heavy: []" in done.stdout
