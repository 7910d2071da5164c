"""The sections of the page: which plots a dataset gets, and what their captions say."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from yt8m.datamodules.dataset import ShardDataset
from yt8m.explore import plots
from yt8m.explore.statistics import ClassScores, Overview, principal_components
from yt8m.labels import ClassInfo

BARS, SCORED = 30, 12  # classes in the bar chart, and with distributions
DIMENSIONS = 48  # of each feature in the class means
GROUPS = 7  # colors in the projection


@dataclass(frozen=True)
class Plot:
    """A plot: file name, description in words, what draws it, and a title if its section has several plots.

    ``images`` are the PNGs for the light and the dark scheme, empty until the plot is drawn.
    """

    file: str
    description: str
    figure: Callable[[], Figure]
    title: str = ""
    images: tuple[bytes, bytes] = (b"", b"")

    @classmethod
    def of(
        cls, file: str, description: str, draw: Callable[..., Figure], *arguments: Any, title: str = ""
    ) -> "Plot":
        return cls(file, description, partial(draw, *arguments), title)


@dataclass(frozen=True)
class Section:
    """A title, a caption that says what the plots show, and the plots."""

    title: str
    caption: str
    plots: list[Plot]


def make_sections(
    overview: Overview,
    scores: ClassScores | None,
    classes: Sequence[ClassInfo],
    features: dict[str, int],
) -> list[Section]:
    """All sections that the data can fill, in the page's order; their plots are not drawn yet.

    Args:
        overview: the finished first pass.
        scores: the finished second pass over the most frequent classes; None if there are no labels.
        classes: C, in index order.
        features: name to size, as configured.
    """
    rows = overview.rows
    sections = []
    if scores is None:
        sections.append(Section("Labels", f"None of the {overview.videos:,} {rows} has a label.", []))
    else:
        sections += [
            _label_frequencies(overview, classes, rows),
            _labels_per_video(overview, rows),
            _cooccurrence(scores, classes, rows),
        ]
    if overview.video is not None:  # video-level data have no frames
        sections += [_frames_per_video(overview, rows), _video_over_time(overview, features, classes, rows)]
    if scores is not None:
        sections += [
            _class_scores(scores, classes, features, rows),
            _class_means(overview, scores, classes, features, rows),
        ]
    return [*sections, _projection(overview, classes, rows)]


def _label_frequencies(overview: Overview, classes: Sequence[ClassInfo], rows: str) -> Section:
    counts = overview.label_counts
    top = overview.top(BARS)
    seen = counts[counts > 0]
    caption = (
        f"The {len(top)} most frequent of {len(counts):,} classes among {overview.labelled:,} labeled {rows}, and all "
        f"{len(seen):,} classes that occur, by rank, on logarithmic axes. {len(counts) - len(seen):,} never occur, "
        f"{(seen < 10).sum():,} occur less than ten times; the {len(top)} most frequent hold "
        f"{counts[top].sum() / counts.sum():.0%} of all {counts.sum():,} labels."
    )
    names = [classes[n].name for n in top]
    bars = Plot.of(
        "label_frequencies.png",
        "Bar chart of the most frequent classes",
        plots.label_frequencies,
        names,
        counts[top],
        overview.labelled,
        rows,
        title="Most frequent classes",
    )
    about = "Frequency of every class against its rank"
    tail = Plot.of("long_tail.png", about, plots.long_tail, counts, rows, title="All classes by rank")
    return Section("Label frequencies", caption, [bars, tail])


def _labels_per_video(overview: Overview, rows: str) -> Section:
    counts = overview.labels_per_video
    caption = (
        f"{overview.labelled:,} {rows} by their number of labels: {counts[0]:,} have none, {counts[1]:,} have one, "
        f"{counts[2:].sum():,} have two or more; the maximum is {np.flatnonzero(counts)[-1]}."
    )
    about = f"Histogram of the number of labels per {rows[:-1]}"
    arguments = (counts, f"labels of the {rows[:-1]}", rows)
    plot = Plot.of("labels_per_video.png", about, plots.histogram, *arguments)
    return Section(f"Labels per {rows[:-1]}", caption, [plot])


def _cooccurrence(scores: ClassScores, classes: Sequence[ClassInfo], rows: str) -> Section:
    names = [classes[n].name for n in scores.classes]
    caption = (
        f"P(column | row) among the {len(names)} most frequent classes: of the {rows} with the row's label, the share "
        "that also has the column's. Numbers are percent, shown from 10 up. Rows are based on "
        f"{scores.together.diagonal().min():,} to {scores.together.diagonal().max():,} {rows}. The matrix is not "
        "symmetric: a class that is part of another has a bright cell in one direction only."
    )
    about = "Heat map of conditional probabilities between classes"
    plot = Plot.of("cooccurrence.png", about, plots.cooccurrence, names, scores.conditional(), rows)
    return Section("Labels that occur together", caption, [plot])


def _frames_per_video(overview: Overview, rows: str) -> Section:
    counts = overview.frames_per_video
    most = len(counts) - 1
    median = np.searchsorted(np.cumsum(counts), counts.sum() / 2)
    caption = (
        f"{overview.videos:,} {rows} with {counts @ np.arange(most + 1):,} frames, about one per second: shortest "
        f"{np.flatnonzero(counts)[0]}, median {median}, longest {np.flatnonzero(counts)[-1]}."
    )
    if overview.level == "frame":
        caption += f" {counts[most]:,} reach dataset.max_frames={most}, where the reader cuts."
    about = f"Histogram of the frames per {rows[:-1]}"
    plot = Plot.of("frames_per_video.png", about, plots.histogram, counts, "frames", rows)
    return Section(f"Frames per {rows[:-1]}", caption, [plot])


def _video_over_time(
    overview: Overview, features: dict[str, int], classes: Sequence[ClassInfo], rows: str
) -> Section:
    video = overview.video
    assert video is not None
    names = ", ".join(classes[n].name for n in video.classes) or "none"
    caption = (
        f"{rows[:-1].capitalize()} {video.id}, {len(video.frames)} frames; labels: {names}. From the top: each "
        "dimension's value over time, its change from one frame to the next, and the mean size of that change, which "
        f"peaks at cuts. Choose another {rows[:-1]} with video=ID."
    )
    drawn, end = [], 0
    for name, size in features.items():
        begin, end = end, end + size
        about = f"Heat maps of {name} over time and of its first difference"
        arguments = (video, slice(begin, end))
        drawn.append(Plot.of(f"over_time_{name}.png", about, plots.video_over_time, *arguments, title=name))
    return Section(f"One {rows[:-1]} over time", caption, drawn)


def _class_scores(
    scores: ClassScores, classes: Sequence[ClassInfo], features: dict[str, int], rows: str
) -> Section:
    separation = scores.separation()
    names = [classes[n].name for n in scores.classes[:SCORED]]
    caption = (
        f"How well each feature alone separates the {len(names)} most frequent classes. A {rows[:-1]}'s score is its "
        "position along the direction from the mean without the label to the mean with it (a linear discriminant with "
        f"a diagonal covariance). Directions are fitted on every other {rows[:-1]}; the plots show the rest. AUC is "
        f"the chance that a {rows[:-1]} with the label scores above one without; 0.5 is a guess. n counts the {rows} "
        "with the label."
    )
    drawn = [
        Plot.of(
            f"class_scores_{feature}.png",
            f"Distributions of scores from {feature}, with and without each label",
            plots.class_scores,
            names,
            scores.histograms[place, :SCORED],
            separation[place, :SCORED],
            title=feature,
        )
        for place, feature in enumerate(features)
    ]
    return Section("Feature distributions per class", caption, drawn)


def _class_means(
    overview: Overview,
    scores: ClassScores,
    classes: Sequence[ClassInfo],
    features: dict[str, int],
    rows: str,
) -> Section:
    top = scores.classes[:SCORED]
    present, _ = overview.class_means(top)
    means = (present - overview.mean) / np.maximum(overview.deviation, 1e-12)
    blocks, end = {}, 0
    for name, size in features.items():
        begin, end = end, end + size
        blocks[name] = means[:, begin:end]
    caption = (
        f"Each class's mean vector (over every other one of its {rows}), as the distance from the overall mean in "
        f"standard deviations of the {rows}. A strong column is a dimension that depends on the class."
    )
    about = "Heat map of class means by dimension"
    plot = Plot.of(
        "class_means.png", about, plots.class_means, [classes[n].name for n in top], blocks, DIMENSIONS
    )
    return Section("Mean features per class", caption, [plot])


def _projection(overview: Overview, classes: Sequence[ClassInfo], rows: str) -> Section:
    vectors = overview.sample.vectors
    title = f"The {rows} in two dimensions"
    if len(vectors) < 3:
        return Section(title, f"Only {len(vectors)} {rows}: too few for a projection.", [])
    places, shares = principal_components(vectors)
    groups, by = group(overview.sample.classes, classes, overview.label_counts, rows)
    caption = (
        f"{len(vectors):,} of {overview.videos:,} {rows}, drawn at random, on the first two principal components of "
        f"their vectors, which keep {shares.sum():.1%} of the variance. Whitened features, such as YouTube-8M's, "
        f"spread theirs over all dimensions. {by}"
    )
    about = f"Scatter plot of {rows} by group"
    return Section(
        title, caption, [Plot.of("projection.png", about, plots.projection, places, shares, groups)]
    )


def group(
    sample: Sequence[list[int]], classes: Sequence[ClassInfo], counts: np.ndarray, rows: str
) -> tuple[list[tuple[str, np.ndarray]], str]:
    """The largest groups of the sampled videos as (name, rows), after the rest, and a sentence about the grouping.

    A video belongs to the vertical that most of its labels have; ties go to its most frequent label. If the vocabulary
    has no verticals, it belongs to the rarest of its labels that is among the most frequent classes.
    """
    if any(info.verticals for info in classes):
        by, of_video = f"Colors are the vertical that most of the {rows[:-1]}'s labels have.", []
        for labels in sample:
            votes = Counter(
                v for n in sorted(labels, key=lambda n: -counts[n]) for v in classes[n].verticals[:1]
            )
            of_video.append(votes.most_common(1)[0][0] if votes else None)
        shown = [name for name, _ in Counter(filter(None, of_video)).most_common(GROUPS)]
    else:
        by = f"Colors are the rarest of the {rows[:-1]}'s labels among the most frequent classes."
        top = [n for n in np.argsort(-counts, kind="stable")[:GROUPS].tolist() if counts[n]]
        of_video = [
            classes[max(of_top, key=top.index)].name if (of_top := [n for n in top if n in labels]) else None
            for labels in sample
        ]
        shown = [classes[n].name for n in top]
    kinds = np.array([shown.index(name) if name in shown else -1 for name in of_video])
    groups = [("other", np.flatnonzero(kinds < 0))]
    groups += [(name, np.flatnonzero(kinds == place)) for place, name in enumerate(shown)]
    return [
        (name, places) for name, places in groups if len(places)
    ], by if shown else "There are no labels to color them by."


def make_facts(overview: Overview, dataset: ShardDataset, skipped: int) -> dict[str, str]:
    """Facts for the top of the page, name to text."""
    rows = overview.rows
    facts = {
        rows: f"{overview.videos:,}",
        "shards": f"{len(dataset.paths):,}",
        "features": ", ".join(f"{name} {size}" for name, size in dataset.features.items()),
        "skipped records": f"{skipped:,}",
    }
    if overview.unrated:
        facts["videos without a rated segment"] = f"{overview.unrated:,}"
    if overview.level != "video":
        frames = overview.frames_per_video @ np.arange(len(overview.frames_per_video))
        facts["frames"] = f"{frames:,}"
    if overview.labelled:
        facts["classes seen"] = f"{(overview.label_counts > 0).sum():,} of {len(overview.label_counts):,}"
        facts[f"labels per {rows[:-1]}"] = f"{overview.label_counts.sum() / overview.labelled:.2f}"
    return facts
