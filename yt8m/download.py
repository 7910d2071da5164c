"""Downloads a partition of YouTube-8M: `python -m yt8m.download partition=2/frame/train root=~/data/yt8m`."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from yt8m.config import CONFIG_DIR
from yt8m.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from yt8m.datamodules.fetch import Fetcher
    from yt8m.datamodules.mirror import PlannedFile
    from yt8m.datamodules.verified import VerifiedFiles

_SAMPLE = 16  # files asked for their size; shards of a partition are alike
_SMALL = 16 << 20  # bytes; plans and label files are far smaller
