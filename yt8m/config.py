"""Where Hydra finds the configuration, and what its files can call."""

import inspect
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from yt8m.metric_table import metric_of

_PACKAGE = Path(__file__).resolve().parent

# A wheel carries the configs inside the package; in a checkout they lie beside it.
CONFIG_DIR: str = str(next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()))


def as_folder(overrides: str) -> str:
    """`model=nn,dataset.root=/a/b` as one folder's name: no separators, no longer than file systems allow.

    Of too many overrides the longest are left out, for they are paths and the like: what a sweep varies is short.
    """
    parts = re.split(r",(?=[^,{}\[\]]+=)", overrides)  # not at the commas of a list or a dictionary
    while len(parts) > 1 and len(",".join(parts)) > 200:
        parts.remove(max(parts, key=len))
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(parts))[:200]


def mode_of(metric: str) -> str:
    """`min` or `max`: which values of a metric (`val/gap`) are the best."""
    try:
        return metric_of(metric).mode
    except KeyError:
        return "max"  # no metric of ours: `yt8m.schema` says so before it is used


def options(group: str) -> str:
    """The options of a config group for a help text: a line each, with the first comment of its file."""
    files = sorted(Path(CONFIG_DIR, group).glob("*.yaml"))
    width = max(len(path.stem) for path in files)
    return "\n".join(f"  {path.stem:<{width}}  {_purpose(path)}" for path in files)


def _purpose(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("# ") for line in lines if line.startswith("# "))
    return next((text for text in comments if not text.startswith("@package")), "")


# OmegaConf 2.4 deprecates the name that 2.3 has, and gives the function the name of an older one.
_new = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
_register: Any = OmegaConf.register_resolver if _new else OmegaConf.register_new_resolver
_register("options", options, replace=True)
_register("as_folder", as_folder, replace=True)
_register("mode_of", mode_of, replace=True)
