"""Where Hydra finds the configuration, and what its files can call."""

import re
from pathlib import Path

from omegaconf import OmegaConf

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


OmegaConf.register_new_resolver("as_folder", as_folder, replace=True)
