"""The frame around every command: what Hydra says of a mistake in one line, as the commands themselves do."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

# Environment variable: the file in which the runs of a sweep's agent note that they began and that they are done.
RUNS_RECORD = "YT8M_RUNS_RECORD"


def launch(command: Callable[[], None]) -> None:
    """Call a function that `hydra.main` made; a wrong argument ends the process with one line and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would else print in several lines.
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")  # the extra `search` pins it below 2.0
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    _note("began")
    try:
        command()
    except SystemExit as stop:
        if stop.code:  # None where Lightning obeyed a SIGTERM, by which a sweep stops a run early
            raise
    except (HydraException, OmegaConfBaseException) as error:
        message, _, _ = str(error).partition("Config search path")
        end(2, f"error: {' '.join(message.split())}; see --help")
    _note("done")


def end(code: int, message: str) -> NoReturn:
    """End the process with one line about why."""
    print(message, file=sys.stderr)
    sys.exit(code)


def _at_home(argument: str) -> str:
    """`dataset.root=~/data` with the home folder in place of `~`, which Hydra takes for the removal of a key."""
    key, equals, value = argument.partition("=")
    return f"{key}={os.path.expanduser(value)}" if equals and value.startswith("~/") else argument


def _note(event: str) -> None:
    if RUNS_RECORD in os.environ:
        with open(os.environ[RUNS_RECORD], "a") as record:
            record.write(f"{event} {os.environ.get('WANDB_RUN_ID')} {' '.join(sys.argv[1:])}\n")
