"""From a configuration to the object it names, without letting it name anything else.

A checkpoint carries its configuration and may come from a stranger. So `_target_` is never resolved freely
(as `hydra.utils.instantiate` would): a caller says from which module or package the class must come.
"""

import importlib
import inspect
import re
from typing import Any

from yt8m.errors import ConfigError


def build(config: dict[str, Any], key: str, within: str, **given: Any) -> Any:
    """Call the class or function that `config["_target_"]` names with the rest of `config` and `given`.

    Args:
        config: `{"_target_": "yt8m.models.nn.NN", **keyword arguments}`.
        key: the configuration's key, for messages.
        within: the module that must define the target, or the package of the module that must.
        given: keyword arguments that the program adds.

    Raises:
        ConfigError: the target is none of `within`, or does not take the arguments.
    """
    arguments = {k: v for k, v in config.items() if k != "_target_"}
    target = locate(str(config.get("_target_")), key, within)
    try:
        inspect.signature(target).bind(**given, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"{key}: {config['_target_']} takes {', '.join(inspect.signature(target).parameters)}; {error}"
        ) from None
    try:
        return target(**given, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {config['_target_']} refuses {arguments}: {error}") from error


def locate(path: str, key: str, within: str) -> Any:
    """The class or function at `path`, which must be defined in `within` or in a module right below it."""
    if re.fullmatch(rf"{re.escape(within)}(\.\w+)?\.\w+", path):
        module_name, _, name = path.rpartition(".")
        try:
            target = getattr(importlib.import_module(module_name), name, None)
        except ModuleNotFoundError:
            target = None
        # What the module has merely imported is not its own, and no target.
        if callable(target) and getattr(target, "__module__", "").startswith(within):
            return target
    raise ConfigError(f"{key}._target_: expected a class or function of {within}, found {path}")
