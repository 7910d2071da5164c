"""Run folders as values: what a run was asked to do, what it reached, and how it got there.

The folders may come from anywhere: nothing in them is executed, and a damaged file is told of, not raised.
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from yt8m.errors import ConfigError

FINISHED, FAILED, UNFINISHED, DAMAGED = "finished", "failed", "unfinished", "damaged"

_LOG_RECORD = re.compile(r"^\[[^]]*\]\[[^]]*\]\[(\w+)\] ", re.MULTILINE)
_LOG_TAIL = 1 << 16  # bytes of a log that hold its last record
_LARGEST_FILE = 1 << 20  # bytes of a configuration or a metrics.json; no run writes as much
_LARGEST_CONFIG = 10_000  # values; YAML's aliases can say billions in a few lines


@dataclass(frozen=True)
class Point:
    """One logged value: the optimizer's step, the seconds of training until then (None: not logged)."""

    step: int
    seconds: float | None
    value: float


@dataclass(eq=False)
class Run:
    """One training run.

    Attributes:
        folder: where it lies.
        name: its folder, from the folder that holds all runs of the report.
        status: `finished`, `failed`, `unfinished` (stopped or still at work), or `damaged` where a file of
            the folder could not be read; whatever could be read is there all the same.
        reason: one line on a status that is not `finished`.
        config: its configuration, flat: `{"optimizer.lr": 0.001}`.
        metrics: the content of its metrics.json.
        curves: points by name (`val/gap`, `train/loss_step`), in the order of steps.
    """

    folder: Path
    name: str = ""
    status: str = FINISHED
    reason: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[Point]] = field(default_factory=dict)

    def number(self, key: str) -> float | None:
        """A figure of metrics.json; None where it is absent or no finite number."""
        value = self.metrics.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if is_number and math.isfinite(value) else None

    @property
    def model(self) -> str:
        """The name of its network's file, which is that of its configuration."""
        named = self.metrics.get("model") or self.config.get("model._target_") or "?"
        parts = str(named).split(".")
        return clean(parts[-2] if len(parts) > 1 else parts[0])

    @property
    def dataset(self) -> str:
        """The name of its dataset's configuration, or its root where no name was recorded."""
        return clean(self.metrics.get("dataset") or self.config.get("dataset.root") or "?")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"


def clean(text: Any, limit: int = 300) -> str:
    """`text` on one line, without control characters (which could steer a terminal), and not too long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def find_runs(folders: list[Path]) -> list[Run]:
    """Read every training run at or below the folders, each once, ordered by path.

    Raises:
        ConfigError: a folder is absent, or holds no run.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"runs: expected a folder of runs, found none at {folder}")
        here = {Path(parent).resolve() for parent, below, _ in os.walk(folder) if ".hydra" in below}
        found |= here
        if not here:
            raise ConfigError(
                f"runs: expected runs of yt8m.train at or below {folder}, found no .hydra/config.yaml there"
            )
    runs = [run for run in map(read_run, sorted(found)) if run is not None]
    if not runs:
        raise ConfigError(
            f"runs: expected runs of yt8m.train, found only other commands' in {len(found)} folders"
        )
    top = Path(os.path.commonpath([run.folder.parent for run in runs]))
    for run in runs:
        run.name = clean(run.folder.relative_to(top))
    return runs


def read_run(folder: Path) -> Run | None:
    """The run in `folder`; None where another command than training left it."""
    run = Run(folder)
    faults = []
    try:
        run.config = dict(_flat(yaml.safe_load(_text(folder / ".hydra" / "config.yaml"))))
        if not {"model._target_", "optimizer._target_"} & run.config.keys():
            return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        faults.append(f"config.yaml: {error}")
    try:
        run.metrics = json.loads(_text(folder / "metrics.json"))
        if not isinstance(run.metrics, dict):
            run.metrics = {}
            raise ValueError("expected figures by name")
    except FileNotFoundError:
        run.status, run.reason = _read_log(folder / "train.log")
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"metrics.json: {error}")
    try:
        run.curves = _read_curves(folder)
    except (OSError, ValueError, csv.Error) as error:
        faults.append(str(error))
    if faults:
        run.status, run.reason = DAMAGED, clean("; ".join(faults))
    return run


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > _LARGEST_FILE:
        raise ValueError(f"expected at most {_LARGEST_FILE:,} bytes, found {size:,}")
    return path.read_text(encoding="utf-8")


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every leaf; a list is a leaf, as text."""
    if not isinstance(tree, dict):
        raise ValueError("expected keys and values")
    count = 0
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves = _flat(value, f"{prefix}{key}.")
        else:
            leaves = [(f"{prefix}{key}", _leaf(value))]
        for leaf in leaves:
            count += 1
            if count > _LARGEST_CONFIG:
                raise ValueError(f"expected at most {_LARGEST_CONFIG:,} values")
            yield leaf


def _leaf(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, list):
        # What a list holds may be shared a billion times by aliases: nested ones are not spelt out.
        return clean(f"[{', '.join('…' if isinstance(v, (list, dict)) else str(v) for v in value)}]")
    return clean(value)


def _read_log(path: Path) -> tuple[str, str]:
    """Status and reason of a run without metrics.json: failed where its log ends with an error."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return UNFINISHED, "no metrics.json and no train.log"
    records = list(_LOG_RECORD.finditer(text))
    if records and records[-1][1] in ("ERROR", "CRITICAL"):
        lines = text[records[-1].end() :].strip().splitlines()
        return FAILED, clean(lines[-1] if lines else "")  # of a traceback, the exception
    return UNFINISHED, "no metrics.json and no error in train.log: stopped, or still at work"


def _read_curves(folder: Path) -> dict[str, list[Point]]:
    """All logged values of a run's CSV logs; a resumed run has one more log, which replaces what it repeats."""
    curves: dict[str, list[Point]] = {}
    logs = folder.glob("csv/version_*/metrics.csv")
    for path in sorted(logs, key=lambda path: (len(path.parent.name), path.parent.name)):
        rows = list(_read_rows(path))
        first_step = min((step for step, _, _ in rows), default=0)
        for name, points in curves.items():
            curves[name] = [point for point in points if point.step < first_step]
        for step, seconds, values in rows:
            for name, value in values.items():
                curves.setdefault(name, []).append(Point(step, seconds, value))
    return curves


def _read_rows(path: Path) -> Iterator[tuple[int, float | None, dict[str, float]]]:
    """Step, seconds and the other values of each row. A last row that is cut short is being written."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        if names and "step" not in names:
            raise ValueError(
                f"{path.name} @ line 1: expected a column step, found {clean(','.join(names), 80)}"
            )
        short = 0
        for row in reader:
            if short or len(row) > len(names):
                line = short or reader.line_num
                raise ValueError(
                    f"{path.name} @ line {line}: expected {len(names)} values, found another number"
                )
            if len(row) < len(names):
                short = reader.line_num
                continue
            try:
                values = {name: float(text) for name, text in zip(names, row, strict=True) if text}
                step = int(values.pop("step"))
            except (ValueError, KeyError, OverflowError):
                raise ValueError(
                    f"{path.name} @ line {reader.line_num}: expected numbers, found {clean(','.join(row), 80)}"
                ) from None
            seconds = values.pop("seconds", None)
            values.pop("epoch", None)
            yield step, seconds, {name: value for name, value in values.items() if math.isfinite(value)}
