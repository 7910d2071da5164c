"""`wandb agent` whose runs use this interpreter, and whose failures show in the exit code."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, NamedTuple

from yt8m.cli import RUNS_RECORD
from yt8m.errors import ConfigError, require

# What `wandb agent` logs before it starts a run; arguments with spaces are in quotes.
_STARTS = re.compile(rb"About to run command: (.*)")


class Outcome(NamedTuple):
    """How a run of the sweep ended.

    Attributes:
        run: its W&B id; None for a run that never started.
        arguments: its overrides, or the command of one that never started.
        finished: whether it ended without an error.
    """

    run: str | None
    arguments: str
    finished: bool


def run_agent(arguments: list[str]) -> int:
    """Run `wandb agent` until it ends; one line to stderr per run that failed or never started.

    `${interpreter}` in a sweep file is whatever `python` is on the PATH, so this interpreter is put there.

    Args:
        arguments: of `wandb agent`.

    Returns:
        Exit code: 1 if a run failed or never started, else the agent's own.

    Raises:
        ConfigError: wandb is not installed.
    """
    require("wandb", "yt8m.agent")
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "runs")
        record.touch()
        _put_interpreter(Path(folder, "bin"))
        agent = subprocess.Popen(
            [sys.executable, "-m", "wandb", "agent", *arguments],
            env={
                **os.environ,
                RUNS_RECORD: str(record),
                "PATH": os.pathsep.join([f"{folder}/bin", os.environ.get("PATH", os.defpath)]),
            },
            stderr=subprocess.PIPE,
        )
        commands: list[str] = []
        reader = threading.Thread(target=_forward, args=(agent.stderr, commands))
        reader.start()
        signal.signal(signal.SIGTERM, lambda number, frame: agent.send_signal(number))
        code = _wait(agent)
        reader.join()
        outcomes = outcomes_of(commands, record.read_text(encoding="utf-8").splitlines())
    lost = [outcome for outcome in outcomes if not outcome.finished]
    for outcome in lost:
        what = f"run {outcome.run} failed" if outcome.run else "a run could not start"
        print(f"error: {what}: {outcome.arguments}", file=sys.stderr)
    return code or int(bool(lost))


def outcomes_of(commands: list[str], events: list[str]) -> list[Outcome]:
    """What became of the runs that W&B handed out.

    Args:
        commands: the agent's command line for each run.
        events: lines `began ID ARGUMENTS` and `done ID ARGUMENTS` of the runs themselves (`yt8m.cli`).
    """
    done = {line.split(" ")[1] for line in events if line.startswith("done ")}
    began = dict(line.split(" ", 2)[1:] for line in events if line.startswith("began "))
    outcomes = [Outcome(run, arguments, run in done) for run, arguments in began.items()]
    started = [*began.values()]
    for command in commands:
        plain = command.replace('"', "")
        same = next((arguments for arguments in started if plain.endswith(arguments)), None)
        if same is None:
            outcomes.append(Outcome(None, command, False))
        else:
            started.remove(same)
    return outcomes


def _put_interpreter(folder: Path) -> None:
    """Write a `python` that runs this interpreter. A link to it would lose its virtual environment."""
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)


def _forward(stream: IO[bytes], commands: list[str]) -> None:
    """Copy the agent's stderr to ours, and collect the commands in it."""
    for line in stream:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        if match := _STARTS.search(line):
            commands.append(match[1].decode(errors="replace").strip())


def _wait(agent: subprocess.Popen[bytes]) -> int:
    """The agent's exit code; 130 after Ctrl-C, which the agent gets, too, and ends its run on."""
    interrupted = False
    while True:
        try:
            code = agent.wait()
        except KeyboardInterrupt:
            interrupted = True
        else:
            return 130 if interrupted else code


def check_arguments(arguments: list[str]) -> None:
    """Raise ConfigError without a sweep to work on."""
    if not any(not argument.startswith("-") for argument in arguments):
        raise ConfigError("yt8m.agent: expected a sweep, ENTITY/PROJECT/ID, found none; see --help")
