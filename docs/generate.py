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
    ("parameters, 3,862 classes", 3862, 1),
    ("`model.width=0.125`", 3862, 0.125),
    ("and 40 classes", 40, 0.125),
]
STUDY = "The study's"
STUDY_SIZES = [("parameters, 3,846 classes", 3846, 1), ("3,862 classes", 3862, 1), *SIZES[1:]]
FAMILIES = {  # a network that is not here comes under OTHERS
    "Video level": ["logistic", "moe", "resmlp", "fourier_net"],
    "Frames in bags and clusters": [
        "frame_logistic",
        "fourier_attention",
        "dbof",
        "soft_dbow",
        "gated_dbof",
        "netvlad",
        "netrvlad",
        "netfv",
        "nextvlad",
        "mix_nextvlad",
    ],
    "Frames in sequence": ["lstm", "gru", "attention", "transformer"],
    STUDY: [
        "nn",
        "bi_lstm",
        "stream_lstm",
        "nn_stream_lstm",
        "keras_nn",
        "keras_bi_lstm",
        "keras_stream_lstm",
        "keras_nn_stream_lstm",
    ],
}
OTHERS = "More networks"


def networks() -> dict[str, type[nn.Module]]:
    """The class of every `conf/model/NAME.yaml`, by name."""
    found = {}
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        target = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
        module, _, name = target.rpartition(".")
        found[path.stem] = getattr(importlib.import_module(module), name)
    return found


def families() -> dict[str, dict[str, type[nn.Module]]]:
    """The networks by name, under the heading of each family that has any."""
    left = networks()
    grouped = {
        family: {name: left.pop(name) for name in names if name in left} for family, names in FAMILIES.items()
    }
    grouped[OTHERS] = left
    return {family: members for family, members in grouped.items() if members}


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
    """A table with a row per network, family by family, for the README."""
    yield "| `model=` | reads | what it is | parameters |"
    yield "|---|---|---|---:|"
    for family, members in families().items():
        yield f"| **{family}** | | | |"
        for name, network in members.items():
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
    """A table per family with a row per network: what it reads, what it is, its size."""
    for family, members in families().items():
        sizes = STUDY_SIZES if family == STUDY else SIZES
        yield from (f"**{family}**", "")
        yield f"| `model=` | reads | what it is | {' | '.join(heading for heading, *_ in sizes)} |"
        yield "|---|---|---|" + "---:|" * len(sizes)
        for name, network in members.items():
            counts = [f"{parameters(network, *size):,}" for _, *size in sizes]
            yield f"| [`{name}`](#{name}) | {reads(network)} | {summary(network)} | {' | '.join(counts)} |"
        yield ""


def details() -> Iterator[str]:
    """A heading per family, and a section per network: its layers, and its arguments with their defaults."""
    for family, members in families().items():
        yield from (f"## {family}", "")
        for name, network in members.items():
            yield from detail(name, network)


def detail(name: str, network: type[nn.Module]) -> Iterator[str]:
    """A network's layers, and its arguments with their defaults."""
    text, _, arguments = (inspect.getdoc(network) or "").partition("Args:\n")
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
