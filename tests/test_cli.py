"""The entry point of all commands: help, suggestions, exit codes, the console script and its completion."""

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.training import run_command
from yt8m.__main__ import commands

HYDRA_COMMANDS = sorted(set(commands()) - {"agent"})
# Output that cannot be written is then found out at the end only.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def call(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_help_and_configuration_start_without_torch():
    for name in HYDRA_COMMANDS:
        for flags in (["--help"], ["--cfg", "job"]):
            code = (
                f"import sys; sys.argv = ['x', *{flags!r}]\nfrom yt8m.{name}.__main__ import main\n"
                "main()\nassert not {'torch', 'pandas', 'matplotlib', 'wandb'} & set(sys.modules)"
            )
            done = call("-c", code)
            assert (done.returncode, done.stderr) == (0, ""), f"{name} {flags}"
            assert len(done.stdout.splitlines()) > 5
            if flags == ["--help"]:
                assert f"python -m yt8m.{name}" in done.stdout
                assert "powered by Hydra" not in done.stdout


def test_train_help_lists_every_option_with_its_purpose():
    text = call("-m", "yt8m.train", "-h").stdout
    for line in (
        r"  nn_stream_lstm  ",
        "  yt8m_video  ",
        "  tensorboard  ",
        "  quickstart ",
        "  best/yt8m_video ",
        "Exit code: 0 trained",
    ):
        assert line in text
    assert (
        "networks" not in text.split("--cfg job")[0].split("experiment=NAME")[1]
    )  # W&B's sweep files are no options


def test_a_wrong_argument_is_answered_in_one_line_with_a_suggestion(capsys):
    cases = {
        "experiment=best/yt8m_vide": "published/nextvlad",
        "experiment=best/audio_set": "; did you mean best/audioset?",
        "modle=nn": "modle: no such setting; did you mean model?",
        "optimizer.lrr=1": "optimizer.lrr: no such setting; did you mean optimizer.lr?",
        "dataset.limit_vidoes=1": "did you mean dataset.limit_videos?",
        "lr=1": "lr: no such setting; did you mean optimizer.lr?",
        "datasets.root=x": "did you mean dataset.root?",
        "optimizer.amsgrad=true": "to pass it to optimizer's class all the same, write +optimizer.amsgrad=…",
        "model=gru model.hiden_size=8": "did you mean model.hidden_size?",
        "model=nn model.projection_size=8": "model.projection_size: no such setting; to pass it",
        "model=nnn": "model=nnn: expected one of attention, ",
        "experiment=null": "experiment=null: expected the name of an option, found null",
        "sweep=networks": "sweep: the files of conf/sweep are not options of this command",
        "+sweep=networks": "sweep: the files of conf/sweep are not options of this command",
        "hydra/launcher=ray": "hydra/launcher/ray: not installed; pip install 'yt8m[ray]'",
        "optimizer.lr=[1": "no viable alternative at input",
        "seed=abc": "seed: expected a whole number from 0 to 4,294,967,295, found 'abc'",
    }
    for argument, expected in cases.items():
        with pytest.raises(SystemExit) as ended:
            run_command("train", *argument.split(), "hydra.run.dir=/tmp", "hydra.output_subdir=null")
        error = capsys.readouterr().err
        assert ended.value.code == 2, argument
        assert expected in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error


def test_types_and_ranges_are_checked_for_every_command(capsys, tmp_path):
    cases = {
        "train": (
            "dataset.batch_size=1.5 dataset.batch_size=10000000000 dataset.num_workers=1.5 dataset.max_frames=abc "
            "dataset.limit_shards=1.5 dataset.train= dataset.train=3 dataset.num_classes=abc seed=-1 seed=1.5 "
            "seed=18446744073709551616 trainer.max_epochs=abc gradient_clip.norm=abc gradient_clip=1 optimizer.lr=inf "
            "optimizer.lr=nan normalize=3 test=maybe optimized_metric=val/x"
        ),
        "eval": "split=train dataset.batch_size=0 ckpt_path=[a]",
        "predict": "top_k=0 format=xml weights=[0] overwrite=3",
        "export": "precision=x reads=x split=x output=",
        "demo": "port=-1 upload_mb=0 upload_seconds=x split=x weights=",
        "verify": "jobs=0 partition=x json=3",
        "explore": "top_classes=1 limit_videos=0 seed=x",
        "report": "metric=3 classes=x runs=[]",
        "download": "jobs=0 retries=-1 mirror=mars backoff=inf",
    }
    needed = {
        "eval": ["ckpt_path=x"],
        "predict": ["ckpt_path=x"],
        "export": ["ckpt_path=x"],
        "demo": ["ckpt_path=x"],
        "report": ["runs=[x]"],
        "download": ["partition=2/frame/train"],
    }
    for name, arguments in cases.items():
        for argument in arguments.split():
            key = argument.partition("=")[0]
            with pytest.raises(SystemExit) as ended:
                run_command(name, *needed.get(name, ()), argument, f"hydra.run.dir={tmp_path}")
            error = capsys.readouterr().err
            assert ended.value.code == 2, (name, argument)
            assert error.startswith(f"error: {key}"), (argument, error)
            assert ": expected " in error
            assert ", found " in error
            assert error.count("\n") == 1, error


