"""The plots, each a matplotlib figure of a phone's width: 4.8 inches, panels below each other.

Colors are Okabe and Ito's, which people with any color vision can tell apart: "C0" to "C6" of the scheme.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter

from yt8m.explore.statistics import EDGES
from yt8m.explore.vectors import Video

BLUE, RED = "C0", "C5"
GREY = "#8A8A8A"
MARKERS = "osD^vPX"  # so that groups differ by shape as well

WIDTH = 4.8  # inches
# Background, ink, and cycle of colors: the style sheet's --card and --ink.
_LIGHT = ("#ffffff", "#1d2126", "#0072b2 #e69f00 #009e73 #cc79a7 #56b4e9 #d55e00 #c9b800")
_DARK = ("#1b1f24", "#e6e8eb", "#4aa6de #e9b341 #26b086 #dc8fbc #8cc9ee #f08036 #f0e442")


def png(draw: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """The figure that `draw` makes, for the light and the dark scheme, at 200 dots per inch."""
    return _render(_LIGHT, draw), _render(_DARK, draw)


def _render(scheme: tuple[str, str, str], draw: Callable[[], Figure]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context(_style(*scheme)):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # it is drawn as a box
        # Without the program's version, so that the same data give the same file.
        draw().savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def _style(background: str, ink: str, colors: str) -> Any:
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "text.parse_math": False,  # a class name may contain dollar signs
        "figure.facecolor": background,
        "axes.facecolor": background,
        "axes.prop_cycle": cycler(color=colors.split()),
        **dict.fromkeys(inks, ink),
    }


def _diverging() -> LinearSegmentedColormap:
    """From red over the background, which is zero, to blue."""
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    return LinearSegmentedColormap.from_list(
        "diverging", [cycle[5], mpl.rcParams["axes.facecolor"], cycle[0]]
    )


def new_figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def label_frequencies(names: Sequence[str], counts: np.ndarray, total: int, rows: str) -> Figure:
    """A bar per class: `counts` rows of `total`; `rows` says what they are, `videos` or `segments`."""
    figure = new_figure(0.9 + 0.22 * len(names))
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.barh(places, counts, color=BLUE, height=0.75)
    for place, count in zip(places, counts.tolist(), strict=True):
        axes.text(count, float(place), f" {count:,} ({count / total:.1%})", va="center", fontsize=8)
    axes.set_yticks(places, [short(name) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, counts.max() * 1.38)
    axes.set_xlabel(f"{rows} with the label (share of all)")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def long_tail(counts: np.ndarray, rows: str) -> Figure:
    """Rows per class against the class's rank, both logarithmic; `counts` int64 [C]."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    ordered = np.sort(counts[counts > 0])[::-1]
    axes.loglog(np.arange(1, len(ordered) + 1), ordered, ".-", color=BLUE, markersize=4, linewidth=1)
    axes.set_xlabel("rank of the class")
    axes.set_ylabel(f"{rows} with the label")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    return figure


def histogram(counts: np.ndarray, xlabel: str, ylabel: str) -> Figure:
    """One bar per number, from the smallest to the largest that occurs; `counts[n]` items have the number n."""
    figure = new_figure(3.0)
    axes = figure.subplots()
    first, last = np.flatnonzero(counts)[[0, -1]]
    width = max(1, -(-(last - first + 1) // 60))
    starts = np.arange(first, last + 1, width)
    heights = np.add.reduceat(counts[: last + 1], starts)
    axes.bar(starts + (width - 1) / 2, heights, width=0.9 * width, color=BLUE)
    mean = counts @ np.arange(len(counts)) / counts.sum()
    axes.axvline(mean, color=RED, linewidth=1.5, linestyle="--", label=f"mean {mean:.1f}")
    axes.legend(frameon=False)
    axes.set_xlabel(xlabel if width == 1 else f"{xlabel} (bars of {width})")
    axes.set_ylabel(ylabel)
    if heights.max() > 100 * np.median(heights[heights > 0]):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"{ylabel} (logarithmic)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return figure


def cooccurrence(names: Sequence[str], conditional: np.ndarray, rows: str) -> Figure:
    """P(column | row) of K classes, [K, K], with the larger values written in, in percent."""
    figure = new_figure(5.2)
    axes = figure.subplots()
    image = axes.imshow(conditional, cmap="viridis", vmin=0, vmax=1)
    size = min(7, 112 / len(names))  # points, of numbers that fit their cells
    for row, column in np.argwhere((conditional >= 0.095) & ~np.eye(len(names), dtype=bool)):
        value = conditional[row, column]
        color = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=color)
    places = np.arange(len(names))
    axes.set_yticks(places, [short(name, 20) for name in names], fontsize=1.2 * size)
    axes.set_xticks(places, [short(name, 20) for name in names], fontsize=1.2 * size, rotation=90)
    axes.tick_params(length=0)
    axes.set_ylabel(f"of {rows} with this label …")
    axes.set_xlabel("… the share that also has this one")
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.7, aspect=30)
    bar.set_label("P(column | row)")
    return figure


