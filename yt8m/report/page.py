"""A report as one HTML file that asks nothing of the outside."""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from yt8m.report import charts
from yt8m.report.hyperparameters import FEW_RUNS, varied
from yt8m.report.leaderboard import CAPTION, COLUMNS, Leaderboard
from yt8m.report.runs import Run, clean

if TYPE_CHECKING:  # it imports torch, which a report without figures of classes need not wait for
    from yt8m.report.per_class import ClassFigures

_FOLDER = Path(__file__).parent
_MOST_AXES = 8  # hyperparameters in the plot of parallel coordinates
_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


@dataclass(frozen=True)
class Panel:
    """A chart with its heading."""

    title: str
    chart: Markup


def render(board: Leaderboard, classes: "ClassFigures | str") -> str:
    """The page; `classes` is why there are no figures of classes, where there are none."""
    script, css = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    hyperparameters = varied(board.ranked, board.metric) if board.ranked else []
    names = [_legend(run, [one.key for one in hyperparameters[:4]]) for run in board.ranked]
    scores = [run.number(board.metric) for run in board.ranked]
    axes = hyperparameters[:_MOST_AXES]
    return environment.get_template("page.html").render(
        css=Markup(css),
        script=Markup(script),
        # The browser runs this script and no other: what a run's files hold cannot become one.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        board=board,
        columns=COLUMNS,
        caption=CAPTION,
        names=names,
        style=charts.style,
        curves=learning_curves(board, names),
        without_curves=sum(not run.curves for run in board.ranked),
        hyperparameters=hyperparameters,
        most_axes=_MOST_AXES,
        few_runs=FEW_RUNS,
        parallel=charts.parallel_coordinates(axes, scores, names, board.metric) if axes else None,
        classes=None if isinstance(classes, str) else classes,
        no_classes=classes if isinstance(classes, str) else "",
        calibration=None
        if isinstance(classes, str)
        else charts.calibration_chart([(b.score, b.hit_rate, b.count) for b in classes.calibration]),
    )


def learning_curves(board: Leaderboard, names: list[str]) -> list[Panel]:
    """The metric and the losses of all ranked runs, each over steps and over time."""
    panels = []
    kinds = {
        board.metric: _title(board.metric),
        "val/loss": "Validation loss",
        "train/loss_step": "Training loss",
    }
    for key, title in kinds.items():
        curves = [(rank, run.curves.get(key, [])) for rank, run in enumerate(board.ranked, start=1)]
        longest = max((p.seconds or 0.0 for _, points in curves for p in points), default=0.0)
        size, unit = next((one for one in _UNITS if longest >= 2 * one[0]), _UNITS[-1])
        over_steps, over_time = [], []
        for rank, points in curves:
            timed = [(p.seconds / size, p.value) for p in points if p.seconds is not None]
            over_steps.append(charts.Line(rank, names[rank - 1], [(p.step, p.value) for p in points]))
            over_time.append(charts.Line(rank, names[rank - 1], timed))
        for lines, label, what in (
            (over_steps, "optimizer step", "steps"),
            (over_time, f"time ({unit})", "time"),
        ):
            if any(line.points for line in lines):
                heading = f"{title} over {what}"
                panels.append(Panel(heading, charts.line_chart(lines, heading, label, _title(key))))
    return panels


def _legend(run: Run, keys: list[str]) -> str:
    """The network and the values by which it differs from others."""
    differing = (key for key in keys if key in run.config)
    return clean(
        ", ".join([run.model, *(f"{key.rpartition('.')[2]} {run.config[key]}" for key in differing)]), 60
    )


def _title(metric: str) -> str:
    titles = {
        "gap": "GAP",
        "map": "mAP",
        "perr": "PERR",
        "hit1": "Hit@1",
        "loss": "loss",
        "loss_step": "loss",
    }
    name = metric.rpartition("/")[2]
    return titles.get(name, clean(metric))
