"""Writes the generated parts of README.md and docs/ from the classes of networks and metrics: `make docs`."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import yt8m.metrics
from yt8m.metric_table import METRICS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "models.md"]
SIZES = [  # heading, classes, width
    ("parameters, 3,846 classes", 3846, 1),
    ("3,862 classes", 3862, 1),
    ("`model.width=0.125`, 3,862 classes", 3862, 0.125),
    ("`model.width=0.125`, 40 classes", 40, 0.125),
]


def networks() -> dict[str, type[nn.Module]]:
    """The class of every `conf/model/NAME.yaml`, by name."""
    found = {}
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        target = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
        module, _, name = target.rpartition(".")
        found[path.stem] = getattr(importlib.import_module(module), name)
    return found


def parameters(network: type[nn.Module], num_classes: int, width: float) -> int:
    """How many parameters a network has; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in network(num_classes=num_classes, width=width).parameters())


def reads(network: Any) -> str:
    """Which of its two inputs a network reads."""
    inputs = {"video": network.needs_video, "frames": network.needs_frames}
    return " and ".join(name for name, needed in inputs.items() if needed)


def summary(described: Any) -> str:
    """The first paragraph of a docstring in one line."""
    return (inspect.getdoc(described) or "").partition("\n\n")[0].replace("\n", " ")


def short_overview() -> Iterator[str]:
    """A table with a row per network, for the README."""
    yield "| `model=` | reads | what it is | parameters |"
    yield "|---|---|---|---:|"
    for name, network in networks().items():
        size = f"{parameters(network, 3862, 1) / 1e6:.0f} M"
        yield f"| [`{name}`](docs/models.md#{name}) | {reads(network)} | {summary(network)} | {size} |"


def metrics() -> Iterator[str]:
    """A table with a row per metric of `yt8m.metric_table`."""
    yield "| in `metrics.json` | name | best | what it is |"
    yield "|---|---|---|---|"
    for key, row in METRICS.items():
        described = getattr(yt8m.metrics, row.class_name) if row.class_name else None
        what = (
            summary(described).replace(f"{row.title}: ", "", 1)
            if described
            else "The loss that `loss=NAME` chooses."
        )
        best = "highest" if row.mode == "max" else "lowest"
        yield f"| `val/{key}` | {row.title} | {best} | {what[0].upper()}{what[1:]} |"


def overview() -> Iterator[str]:
    """A table with a row per network: what it reads, what it is, its size."""
    yield f"| `model=` | reads | what it is | {' | '.join(heading for heading, *_ in SIZES)} |"
    yield "|---|---|---|" + "---:|" * len(SIZES)
    for name, network in networks().items():
        counts = [f"{parameters(network, *size):,}" for _, *size in SIZES]
        yield f"| [`{name}`](#{name}) | {reads(network)} | {summary(network)} | {' | '.join(counts)} |"


def details() -> Iterator[str]:
    """A section per network: its layers, and its arguments with their defaults."""
    for name, network in networks().items():
        text, _, arguments = inspect.getdoc(network).partition("Args:\n")
        described = {
            argument: " ".join(meaning.split())
            for argument, meaning in re.findall(r"^    (\w+): (.+(?:\n {6,}.+)*)", arguments, re.M)
        }
        yield from (f"### {name}", "", text.partition("\n\n")[2].strip(), "")
        yield from ("| argument | default | |", "|---|---|---|")
        for argument, parameter in inspect.signature(network).parameters.items():
            if argument not in ("feature_sizes", "num_classes"):
                meaning = re.sub(r" \(see `[\w.]+`\)", "", described[argument])
                yield f"| `{argument}` | {shown(parameter.default)} | {meaning} |"
        yield ""


def shown(default: Any) -> str:
    """A default as the command line takes it."""
    if isinstance(default, Mapping):
        return ", ".join(f"{key} {shown(value)}" for key, value in default.items())
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(default)


GENERATED = {"networks": short_overview, "metrics": metrics, "overview": overview, "details": details}


def filled(page: str) -> str:
    """The page with its generated parts replaced: each is between `<!-- NAME (make docs) -->` and its end."""
    for name, lines in GENERATED.items():
        begin, end = f"<!-- {name} (make docs) -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            _, _, after = rest.partition(end)
            page = before + begin + "\n" + "\n".join(lines()).strip() + "\n\n" + end + after
    return page


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{page.relative_to(ROOT)} is up to date\n")
