"""What a command need not import: modules of which torchmetrics asks next to nothing when it is imported."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


@contextmanager
def _no_style(*_: Any) -> Iterator[None]:
    yield


#: Of each package, its modules, and what torchmetrics asks of each.
_NEEDED: dict[str, dict[str, dict[str, Any]]] = {
    "scipy": {"scipy.signal": {"hamming": None}},  # whether there is one
    "matplotlib": {  # for annotations, and for decorators of its plotting functions
        "matplotlib": {"colors": SimpleNamespace(Colormap=object)},
        "matplotlib.axes": {"Axes": object},
        "matplotlib.pyplot": {"Figure": object, "style": SimpleNamespace(context=_no_style)},
    },
}


@contextmanager
def without_plots_and_signals() -> Iterator[None]:
    """Import torchmetrics without matplotlib and `scipy.signal`, where they are installed: a quarter of the time.

    All other modules, and torchmetrics if it asks for anything else, get the real ones, meanwhile or later.
    """
    made = [stand_ins for package in _NEEDED if (stand_ins := _stand_ins(package))]
    for stand_ins in made:
        sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for stand_ins in made:
            _remove(stand_ins)


def _stand_ins(package: str) -> dict[str, ModuleType]:
    """Modules in place of a package's; none if it is not installed, or imported already."""
    names = [*_NEEDED[package]]
    if any(name in sys.modules for name in names) or importlib.util.find_spec(package) is None:
        return {}
    made = {name: ModuleType(name) for name in names}
    for name, module in made.items():
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__["__getattr__"] = _attributes(name, made)
        parent, _, child = name.rpartition(".")
        if parent in made:
            setattr(made[parent], child, module)
    return made


def _attributes(name: str, stand_ins: dict[str, ModuleType]) -> Callable[[str], Any]:
    """The attributes of a stand-in: what torchmetrics needs, for torchmetrics alone; else those of the real module."""
    needed = _NEEDED[name.partition(".")[0]][name]

    def attribute(wanted: str) -> Any:
        if wanted == "__file__":  # which `inspect` asks all modules for
            raise AttributeError(wanted)
        asking = str(sys._getframe(1).f_globals.get("__name__")).partition(".")[0]
        if wanted in needed and asking == "torchmetrics":
            return needed[wanted]
        _remove(stand_ins)
        return getattr(importlib.import_module(name), wanted)

    return attribute


def _remove(stand_ins: dict[str, ModuleType]) -> None:
    for name, module in stand_ins.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
