"""Results per class and per genre: average precision, and the precision-recall curves behind it.

As in mAP, only the 20 best classes of each video count (`yt8m.metrics`), so a class's curve ends at the recall where
its other videos rank it lower.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from torch import Tensor

from yt8m.average_precision import average_precision
from yt8m.labels import UNKNOWN, ClassInfo, genre_names
from yt8m.metrics import MAP

CLASSES_HEADER = ("class", "name", "verticals", "positives", "ap_top20")
GENRES_HEADER = ("genre", "classes", "mean_ap_top20", "videos", "genre_ap_top20")

ENOUGH = 10  # positives; the curve of a class with fewer is mostly chance
_CURVES = 5  # per picture
_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
)  # of Okabe and Ito: distinct with any color vision


@dataclass(frozen=True)
class TopKPredictions:
    """The best (score, class, hit) pairs of all videos, and the number of positives of each class.

    - ``scores`` float32 [n], ``classes`` integer [n], ``hits`` bool [n], ``positives`` integer [C]; on the CPU
    """

    scores: Tensor
    classes: Tensor
    hits: Tensor
    positives: Tensor

    @classmethod
    def of(cls, metric: MAP) -> "TopKPredictions":
        """The pairs that the metric has gathered."""
        return cls(*(part.cpu() for part in metric.pairs()))

    def average_precisions(self) -> list[float]:
        """Average precision of each class; NaN for classes without positives."""
        return average_precision(self.scores, self.classes, self.hits, self.positives).tolist()

    def curve(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision of one class at the scores where recall rises, highest first: float64 `[n]`, `[n]`.

        Without equal scores, Σ precision · Δrecall is the average precision.
        """
        of_class = self.classes == index
        scores, order = self.scores[of_class].sort(descending=True)
        hits = self.hits[of_class][order].cumsum(0).numpy()
        cuts = np.flatnonzero(np.diff(scores.numpy(), append=-np.inf))  # the last of equal scores
        rising = cuts[np.diff(hits[cuts], prepend=0) > 0]
        return hits[rising] / int(self.positives[index]), hits[rising] / (rising + 1)


@dataclass(frozen=True)
class GenreResult:
    """Results of one genre, or of the classes without one, `(Unknown)`.

    Attributes:
        classes: number of its classes with positives; a class of several genres counts in each.
        mean_ap: mean AP of these classes; None without any.
        videos: number of the genre's videos; None for `(Unknown)`.
        ap: AP of the genre itself; None without videos.
    """

    name: str
    classes: int
    mean_ap: float | None
    videos: int | None
    ap: float | None


def genre_results(
    classes: Sequence[ClassInfo], pairs: TopKPredictions, of_genres: TopKPredictions
) -> list[GenreResult]:
    """The genres by name, and last `(Unknown)` if a class has none.

    Args:
        classes: in index order.
        pairs: of the classes.
        of_genres: of the genres, by name.
    """
    names = genre_names([info.verticals for info in classes])
    aps = of_genres.average_precisions()
    own = dict(zip(names, zip(of_genres.positives.tolist(), aps, strict=True), strict=True))
    grouped: dict[str, list[float]] = defaultdict(list)
    for info, ap in zip(classes, pairs.average_precisions(), strict=True):
        for name in info.verticals or (UNKNOWN,):
            grouped[name] += [] if math.isnan(ap) else [ap]
    results = []
    for name in (*names, *({UNKNOWN} & grouped.keys())):
        videos, ap = own.get(name, (None, None))
        mean_ap = fmean(grouped[name]) if grouped[name] else None
        results.append(GenreResult(name, len(grouped[name]), mean_ap, videos, ap if videos else None))
    return results


def write_classes(path: Path, classes: Sequence[ClassInfo], pairs: TopKPredictions) -> None:
    """One CSV row per class in index order; `|` separates verticals; the AP is empty without positives."""
    rows = zip(classes, pairs.positives.tolist(), pairs.average_precisions(), strict=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(CLASSES_HEADER)
        for info, positives, ap in rows:
            table.writerow([info.index, info.name, "|".join(info.verticals), positives, _number(ap)])


def write_genres(
    path: Path, classes: Sequence[ClassInfo], pairs: TopKPredictions, of_genres: TopKPredictions
) -> None:
    """One CSV row per result of `genre_results`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(GENRES_HEADER)
        for one in genre_results(classes, pairs, of_genres):
            table.writerow([one.name, one.classes, _number(one.mean_ap), one.videos, _number(one.ap)])


def draw_curves(folder: Path, classes: Sequence[ClassInfo], pairs: TopKPredictions) -> list[Path]:
    """Write `precision_recall_{best,median,worst}.png`, five classes each; returns the files.

    The classes are those with `ENOUGH` positives, or with any if no class has that many.
    """
    aps = pairs.average_precisions()
    seen = [index for index, positives in enumerate(pairs.positives.tolist()) if positives]
    enough = [index for index in seen if pairs.positives[index] >= ENOUGH]
    ranked = sorted(enough or seen, key=lambda index: -aps[index])
    if not ranked:
        return []
    middle = max(len(ranked) - _CURVES, 0) // 2
    chosen = {
        "best": ranked[:_CURVES],
        "median": ranked[middle : middle + _CURVES],
        "worst": ranked[-_CURVES:],
    }
    among = f"{len(ranked)} classes with {ENOUGH if enough else 1} or more positives"
    paths = []
    for which, indices in chosen.items():
        paths.append(folder / f"precision_recall_{which}.png")
        curves = [(classes[i].name, aps[i], int(pairs.positives[i]), *pairs.curve(i)) for i in indices]
        _draw(paths[-1], f"The {which} of {among}, by average precision", curves)
    return paths


def _draw(path: Path, title: str, curves: list[tuple[str, float, int, np.ndarray, np.ndarray]]) -> None:
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    without_hits = []
    for (name, ap, positives, recall, precision), color in zip(curves, _COLORS, strict=False):
        name = name if len(name) <= 40 else f"{name[:39]}…"  # so that the legend fits
        if not len(recall):
            without_hits.append(f"{name} ({positives:,} positives)".replace("$", r"\$"))
            continue
        label = f"{name}: AP {ap:.3f}, {positives:,} positives".replace("$", r"\$")
        first = precision[:1]  # holds from recall 0 on
        # The area under the steps is the AP.
        axes.step([*0 * first, *recall], [*first, *precision], where="pre", color=color, label=label)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), title=title)
    axes.set_xlabel("recall (only the 20 best classes of each video count)")
    axes.set_ylabel("precision")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if without_hits:
        lines = ["AP 0: never among the 20 best classes", "of a video that has the label:", "", *without_hits]
        box = {"facecolor": "white", "edgecolor": "0.8", "alpha": 0.9}
        axes.text(
            0.97,
            0.96,
            "\n".join(lines),
            ha="right",
            va="top",
            linespacing=1.5,
            bbox=box,
            transform=axes.transAxes,
        )
    if len(without_hits) < len(curves):
        figure.legend(loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=120)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6f}"
