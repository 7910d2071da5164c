"""Read run folders: configuration, results, and learning curves.

Folders may come from anywhere: nothing in them is executed, and an unreadable file is reported, not raised.
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from yt8m.errors import ConfigError

FINISHED, FAILED, UNFINISHED, UNREADABLE = "finished", "failed", "unfinished", "unreadable"

_LOG_RECORD = re.compile(r"^\[[^]]*\]\[[^]]*\]\[(\w+)\] ", re.MULTILINE)
_LOG_TAIL = 1 << 16  # bytes at the end of a log in which to look for its last record
_LARGEST_FILE = 1 << 20  # bytes of a configuration or a metrics.json; a real one is far smaller
_LARGEST_CONFIG = 10_000  # values; YAML aliases can expand to billions in a few lines
_LARGEST_NUMBER = 1e100  # so that no square or sum of numbers overflows


@dataclass(frozen=True)
class Point:
    """One logged value, with the optimizer step and the seconds of training so far (None: not logged)."""

    step: int
    seconds: float | None
    value: float


@dataclass(eq=False)
class Run:
    """One training run, or an ensemble of several.

    Attributes:
        folder: its output folder.
        name: the folder, relative to the one that holds all runs of the report.
        label: short name that no other run of the report has, see `yt8m.report.run_labels`.
        status: `finished`, `failed`, `unfinished` (stopped or still running), or `unreadable` if a file of the folder
            cannot be read; whatever can be read is there all the same.
        reason: one line about a status that is not `finished`.
        config: configuration, flat: `{"optimizer.lr": 0.001}`.
        overrides: its command line, `{"optimizer.lr": "0.001", "model": "nn"}`.
        metrics: content of metrics.json.
        curves: points by name (`val/gap`, `train/loss_step`), in order of steps.
    """

    folder: Path
    name: str = ""
    label: str = ""
    status: str = FINISHED
    reason: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[Point]] = field(default_factory=dict)

    def number(self, key: str) -> float | None:
        """A value of metrics.json; None if it is absent or not a finite number."""
        value = self.metrics.get(key)
        return value if _is_number(value) and abs(value) < _LARGEST_NUMBER else None

    @property
    def model(self) -> str:
        """Name of the network, as in `model=NAME`."""
        named = self.metrics.get("model") or self.config.get("model._target_") or "?"
        parts = str(named).split(".")
        return clean(parts[-2] if len(parts) > 1 else parts[0])

    @property
    def dataset(self) -> str:
        """Name of the dataset, as in `dataset=NAME`, or its root if no name was recorded."""
        return clean(self.metrics.get("dataset") or self.config.get("dataset.root") or "?")

    @property
    def is_ensemble(self) -> bool:
        """Whether it is of several runs, so that it has no epochs, no curves, and no checkpoint."""
        return "members" in self.metrics

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"


def clean(text: Any, limit: int = 300) -> str:
    """`text` on one line of at most `limit` characters, without control characters, which could steer a terminal."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def find_runs(folders: list[Path]) -> list[Run]:
    """Read every training run in or below the folders, each once, ordered by path.

    Raises:
        ConfigError: a folder does not exist or holds no run.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"runs: expected a folder of runs, found none at {folder}")
        here = {Path(parent).resolve() for parent, below, _ in os.walk(folder) if ".hydra" in below}
        found |= here
        if not here:
            raise ConfigError(
                f"runs: expected runs of yt8m.train in or below {folder}, found no .hydra/config.yaml there"
            )
    runs = [run for run in map(read_run, sorted(found)) if run is not None]
    if not runs:
        raise ConfigError(f"runs: expected runs of yt8m.train, found {len(found)} folders of other commands")
    top = Path(os.path.commonpath([run.folder.parent for run in runs]))
    for run in runs:
        run.name = clean(run.folder.relative_to(top))
    return runs


def read_run(folder: Path, ensembles: bool = True) -> Run | None:
    """The run in `folder`, or, with `ensembles`, the ensemble that `yt8m.eval` scored there; None if it has neither."""
    run = Run(folder)
    errors = []
    try:
        run.config = dict(_flat(yaml.safe_load(_text(folder / ".hydra" / "config.yaml"))))
        if not {"model._target_", "optimizer._target_"} & run.config.keys():
            return _read_ensemble(folder) if ensembles else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        errors.append(f"config.yaml: {error}")
    try:
        run.overrides = _read_overrides(folder / ".hydra" / "overrides.yaml")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        errors.append(f"overrides.yaml: {error}")
    try:
        run.metrics = _read_metrics(folder / "metrics.json")
    except FileNotFoundError:
        run.status, run.reason = _read_log(folder / "train.log")
    except (OSError, ValueError, RecursionError) as error:
        errors.append(f"metrics.json: {error}")
    try:
        run.curves = _read_curves(folder)
    except (OSError, ValueError, csv.Error) as error:
        errors.append(str(error))
    if errors:
        run.status, run.reason = UNREADABLE, clean("; ".join(errors))
    return run


def _read_ensemble(folder: Path) -> Run | None:
    """The evaluation of several runs' checkpoints as one run, with its members' data, sizes, and training time."""
    try:
        metrics = _read_metrics(folder / "metrics.json")
        members = [Path(member["ckpt_path"]).parents[1] for member in metrics["members"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    runs = [run for run in (read_run(member, ensembles=False) for member in members) if run and run.metrics]
    if not runs or len(runs) < len(members):
        return Run(folder, status=UNREADABLE, reason="a run that metrics.json names in members is not there")
    metrics |= {"model": f"ensemble of {len(runs)}", "dataset": runs[0].dataset}
    for key in ("params", "seconds"):
        values = [value for run in runs if (value := run.number(key)) is not None]
        metrics[key] = sum(values) if len(values) == len(runs) else None
    data = {key: value for key, value in runs[0].config.items() if key.startswith("dataset.")}
    return Run(folder, config=data, metrics=metrics)


def _read_overrides(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = yaml.safe_load(_text(path))
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("expected a list of overrides")
    pairs = (line.lstrip("+~").partition("=") for line in lines[:_LARGEST_CONFIG])
    return {clean(key): clean(value) for key, equals, value in pairs if equals}


def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = json.loads(_text(path))
    if not isinstance(metrics, dict):
        raise ValueError(f"expected an object of names and values, found {clean(json.dumps(metrics), 40)}")
    for key, value in metrics.items():
        if _is_number(value) and _LARGEST_NUMBER <= abs(value) < math.inf:
            raise ValueError(
                f"{clean(key, 40)}: expected a number below {_LARGEST_NUMBER:g}, found a larger one"
            )
    return metrics


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > _LARGEST_FILE:
        raise ValueError(f"expected at most {_LARGEST_FILE:,} bytes, found {size:,}")
    return path.read_text(encoding="utf-8")


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every leaf; a list becomes text."""
    if not isinstance(tree, dict):
        raise ValueError("expected keys and values")
    count = 0
    for key, value in tree.items():
        leaves: Iterable[tuple[str, Any]]
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
    if value is None or isinstance(value, bool):
        return value
    if _is_number(value) and not _LARGEST_NUMBER <= abs(value) < math.inf:
        return value
    if isinstance(value, list):
        # Aliases can share one list a billion times: nested lists are not spelled out.
        return clean(f"[{', '.join('…' if isinstance(v, list | dict) else str(v) for v in value)}]")
    return clean(value)


def _read_log(path: Path) -> tuple[str, str]:
    """Status and reason of a run without metrics.json: it failed if its log ends with an error."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return UNFINISHED, "no metrics.json and no train.log"
    records = list(_LOG_RECORD.finditer(text))
    if records and records[-1][1] in ("ERROR", "CRITICAL"):
        lines = text[records[-1].end() :].strip().splitlines()
        return FAILED, clean(lines[-1] if lines else "")  # the last line of a traceback is the exception
    return UNFINISHED, "no metrics.json and no error in train.log: stopped, or still running"


def _read_curves(folder: Path) -> dict[str, list[Point]]:
    """All values in a run's CSV logs. A resumed run starts a new log, which replaces the steps that it repeats."""
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
    """Step, seconds, and the other values of each row. A truncated last row is ignored: it is still being written."""
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
                    f"{path.name} @ line {line}: expected {len(names)} values, found fewer or more"
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
            values = {name: value for name, value in values.items() if abs(value) < _LARGEST_NUMBER}
            yield step, seconds if seconds is not None and math.isfinite(seconds) else None, values
