"""The report's charts, drawn in the browser by Bokeh: hover names the run, box and wheel zoom.

A chart is Bokeh's JSON: data, never code. `page.js` colors it from the style sheet, so that charts follow the reader's
light or dark scheme. Text from run folders goes only into tooltips and text glyphs, which show it as it is; in titles,
axis labels, and tick labels Bokeh would look for TeX.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.embed import json_item
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    HoverTool,
    NumeralTickFormatter,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from yt8m.report.hyperparameters import Hyperparameter

HUES = 6  # colors that everyone can tell apart; ranks 7 to 12 repeat them dashed, later ranks are grey
MOST_LINES = 100  # runs drawn in a chart of curves, which keeps the page small
_MOST_POINTS = 150  # per line
_MARKED = 40  # a line of at most so many points shows them

Chart = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One run's line: its rank (1 is the best), its label, what is drawn, and (x, y) points."""

    rank: int
    label: str
    series: str
    points: list[tuple[float, float]]
    faint: bool = False


def bokeh_script() -> str:
    """Bokeh's JavaScript, without its optional parts (widgets, tables, WebGL, MathJax)."""
    return Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0]


def hue(rank: int) -> int:
    """Number of the run's color in the style sheet; -1 is grey."""
    return (rank - 1) % HUES if rank <= 2 * HUES else -1


def dash(rank: int) -> str:
    return "dashed" if HUES < rank <= 2 * HUES else "solid"


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, named: str = "run", *, lowest: float | None = None
) -> Chart:
    """Lines of the best runs, or of what else is `named`, on common axes; the best is on top.

    The y axis begins at `lowest`, or where the lines do.
    """
    drawn = [line for line in lines if line.points and line.rank <= MOST_LINES][::-1]
    thinned = [_thinned(line.points) for line in drawn]
    chart = _figure(x_label, y_label)
    if lowest is not None:
        chart.y_range.start = lowest
    columns = {
        "xs": [[x for x, _ in points] for points in thinned],
        "ys": [[y for _, y in points] for points in thinned],
        **_run_columns([line.rank for line in drawn], [line.label for line in drawn]),
        "series": [line.series for line in drawn],
        "width": [1.0 if line.faint else 2.0 for line in drawn],
        "strength": [0.5 if line.faint else 1.0 for line in drawn],
    }
    renderer = _multi_line(chart, columns)
    marked = [
        (line, point)
        for line, points in zip(drawn, thinned, strict=True)
        for point in points
        if len(points) <= _MARKED and not line.faint
    ]
    dots = {
        "x": [x for _, (x, _) in marked],
        "y": [y for _, (_, y) in marked],
        **_run_columns([line.rank for line, _ in marked], [line.label for line, _ in marked]),
        "strength": [1.0] * len(marked),
    }
    _scatter(chart, dots)
    chart.add_tools(
        HoverTool(
            renderers=[renderer],
            tooltips=[
                (named, "#@rank @label"),
                ("curve", "@series"),
                (y_label, "$snap_y{0.0000}"),
                (x_label, "$snap_x{0.[0]a}"),
            ],
            line_policy="nearest",
            point_policy="snap_to_data",
            limit=1,
        )
    )
    return _json(chart)


def parallel_coordinates(
    hyperparameters: Sequence[Hyperparameter], scores: Sequence[float], labels: Sequence[str], metric: str
) -> Chart:
    """One line per run through an axis per hyperparameter, to the metric on the right; the best is bold.

    Args:
        hyperparameters: the axes from left to right, with a value for every run.
        scores: of the runs, best first.
        labels: of the runs.
        metric: title of the scores.
    """
    axes = [(one.key, *_scale(one)) for one in hyperparameters]
    axes.append((metric, *_number_scale(scores, log=False)))
    values: list[Sequence[float | str]] = [*(one.values for one in hyperparameters), list(scores)]
    places = [
        [position(value) for value in column] for column, (_, position, _) in zip(values, axes, strict=True)
    ]
    order = range(len(scores) - 1, -1, -1)  # the best on top
    chart = _figure("", "", x_range=(-0.4, len(axes) - 0.45), y_range=(-0.06, 1.2))
    chart.xaxis.visible = chart.yaxis.visible = chart.grid.visible = False
    columns: dict[str, list[Any]] = {
        "xs": [list(range(len(axes))) for _ in order],
        "ys": [[column[run] for column in places] for run in order],
        **_run_columns([run + 1 for run in order], [labels[run] for run in order]),
        "score": [scores[run] for run in order],
        "width": [4.0 if run == 0 else 1.8 for run in order],
        "strength": [1.0] * len(scores),
    }
    renderer = _multi_line(chart, columns)
    at = list(range(len(axes)))
    chart.segment(x0=at, x1=at, y0=[0] * len(at), y1=[1] * len(at), name="axis")
    names = [_shortened(key.rpartition(".")[2] or key, 18) for key, _, _ in axes]
    headings = {"x": at, "y": [1.06] * len(at), "text": names, "key": [key for key, _, _ in axes]}
    chart.text("x", "y", "text", source=ColumnDataSource(headings), text_align="center", name="heading")
    ticks = [(x, y, _shortened(text, 16)) for x, (_, _, marks) in enumerate(axes) for y, text in marks]
    chart.text(
        *([tick[part] for tick in ticks] for part in (0, 1, 2)),
        x_offset=6,
        text_baseline="middle",
        name="tick",
    )
    chart.add_tools(
        HoverTool(
            renderers=[renderer],
            tooltips=[("run", "#@rank @label"), (metric, "@score{0.0000}")],
            line_policy="interp",
            limit=1,
        )
    )
    return _json(chart)


