"""From a configuration to the object it names, and to nothing else.

A checkpoint carries its configuration and may come from a stranger, so `_target_` is never resolved freely (as
`hydra.utils.instantiate` would). Each key accepts classes of one kind, from this project's own modules and from
packages that this run's user trusts (`trusted_packages`). What a checkpoint says about trust does not count.
"""

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yt8m.errors import ConfigError

INSTANCE = "_instance_"  # in place of `_target_`: the object was passed in Python, this is its class's name


@dataclass(frozen=True)
class Kind:
    """What a key of the configuration may name.

    Attributes:
        home: the package or module whose own classes are accepted.
        base: dotted path of the class that they must derive from; None accepts functions.
    """

    home: str
    base: str | None


KINDS = {
    "model": Kind("yt8m.models", "torch.nn.Module"),
    "loss": Kind("yt8m.losses", "torch.nn.Module"),
    "optimizer": Kind("torch.optim", "torch.optim.Optimizer"),
    "scheduler": Kind("yt8m.schedulers", None),
    "transform": Kind("yt8m.transforms", "yt8m.transforms.Transform"),
    "dataset": Kind("yt8m.datamodules", "pytorch_lightning.LightningDataModule"),
}


def build(config: Any, key: str, *, trusted: Sequence[str] = (), **given: Any) -> Any:
    """Call the class or function that `config["_target_"]` names with the rest of `config` and `given`.

    Args:
        config: `{"_target_": "yt8m.models.nn.NN", **keyword arguments}`.
        key: the configuration's key, one of `KINDS`.
        trusted: packages outside of this project that may define the target.
        given: keyword arguments that the program adds.

    Raises:
        ConfigError: the target is not of the key's kind, does not take the arguments, or refuses their values.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{key}: expected a section with _target_ and arguments, found {config!r}")
    if INSTANCE in config:
        raise ConfigError(
            f"{key}: the checkpoint was saved with an object of {config[INSTANCE]}, which it does not contain; pass it "
            f"in Python: VideoClassifier.load_from_checkpoint(path, {key}=…)"
        )
    arguments = {k: v for k, v in config.items() if k != "_target_"}
    path = config.get("_target_")
    target = locate(path, key, trusted)
    try:
        inspect.signature(target).bind(**given, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"{key}: {path} takes {', '.join(inspect.signature(target).parameters)}; {error}"
        ) from None
    try:
        return target(**given, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        if not _is_below(str(path), KINDS[key].home):
            raise  # the user's own code, whose traceback the user needs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{key}: {path} refuses its arguments: {reason}") from error


def locate(path: Any, key: str, trusted: Sequence[str] = ()) -> Any:
    """The class or function at `path`, of the kind that `key` expects.

    Raises:
        ConfigError: it is not of that kind, there is none, or its package is neither this project's nor trusted.
    """
    kind = KINDS[key]
    path = path if isinstance(path, str) else ""
    what = f"a class derived from {kind.base}" if kind.base else "a function"
    is_own = re.fullmatch(rf"{re.escape(kind.home)}(\.\w+)?\.\w+", path)
    if not is_own and not any(_is_below(path, package) for package in trusted):
        package = path.partition(".")[0]
        hint = f"; if you trust {package}, set trusted_packages=[{package}]" if "." in path else ""
        raise ConfigError(f"{key}._target_: expected {what} in {kind.home}, found {path or 'nothing'}{hint}")
    module_name, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        if not _is_below(module_name, error.name or ""):
            raise  # the module is there, and misses a package
        target = None
    if target is None:
        raise ConfigError(
            f"{key}._target_: expected {what}, found nothing at {path}; is its package installed?"
        )
    # What a module of ours has merely imported is not its own, and no target.
    if (is_own and not _is_below(getattr(target, "__module__", ""), kind.home)) or not _is_kind(target, kind):
        raise ConfigError(f"{key}._target_: expected {what} in {kind.home}, found {path}")
    return target


def class_name(part: Any) -> str:
    """The dotted name of an object's class, or of a function itself."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


def _is_kind(target: Any, kind: Kind) -> bool:
    if kind.base is None:
        return callable(target)
    module_name, _, name = kind.base.rpartition(".")
    base = getattr(importlib.import_module(module_name), name)
    return isinstance(target, type) and issubclass(target, base)


def _is_below(path: str, package: str) -> bool:
    """Whether a dotted path is `package` or something in it."""
    return bool(package) and f"{path}.".startswith(f"{package}.")