def test_a_warning_is_printed_by_commands_that_keep_no_log(capsys, tmp_path):
    """And one command does not silence those after it in the process, as Hydra's option `disabled` would."""
    log = logging.getLogger("yt8m.storage.transport")
    for name, arguments in {
        "score": f"submission={tmp_path}/x.csv labels={tmp_path}",
        "verify": f"dataset=yt8m_video dataset.root={tmp_path}/absent",
        "explore": f"dataset=yt8m_video dataset.root={tmp_path}/absent",
        "extract": f"videos={tmp_path}/x.mp4 output={tmp_path}/absent",
        "download": "partition=x",
        "report": f"runs={tmp_path}/absent",
    }.items():
        with pytest.raises(SystemExit):
            run_command(name, *arguments.split(), f"hydra.run.dir={tmp_path}")
        error = capsys.readouterr().err
        assert error.startswith("error: "), (name, error)
        assert error.count("\n") == 1, (name, error)
        log.warning("attempt %d failed", 1)
        log.info("not for the terminal")
        assert capsys.readouterr().err == "attempt 1 failed\n", name


def test_a_missing_mandatory_value_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command("download")
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: partition: expected a value, found none; see --help for an example\n"
    )


def test_interrupted_at_once():
    """Ctrl-C while Python still imports: one line, whenever it comes."""
    for delay in (0.1, 0.2, 0.3, 0.4, 0.8):
        process = subprocess.Popen(
            [sys.executable, "-m", "yt8m.verify", "dataset=yt8m_video", "dataset.root=/absent-folder"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        # In the first moments the interpreter itself dies of the signal, before `main` has begun.
        if re.search(r'yt8m/\S+", line \d+, in main', error) or process.returncode == 130:
            assert (process.returncode, error) == (130, "interrupted\n")


def test_a_reader_of_the_output_may_leave():
    done = subprocess.run(
        f"{sys.executable} -m yt8m.train --help | head -1",
        shell=True,
        env=BUFFERED,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("Trains a network")


def test_output_that_the_terminal_cannot_show(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    (tmp_path / "ä").mkdir()
    done = call("-m", "yt8m.report", str(tmp_path / "ä"), f"output={tmp_path / 'out'}", env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_console_script_starts_the_same_commands():
    done = call("-m", "yt8m", "--help")
    assert done.returncode == 0
    for name in commands():
        assert f"  {name} " in done.stdout
    done = call("-m", "yt8m", "train", "modle=nn")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = call("-m", "yt8m", "trian")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert call("-m", "yt8m", "--version").stdout.strip()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_tab_completion():
    script = r"""
        program() { "$PYTHON" -c 'import sys; sys.argv[0] = "yt8m"; from yt8m.__main__ import main; main()' "$@"; }
        yt8m() { program "$@"; }
        eval "$(yt8m -sc install=bash)"
        try() {
            COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            export COMP_LINE COMP_POINT
            words=($COMP_LINE); choices=$(yt8m -sc query=bash)
            echo $(compgen -W "$choices" -- "${words[$COMP_CWORD]}")
        }
        try "yt8m tr"; try "yt8m train model=keras_n"; try "yt8m download mir"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.stdout.splitlines() == ["train", "model=keras_nn model=keras_nn_stream_lstm", "mirror="]


def test_surroundings_that_fail_end_in_one_line(tmp_path, tiny_sample):
    """A full disk, a file in the way, too long a path, no file descriptors, no working directory, no such user."""
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    verify = f"{sys.executable} -m yt8m.verify dataset=yt8m_video"
    train = f"{sys.executable} -m yt8m.train model=nn trainer=cpu dataset=yt8m_video dataset.root={tmp_path}"
    sample = f"{sys.executable} -m yt8m.train model=nn trainer=cpu {' '.join(map(shlex.quote, tiny_sample))}"
    cases = {
        f"{train} hydra.run.dir={tmp_path}/file": (1, "File exists"),
        f"{train} hydra.run.dir={tmp_path}/{'a' * 300}": (1, "File name too long"),
        f"{verify} --help > /dev/full": (1, "No space left on device; free space on the disk"),
        f"{sample.replace('yt8m.train model=nn trainer=cpu', 'yt8m.verify')} > /dev/full": (
            1,
            "No space left on device; free space on the disk",
        ),
        f"ulimit -n 12; {sample} hydra.run.dir={tmp_path}/run": (1, "Too many open files"),
        f"cd gone && rmdir ../gone && {train}": (1, "the working directory may have been deleted"),
        f"{verify} dataset.root=~nobody-at-all/data": (
            2,
            "dataset.root: expected a folder, found ~nobody-at-all/data",
        ),
        f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {verify} dataset.root=/absent-folder": (
            2,
            "dataset.root: expected",
        ),
    }
    for line, (code, expected) in cases.items():
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=BUFFERED,
            capture_output=True,
            text=True,
            timeout=120,
            errors="replace",
        )
        assert done.returncode == code, (line, done.stderr)
        assert expected in done.stderr, (line, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
        assert len(errors) == 1, (line, done.stderr)
