"""The report as a single HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from yt8m.html.render import render as render_page
from yt8m.report import charts
from yt8m.report.hyperparameters import FEW_RUNS, varied
from yt8m.report.leaderboard import CAPTION, Leaderboard
from yt8m.report.runs import Point
from yt8m.report.seeds import OverSeeds

if TYPE_CHECKING:  # it imports torch, which a report without class statistics does not need
    from yt8m.report.per_class import ClassStats

_FOLDER = Path(__file__).parent
_MOST_AXES = 8  # hyperparameters in the plot of parallel coordinates
_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_TILES = ("val/gap", "val/hit1", "val/map", "params")


@dataclass(frozen=True)
class Panel:
    """A chart with its heading."""

    title: str
    chart: charts.Chart


def render(board: Leaderboard, classes: "ClassStats | str") -> str:
    """The page; `classes` is the reason if there are no class statistics."""
    hyperparameters = varied(board.trained, board.metric) if board.trained else []
    scores = [score for run in board.trained if (score := run.number(board.metric)) is not None]
    axes = hyperparameters[:_MOST_AXES]
    labels = [run.label for run in board.trained]
    stats = None if isinstance(classes, str) else classes
    return render_page(
        _FOLDER / "page.html",
        scripts=(charts.bokeh_script(), (_FOLDER / "page.js").read_text(encoding="utf-8")),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        board=board,
        tiles=[column for column in board.columns if column.key in _TILES],
        caption=CAPTION,
        seeds=OverSeeds.of(board),
        hue=charts.hue,
        dash=charts.dash,
        colored=2 * charts.HUES,
        curves=learning_curves(board),
        most_lines=charts.MOST_LINES,
        without_curves=sum(not run.curves for run in board.trained),
        hyperparameters=hyperparameters,
        most_axes=_MOST_AXES,
        few_runs=FEW_RUNS,
        parallel=charts.parallel_coordinates(axes, scores, labels, board.title) if axes else None,
        classes=stats,
        no_classes=classes if isinstance(classes, str) else "",
        calibration=charts.calibration_chart([(b.score, b.hit_rate, b.count) for b in stats.calibration])
        if stats
        else None,
    )


def learning_curves(board: Leaderboard) -> list[Panel]:
    """The metric and both losses of the ranked runs, over steps and over time."""
    plots = [(board.title, {board.metric: board.title})] if not board.metric.endswith("loss") else []
    plots.append(("Loss", {"val/loss": "validation loss", "train/loss_step": "training loss"}))
    panels = []
    for title, series in plots:
        points = [points for run in board.ranked for key in series for points in run.curves.get(key, [])]
        size, unit = _time_unit(points)
        by_axis: tuple[list[charts.Line], list[charts.Line]] = ([], [])
        for rank, run in enumerate(board.ranked, start=1):
            for key, name in series.items():
                curve = run.curves.get(key, [])
                steps = [(float(p.step), p.value) for p in curve]
                times = [(p.seconds / size, p.value) for p in curve if p.seconds is not None]
                for lines, where in zip(by_axis, (steps, times), strict=True):
                    lines.append(charts.Line(rank, run.label, name, where, faint=key == "train/loss_step"))
        for lines, x_label, over in zip(
            by_axis, ("optimizer step", f"time ({unit})"), ("steps", "time"), strict=True
        ):
            if any(line.points for line in lines):
                panels.append(Panel(f"{title} over {over}", charts.line_chart(lines, x_label, title)))
    return panels


def _time_unit(points: Sequence[Point]) -> tuple[float, str]:
    """Seconds in the unit for the time axis, and its name."""
    longest = max((point.seconds or 0.0 for point in points), default=0.0)
    return next((unit for unit in _UNITS if longest >= 2 * unit[0]), _UNITS[-1])
