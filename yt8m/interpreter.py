"""Modules of this package in a Python process of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def start(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start `python -m MODULE ARGUMENTS` with this interpreter, and with this package wherever it was imported from.

    Args:
        module: dotted name.
        env: variables to set beside those of this process.
        options: of `subprocess.Popen`.
    """
    home = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: a module in the current folder must not take the place of one of ours.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(command, env={**os.environ, **(env or {}), "PYTHONPATH": path}, **options)
