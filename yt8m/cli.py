"""The frame around every command: what Hydra says of a mistake in one line, as the commands themselves do."""

import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


def launch(command: Callable[[], None]) -> None:
    """Call a function that `hydra.main` made; a wrong argument ends the process with one line and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would else print in several lines.
    try:
        command()
    except (HydraException, OmegaConfBaseException) as error:
        message, _, _ = str(error).partition("Config search path")
        print(f"error: {' '.join(message.split())}; see --help", file=sys.stderr)
        sys.exit(2)