def video_over_time(video: Video, columns: slice) -> Figure:
    """Values of one feature over time, their first difference, and the mean size of the difference."""
    values = video.values()[:, columns].T  # [D, T]
    figure = new_figure(6.4 if values.shape[1] > 1 else 3.0)
    heights = [2, 2, 1] if values.shape[1] > 1 else [1]
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _over_time(figure, panels[0], values, 0, "values", "dequantized value")
    if values.shape[1] > 1:
        steps = np.diff(values, axis=1)
        _over_time(figure, panels[1], steps, 1, "first difference", "change from the previous frame")
        panels[2].plot(np.arange(1, values.shape[1]), np.abs(steps).mean(axis=0), color=BLUE)
        panels[2].set_title("mean size of the first difference", loc="left")
        panels[2].set_ylabel("mean |change|")
        panels[2].set_ylim(bottom=0)
    panels[-1].set_xlabel("frame (about one per second)")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def _over_time(figure: Figure, axes: Axes, values: np.ndarray, first: int, title: str, unit: str) -> None:
    limit = max(float(np.quantile(np.abs(values), 0.995)), 1e-6)
    extent = (first - 0.5, first + values.shape[1] - 0.5, len(values) - 0.5, -0.5)
    image = axes.imshow(values, aspect="auto", cmap=_diverging(), vmin=-limit, vmax=limit, extent=extent)
    axes.set_title(title, loc="left")
    axes.set_ylabel("dimension")
    figure.colorbar(image, ax=axes, label=unit, extend="both")


def class_scores(names: Sequence[str], histograms: np.ndarray, separation: np.ndarray) -> Figure:
    """One row per class: scores of the videos without it (grey) and with it (blue), int64 [K, 2, bins]."""
    figure = new_figure(1.2 + 0.42 * len(names))
    axes = figure.subplots()
    centers = (EDGES[:-1] + EDGES[1:]) / 2
    for place, (absent, present) in enumerate(histograms):
        for counts, color in ((absent, GREY), (present, BLUE)):
            smooth = np.convolve(counts, np.ones(5) / 5, mode="same")
            top = place - 0.85 * smooth / max(smooth.max(), 1e-12)
            axes.fill_between(centers, place, top, color=color, alpha=0.45, linewidth=0)
            axes.plot(centers, top, color=color, linewidth=1)
        note = f"AUC {separation[place]:.2f}" if np.isfinite(separation[place]) else "too few"
        beside = axes.get_yaxis_transform()
        axes.text(1.01, place - 0.36, note, fontsize=8, transform=beside)
        axes.text(1.01, place - 0.04, f"n = {present.sum():,}", fontsize=8, transform=beside)
    axes.set_yticks(np.arange(len(names)) - 0.3, [short(name) for name in names], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.6, -1)
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.xaxis.set_major_locator(MultipleLocator(4))
    axes.set_xlabel("score, in standard deviations of all scores")
    patches = [
        Patch(color=BLUE, alpha=0.6, label="with the label"),
        Patch(color=GREY, alpha=0.6, label="without"),
    ]
    axes.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def class_means(names: Sequence[str], blocks: dict[str, np.ndarray], most: int) -> Figure:
    """One panel per feature: each class's mean, [K, D], of the first `most` dimensions."""
    figure = new_figure(1.0 + len(blocks) * (0.6 + 0.2 * len(names)))
    shown = {feature: means[:, :most] for feature, means in blocks.items()}
    limit = max(np.nanquantile(np.abs(np.concatenate(list(shown.values()), axis=1)), 0.99), 1e-6)
    panels = figure.subplots(len(blocks), squeeze=False)[:, 0]
    for axes, (feature, means) in zip(panels, shown.items(), strict=True):
        image = axes.imshow(means, aspect="auto", cmap=_diverging(), vmin=-limit, vmax=limit)
        axes.set_title(feature, loc="left")
        axes.set_yticks(np.arange(len(names)), [short(name) for name in names], fontsize=8)
        size = blocks[feature].shape[1]
        axes.set_xlabel("dimension" if size <= most else f"dimension (first {most} of {size})")
    label = "mean of the class, in standard deviations"
    figure.colorbar(image, ax=panels, orientation="horizontal", label=label, extend="both", aspect=30)
    return figure


def projection(places: np.ndarray, shares: np.ndarray, groups: list[tuple[str, np.ndarray]]) -> Figure:
    """Videos on two principal components, [n, 2]; `groups` are (name, rows), the first at the bottom."""
    figure = new_figure(5.4)
    axes = figure.subplots()
    styles = [(GREY, "."), *((f"C{number}", marker) for number, marker in enumerate(MARKERS))]
    for (name, rows), (color, marker) in zip(groups, styles, strict=False):
        x, y = places[rows].T
        label = f"{short(name, 22)} ({len(rows):,})"
        axes.scatter(x, y, s=12, c=color, marker=marker, label=label, alpha=0.75, linewidths=0)
    axes.set_xlabel(f"first principal component ({shares[0]:.1%} of the variance)")
    axes.set_ylabel(f"second ({shares[1]:.1%})")
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8, handletextpad=0.1
    )
    return figure
