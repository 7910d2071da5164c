"""Charts as SVG text for a page.

They are drawn here, not by a plotting library, because the page's style gives them their colours: they follow
the reader's light or dark scheme, and their text stays legible at the width of a phone. Every string becomes
part of a chart through `Markup.format`, which escapes it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from yt8m.report.hyperparameters import Hyperparameter

WIDTH, HEIGHT = 420, 270  # a chart as wide as a phone, in units of about a pixel
LEFT, RIGHT, TOP, BOTTOM = 54, 24, 12, 44  # margins for ticks and labels
HUES = 6  # colours told apart by everybody; a second round of them is dashed, later runs are grey
MOST_POINTS = 150  # of a line

_TEXT = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')


@dataclass(frozen=True)
class Line:
    """A line of one run: its rank (the best run's is 1), the name that a pointer over it shows, and (x, y)."""

    rank: int
    name: str
    points: list[tuple[float, float]]


class Axis:
    """Maps values between `low` and `high` to positions between `start` and `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False):
        self.start, self.end, self.log = start, end, log
        low, high = min(values), max(values)
        if low == high:
            low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        scale = math.log10 if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to seven round numbers within the range."""
        if self.log:
            return [self.low, self.high]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def style(rank: int) -> str:
    """The classes that give the run of a rank its colour and dashes."""
    if rank > 2 * HUES:
        return f"run run-{rank} rest"
    return f"run run-{rank} hue-{(rank - 1) % HUES}{' dashed' if rank > HUES else ''}"


def number(value: float) -> str:
    """A short number: 12k, 0.003, 1.5M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):.3g}{sign}"
    return f"{value:.4g}"


def line_chart(lines: list[Line], title: str, x_label: str, y_label: str) -> Markup:
    """Lines over a common scale, each with its rank at its end."""
    lines = [Line(line.rank, line.name, _thinned(line.points)) for line in lines if line.points]
    x = Axis([0, *(px for line in lines for px, _ in line.points)], LEFT, WIDTH - RIGHT)
    y = Axis([py for line in lines for _, py in line.points], HEIGHT - BOTTOM - 8, TOP + 6)
    parts = [_grid(x, y, x_label, y_label)]
    for line in reversed(lines):  # the best on top
        where = [(x(px), y(py)) for px, py in line.points]
        parts.append(
            Markup('<g class="{}"><title>{}</title><path class="line" d="{}"/>{}</g>').format(
                style(line.rank),
                f"{line.rank}  {line.name}",
                "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in where),
                _dot(*where[-1]),
            )
        )
    ends = [(line.rank, x(line.points[-1][0]), y(line.points[-1][1])) for line in lines]
    parts += [_TEXT.format(f"{style(rank)} end", px + 6, py + 4, rank) for rank, px, py in _apart(ends)]
    return _svg(title, Markup("").join(parts))


def parallel_coordinates(
    hyperparameters: list[Hyperparameter], scores: list[float], names: list[str], metric: str
) -> Markup:
    """One line per run through an axis for each hyperparameter, to the metric at the right; the best is bold.

    Args:
        hyperparameters: the axes, from left to right, with a value for every run.
        scores, names: of the runs, best first.
        metric: the name of the scores.
    """
    gap, top, bottom = 130, 44, 250
    right = 60 + gap * len(hyperparameters)
    axes, columns = [], []
    for place, one in enumerate(hyperparameters):
        x = 60 + gap * place
        position, ticks = _scale(one, bottom, top)
        columns.append([(x, position(value)) for value in one.values])
        axes.append(_axis(x, one.key.rpartition(".")[2] or one.key, one.key, top, bottom, ticks))
    y = Axis(scores, bottom, top)
    columns.append([(right, y(score)) for score in scores])
    axes.append(_axis(right, metric, metric, top, bottom, [(y(tick), number(tick)) for tick in y.ticks()]))
    parts = []
    for rank in range(len(scores), 0, -1):
        where = [column[rank - 1] for column in columns]
        curve = "M{:.1f},{:.1f}".format(*where[0]) + "".join(
            f"C{(ax + bx) / 2:.1f},{ay:.1f} {(ax + bx) / 2:.1f},{by:.1f} {bx:.1f},{by:.1f}"
            for (ax, ay), (bx, by) in pairwise(where)
        )
        parts.append(
            Markup('<g class="{}{}"><title>{}</title><path class="line" d="{}"/></g>').format(
                style(rank), " best" if rank == 1 else "", f"{rank}  {names[rank - 1]}", curve
            )
        )
    return _svg(
        f"Hyperparameters of every run against {metric}", Markup("").join(parts + axes), right + 70, 270
    )


def calibration_chart(points: list[tuple[float, float, int]]) -> Markup:
    """Mean score against the share of true labels, with how many scores each point stands for."""
    x, y = Axis([0, 1], LEFT, WIDTH - RIGHT), Axis([0, 1], HEIGHT - BOTTOM, TOP)
    where = [(x(score), y(rate)) for score, rate, _ in points]
    dots = Markup("").join(
        Markup("<g><title>{}</title>{}</g>").format(
            f"score {score:.3f}: {rate:.1%} of {count:,} are true labels", _dot(*place, 4)
        )
        for place, (score, rate, count) in zip(where, points, strict=True)
    )
    body = Markup(
        '{}<path class="ideal" d="M{},{}L{},{}"/>{}{}<g class="hue-0"><path class="line" d="{}"/>{}</g>'
    )
    return _svg(
        "Calibration",
        body.format(
            _grid(x, y, "score", "share of true labels"),
            *(x(0), y(0), x(1), y(1)),
            _TEXT.format("note", x(0.03), y(0.93), "scores too low"),
            _TEXT.format("note right", x(0.98), y(0.04), "scores too high"),
            "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in where),
            dots,
        ),
    )


def _scale(one: Hyperparameter, start: float, end: float) -> tuple[Callable, list[tuple[float, str]]]:
    """Position of a hyperparameter's value, and ticks: numbers to scale (over a decade or more by the
    logarithm), a few values at equal distances."""
    distinct = set(one.values)
    if one.is_numeric and len(distinct) > 4:
        axis = Axis(one.values, start, end, log=min(distinct) > 0 and max(distinct) >= 10 * min(distinct))
        return axis, [(axis(tick), number(tick)) for tick in axis.ticks()]
    ordered = sorted(distinct, key=lambda value: (isinstance(value, str), value))
    places = Axis([0, len(ordered) - 1], start, end)
    ticks = [
        (places(place), number(v) if isinstance(v, (int, float)) else str(v))
        for place, v in enumerate(ordered)
    ]
    return (lambda value: places(ordered.index(value))), ticks


def _axis(x: float, name: str, key: str, top: float, bottom: float, ticks: list[tuple[float, str]]) -> Markup:
    short = name if len(name) <= 18 else f"{name[:17]}…"
    labels = Markup("").join(
        Markup('<text class="tick halo" x="{:.1f}" y="{:.1f}">{}</text>').format(
            x + 6, place + 4, text if len(text) <= 16 else f"{text[:15]}…"
        )
        for place, text in ticks
    )
    return Markup(
        '<g><title>{}</title><path class="axis" d="M{x},{top}V{bottom}"/>{}<text class="name" x="{x}" y="20">{}</text>'
        "</g>"
    ).format(key, labels, short, x=x, top=top, bottom=bottom)


def _grid(x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
    parts = []
    for tick in y.ticks():
        parts.append(Markup('<path class="grid" d="M{},{:.1f}H{}"/>').format(LEFT, y(tick), WIDTH - RIGHT))
        parts.append(_TEXT.format("tick y", LEFT - 6, y(tick) + 4, number(tick)))
    parts += [_TEXT.format("tick x", x(tick), HEIGHT - BOTTOM + 17, number(tick)) for tick in x.ticks()]
    parts.append(Markup('<path class="axis" d="M{},{}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT))
    parts.append(_TEXT.format("label x", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text class="label x" transform="translate(12 {:.1f}) rotate(-90)">{}</text>').format(
            middle, y_label
        )
    )
    return Markup("").join(parts)


def _dot(x: float, y: float, radius: float = 2.5) -> Markup:
    return Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, radius)


def _svg(title: str, body: Markup, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {width:g} {height:g}" style="--w:{width:g}" role="img" aria-label="{}">{}</svg>'
    ).format(title, body, width=width, height=height)


def _apart(labels: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """(rank, x, y) of the ranks that have a colour, moved up or down until none covers another."""
    placed: list[tuple[int, float, float]] = []
    for rank, x, y in labels[: 2 * HUES]:
        for shift in sorted(range(-165, 166, 11), key=abs):
            free = all(
                abs(x - other_x) > 14 or abs(y + shift - other_y) > 10 for _, other_x, other_y in placed
            )
            if free and TOP <= y + shift <= HEIGHT - BOTTOM:
                placed.append((rank, x, y + shift))
                break
    return placed


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS points, means of neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    chunks = (points[begin : begin + size] for begin in range(0, len(points), size))
    return [
        (sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)) for chunk in chunks
    ]