def calibration_chart(points: Sequence[tuple[float, float, int]]) -> Chart:
    """Share of true labels against the mean score; each point has the number of scores it stands for."""
    chart = _figure("score", "share of true labels", x_range=(0, 1), y_range=(0, 1.02))
    chart.segment(x0=[0], y0=[0], x1=[1], y1=[1], line_dash="dotted", name="axis")
    columns: dict[str, list[Any]] = {
        "x": [score for score, _, _ in points],
        "y": [rate for _, rate, _ in points],
        "count": [count for _, _, count in points],
        "hue": [0] * len(points),
        "strength": [1.0] * len(points),
    }
    source = ColumnDataSource(columns)
    line: dict[str, list[Any]] = {
        "xs": [columns["x"]],
        "ys": [columns["y"]],
        "hue": [0],
        "dash": ["solid"],
        "width": [2.0],
        "strength": [1.0],
    }
    _multi_line(chart, line)
    dots = _scatter(chart, source, size=9)
    chart.text([0.03], [0.93], ["scores too low"], name="note")
    chart.text([0.97], [0.04], ["scores too high"], text_align="right", name="note")
    tooltips = [("mean score", "@x{0.000}"), ("true labels", "@y{0.0%}"), ("scores", "@count{0,0}")]
    chart.add_tools(HoverTool(renderers=[dots], tooltips=tooltips, limit=1))
    return _json(chart)


def _figure(x_label: str, y_label: str, **ranges: Any) -> Any:
    chart = figure(
        height=300,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset",
        active_drag="box_zoom",
        active_scroll=None,  # the page scrolls until the reader picks wheel zoom
        toolbar_location="above",
        x_axis_label=x_label,
        y_axis_label=y_label,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **ranges,
    )
    chart.toolbar.logo = None
    chart.toolbar.group = False
    chart.xaxis.ticker = BasicTicker(desired_num_ticks=5)
    chart.xaxis.formatter = NumeralTickFormatter(format="0.[00]a")
    return chart


def _multi_line(chart: Any, columns: dict[str, list[Any]]) -> Any:
    source = ColumnDataSource(columns)
    return chart.multi_line(
        "xs", "ys", source=source, line_width="width", line_dash="dash", line_alpha="strength", name="runs"
    )


def _scatter(chart: Any, columns: Any, size: int = 5) -> Any:
    source = columns if isinstance(columns, ColumnDataSource) else ColumnDataSource(columns)
    return chart.scatter(
        "x", "y", source=source, size=size, line_color=None, fill_alpha="strength", name="runs"
    )


def _run_columns(ranks: list[int], labels: list[str]) -> dict[str, list[Any]]:
    return {"rank": ranks, "label": labels, "hue": list(map(hue, ranks)), "dash": list(map(dash, ranks))}


# Where a value is on an axis, from 0 to 1, and the axis's (position, text) ticks.
_Axis = tuple[Callable[[Any], float], list[tuple[float, str]]]


def _scale(one: Hyperparameter) -> _Axis:
    """Numbers to scale (logarithmic from one decade up); a few distinct values at equal distances."""
    distinct = set(one.values)
    if one.is_numeric and len(distinct) > 4:
        return _number_scale([float(value) for value in one.values], log=True)
    ordered = sorted(distinct, key=lambda value: (isinstance(value, str), value))
    place = {value: n / (len(ordered) - 1) if len(ordered) > 1 else 0.5 for n, value in enumerate(ordered)}
    return place.__getitem__, [(place[value], _tick(value)) for value in ordered]


def _number_scale(values: Sequence[float], log: bool) -> _Axis:
    low, high = min(values), max(values)
    if low == high:
        return (lambda _: 0.5), [(0.5, _tick(low))]
    log = log and low > 0 and high >= 10 * low
    scale: Callable[[float], float] = math.log10 if log else float
    start, end = scale(low), scale(high)

    def position(value: float) -> float:
        return (scale(value) - start) / (end - start)

    marks = [start + (end - start) * n / 4 for n in range(5)]
    return position, [(n / 4, _tick(10**mark if log else mark)) for n, mark in enumerate(marks)]


def _tick(value: float | str) -> str:
    """A short text: 12k, 0.003, 1.5M, Adam."""
    if isinstance(value, str):
        return value
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and sign != "k"):
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points, means of neighbors, rounded to six digits to keep the page small."""
    size = max(1, math.ceil(len(points) / _MOST_POINTS))
    chunks = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [(_mean([x for x, _ in chunk]), _mean([y for _, y in chunk])) for chunk in chunks]


def _mean(values: list[float]) -> float:
    return float(f"{sum(value / len(values) for value in values):.6g}")


def _json(chart: Any) -> Chart:
    return dict(json_item(chart))
