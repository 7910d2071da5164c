"""The picture of scores over time."""

import io
import warnings

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from yt8m.api.predictions import Timeline

LONGEST = 32  # letters of a name


def clock(seconds: float) -> str:
    """A time as minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def draw(title: str, timeline: Timeline, ends: np.ndarray) -> bytes:
    """A PNG: a row per class, a column per window, darker where the score is higher.

    Args:
        title: of the picture, such as the video's name.
        timeline: W windows of K classes.
        ends: seconds at which the windows end, [W].
    """
    names = [name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…" for name in timeline.names]
    file = io.BytesIO()
    # A name may contain dollar signs, and letters that the font lacks.
    with warnings.catch_warnings(), mpl.rc_context({"text.parse_math": False, "font.size": 10}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(9, 1.5 + 0.32 * len(names)), layout="constrained")
        axes = figure.subplots()
        edges = np.append(timeline.starts, ends[-1])
        mesh = axes.pcolormesh(
            edges, np.arange(len(names) + 1), timeline.scores.T, cmap="Blues", vmin=0, vmax=1
        )
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        axes.hlines(np.arange(1, len(names)), edges[0], edges[-1], color="white", linewidth=2)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 3, 5, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))
        axes.set_xlabel("time")
        axes.set_title(title, loc="left")
        axes.tick_params(axis="y", length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        figure.colorbar(mesh, ax=axes, label="score", pad=0.02)
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()
