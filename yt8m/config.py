"""Where Hydra finds the configuration, what its files can call, and one line about arguments that it rejects."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterator
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
    names = _options(group)
    width = max(map(len, names))
    return "\n".join(
        f"  {name:<{width}}  {_purpose(Path(CONFIG_DIR, group, f'{name}.yaml'))}" for name in names
    )


def _options(group: str) -> list[str]:
    """The options of a config group; those in folders below it come last, as `FOLDER/NAME`."""
    folder = Path(CONFIG_DIR, group)
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(names, key=lambda name: (name.count("/"), name))


def _purpose(path: Path) -> str:
    """The file's first comment, without the command that may follow it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("# ") for line in lines if line.startswith("# "))
    text = next((text for text in comments if not text.startswith("@package")), "")
    return re.sub(r": (python -m yt8m|experiment=).*", ".", text)


# OmegaConf 2.4 deprecates the name that 2.3 has, and gives the function the name of an older one.
_new = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
_register: Any = OmegaConf.register_resolver if _new else OmegaConf.register_new_resolver
_register("options", options, replace=True)
_register("as_folder", as_folder, replace=True)
_register("mode_of", mode_of, replace=True)


# Options of Hydra's own groups that a plugin provides, and the extra that installs the plugin.
_EXTRAS = {
    "hydra/sweeper/optuna": "search",
    "hydra/launcher/joblib": "launchers",
    "hydra/launcher/submitit_local": "launchers",
    "hydra/launcher/submitit_slurm": "launchers",
    "hydra/launcher/ray": "ray",
    "hydra/launcher/ray_aws": "ray",
}


def explain(error: Exception, command: str) -> str:
    """One line about an argument that Hydra or OmegaConf rejected, and what to write instead."""
    message = " ".join(str(error).partition("Config search path")[0].split())
    if match := re.search(r"Could not override '([^']+)'", message):
        return _unknown_key(match[1], command)
    if match := re.search(r"Could not find '([^']+)'(?: Available options in '[^']+': (.*))?", message):
        return _unknown_option(match[1], (match[2] or "").split(), command)
    if "Config group override must be a string" in message:
        found = next((arg for arg in sys.argv[1:] if re.fullmatch(r"[\w/]+=(null)?", arg)), "GROUP=null")
        return f"{found}: expected the name of an option, found null; leave the argument out"
    match = re.search(r"full_key: (\w+)\.", message)
    if match and _is_foreign_folder(match[1], command):
        return f"{match[1]}: the files of conf/{match[1]} are not options of this command; see --help"
    return f"{message}; see --help"


def _unknown_key(key: str, command: str) -> str:
    known = [*_settings(command), *_groups(command)]
    if _is_foreign_folder(key, command):
        return f"{key}: the files of conf/{key} are not options of this command; see --help"
    parent, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    namesakes = [other for other in known if other.endswith(f".{name}")]
    near = [siblings[one] for one in difflib.get_close_matches(name, siblings, n=1)] or namesakes
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    if near:
        return f"{key}: no such setting; did you mean {near[0]}? See --help"
    if f"{parent}._target_" in known:
        return (
            f"{key}: no such setting; to pass it to {parent}'s class all the same, write +{key}=…; see --help"
        )
    return f"{key}: no such setting; see --help"


def _unknown_option(path: str, options: list[str], command: str) -> str:
    if path in _EXTRAS:
        return f"{path}: not installed; pip install 'yt8m[{_EXTRAS[path]}]'"
    group, _, name = path.rpartition("/")
    own = path.partition("/")[0]
    if own in _groups(command) and own != "hydra":
        group, name, options = own, path.partition("/")[2], _options(own)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not options:
        return f"{group}={name}: no such option; see --help"
    return f"{group}={name}: expected one of {', '.join(options)}{hint}"


def _settings(command: str) -> Iterator[str]:
    """Every key of a command's configuration with the options that this call chooses (`model=nn`), dotted."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    groups = _groups(command)
    chosen = [
        arg for arg in sys.argv[1:] if re.fullmatch(r"\w+=[\w/]+", arg) and arg.partition("=")[0] in groups
    ]
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        try:
            composed = compose(command, overrides=chosen)
        except Exception:  # a second mistake, which the next call reports
            composed = compose(command)
    config = OmegaConf.to_container(composed, resolve=False)
    yield from _dotted(config)


def _is_foreign_folder(name: str, command: str) -> bool:
    return Path(CONFIG_DIR, name).is_dir() and name not in _groups(command)


def _groups(command: str) -> list[str]:
    """The config groups in a command's defaults list."""
    primary = Path(CONFIG_DIR, f"{command}.yaml").read_text(encoding="utf-8")
    return re.findall(r"^  - (?:override )?(\w+): ", primary, re.MULTILINE)


def _dotted(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from _dotted(value, f"{prefix}{key}.")
