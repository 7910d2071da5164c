"""The sections of the page: which pictures a dataset gets, and what their captions say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yt8m.datamodules.dataset import ShardDataset
from yt8m.explore import plots as pictures
from yt8m.explore.plots import png
from yt8m.explore.statistics import ClassScores, Overview, principal_components
from yt8m.labels import ClassInfo

BARS, SCORED, DIMENSIONS, GROUPS = (
    30,
    12,
    48,
    7,
)  # classes in bars, in scores; dimensions shown; coloured groups


@dataclass
class Section:
    """A title, what to see in its pictures, and the pictures: (file name, description, PNG)."""

    title: str
    caption: str
    pictures: list[tuple[str, str, bytes]]


def make_sections(
    overview: Overview,
    scores: ClassScores | None,
    classes: Sequence[ClassInfo],
    features: dict[str, int],
) -> list[Section]:
    """All sections, in the page's order; those that the data cannot fill say why.

    Args:
        overview: the finished first pass.
        scores: the finished second pass over the most frequent classes, None where there are no labels.
        classes: C, in index order.
        features: name to size, as configured.
    """
    rows = "segments" if overview.level == "segment" else "videos"
    if scores is None:
        why = f"No labels: none of the {overview.videos:,} {rows} has any."
        of_labels = [Section("Labels", why, [])]
        of_classes = []
    else:
        of_labels = [
            _label_frequencies(overview, classes, rows),
            _labels_per_video(overview, rows),
            _cooccurrence(scores, classes, rows),
        ]
        of_classes = [_class_scores(scores, classes, features, rows)]
        of_classes.append(_class_means(overview, scores, classes, features, rows))
    over_time = [_frames_per_video(overview, rows), _video_over_time(overview, features, classes, rows)]
    return [*of_labels, *over_time, *of_classes, _projection(overview, classes, rows)]


def _label_frequencies(overview: Overview, classes: Sequence[ClassInfo], rows: str) -> Section:
    counts = overview.label_counts
    top = overview.top(BARS)
    bars = png(
        "The most frequent labels",
        pictures.label_frequencies,
        [classes[n].name for n in top],
        counts[top],
        overview.labelled,
    )
    seen = counts[counts > 0]
    caption = (
        f"The {len(top)} most frequent of {len(counts):,} classes, over {overview.labelled:,} labelled {rows}. Below, "
        f"all {len(seen):,} classes that occur by rank, on logarithmic axes: {len(counts) - len(seen):,} never occur, "
        f"{(seen < 10).sum():,} occur less than ten times, and the {len(top)} above hold "
        f"{counts[top].sum() / counts.sum():.0%} of all {counts.sum():,} labels."
    )
    tail = png("All classes by rank", pictures.long_tail, counts)
    return Section(
        "Label frequencies",
        caption,
        [
            ("label_frequencies.png", "Bar chart of the most frequent classes", bars),
            ("long_tail.png", "Frequency of every class against its rank", tail),
        ],
    )


def _labels_per_video(overview: Overview, rows: str) -> Section:
    counts = overview.labels_per_video
    caption = (
        f"{overview.labelled:,} {rows} by their number of labels: {counts[0]:,} have none, "
        f"{counts[1]:,} one, {counts[2:].sum():,} two or more; the most is {np.flatnonzero(counts)[-1]}."
    )
    picture = png(f"Labels per {rows[:-1]}", pictures.histogram, counts, f"labels of the {rows[:-1]}", rows)
    return Section(
        f"Labels per {rows[:-1]}",
        caption,
        [("labels_per_video.png", f"Histogram of the number of labels per {rows[:-1]}", picture)],
    )


def _cooccurrence(scores: ClassScores, classes: Sequence[ClassInfo], rows: str) -> Section:
    names = [classes[n].name for n in scores.classes]
    caption = (
        f"P(column | row) among the {len(names)} most frequent classes: of the {rows} with the row's label, the share "
        "that has the column's label too. Numbers are percent, from 10 up. Rows rest on "
        f"{scores.together.diagonal().min():,} to {scores.together.diagonal().max():,} {rows}; the matrix is not "
        "symmetric: a full cell in one direction only is a class inside another."
    )
    picture = png("Which labels come together", pictures.cooccurrence, names, scores.conditional())
    return Section(
        "Which labels come together",
        caption,
        [("cooccurrence.png", "Heat map of conditional probabilities between classes", picture)],
    )


def _frames_per_video(overview: Overview, rows: str) -> Section:
    title = f"Frames per {rows[:-1]}"
    if overview.level == "video":
        return Section(title, "Video-level data: a vector per video, without frames.", [])
    counts = overview.frames_per_video
    most = len(counts) - 1
    median = np.searchsorted(np.cumsum(counts), counts.sum() / 2)
    caption = (
        f"{overview.videos:,} {rows} with {counts @ np.arange(most + 1):,} frames, about one per second: shortest "
        f"{np.flatnonzero(counts)[0]}, median {median}, longest {np.flatnonzero(counts)[-1]}. "
        f"{counts[most]:,} have {most}, where the reader cuts (dataset.max_frames)."
    )
    picture = png(title, pictures.histogram, counts, "frames", rows)
    return Section(
        title, caption, [("frames_per_video.png", f"Histogram of the frames per {rows[:-1]}", picture)]
    )


def _video_over_time(
    overview: Overview, features: dict[str, int], classes: Sequence[ClassInfo], rows: str
) -> Section:
    title = f"One {rows[:-1]} over time"
    if overview.video is None:
        return Section(title, "Video-level data: a vector per video, without frames.", [])
    video = overview.video
    names = ", ".join(classes[n].name for n in video.classes) or "none"
    caption = (
        f"{rows[:-1].capitalize()} {video.id}, {len(video.frames)} frames; labels: {names}. Above, each dimension's "
        "value over time; below, its change from one frame to the next, and the mean size of that change: a peak is "
        "a cut or a change of scene. Choose another with video=ID."
    )
    drawn, end = [], 0
    for name, size in features.items():
        begin, end = end, end + size
        picture = png(f"{name} of {video.id}", pictures.video_over_time, video, slice(begin, end))
        about = f"Heat maps of {name} over time and of its first difference"
        drawn.append((f"over_time_{name}.png", about, picture))
    return Section(title, caption, drawn)


def _class_scores(
    scores: ClassScores, classes: Sequence[ClassInfo], features: dict[str, int], rows: str
) -> Section:
    separation = scores.separation()
    names = [classes[n].name for n in scores.classes[:SCORED]]
    caption = (
        f"How far {', '.join(features)} alone set the {len(names)} most frequent classes apart. A {rows[:-1]}'s score "
        "is its place along the direction from the mean vector without the label to that with it (differences over "
        f"variances, dimension by dimension). Directions come from every second {rows[:-1]}, shown are the others. "
        f"AUC: the chance that one with the label scores above one without; 0.5 is a guess. n: {rows} "
        "with the label, of those shown."
    )
    drawn = []
    for place, feature in enumerate(features):
        picture = png(
            f"{feature}: scores per class",
            pictures.class_scores,
            names,
            scores.histograms[place, :SCORED],
            separation[place, :SCORED],
        )
        about = f"Distributions of scores from {feature}, with and without each label"
        drawn.append((f"class_scores_{feature}.png", about, picture))
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
        blocks[f"{name}, the first {min(size, DIMENSIONS)} of {size} dimensions"] = means[
            :, begin : min(end, begin + DIMENSIONS)
        ]
    caption = (
        f"Mean vector of the {rows} of each class (every second one), as a distance from the mean of all in standard "
        f"deviations of the {rows}' values. A strong column is a dimension that the class depends on."
    )
    picture = png("Mean features per class", pictures.class_means, [classes[n].name for n in top], blocks)
    return Section(
        "Mean features per class",
        caption,
        [("class_means.png", "Heat map of class means by dimension", picture)],
    )


def _projection(overview: Overview, classes: Sequence[ClassInfo], rows: str) -> Section:
    vectors = overview.sample.vectors
    title = f"The {rows} in two dimensions"
    if len(vectors) < 3:
        return Section(title, f"Too few {rows} for a projection: {len(vectors)}.", [])
    places, shares = principal_components(vectors)
    groups, by = group(overview.sample.classes, classes, overview.label_counts)
    caption = (
        f"{len(vectors):,} of {overview.videos:,} {rows}, drawn at random, on the two first principal components of "
        f"their vectors (a linear map, which keeps {shares.sum():.1%} of the variance; "
        f"whitened features, as YouTube-8M's, spread theirs over all dimensions). {by}"
    )
    picture = png(f"{rows.capitalize()} on two components", pictures.projection, places, shares, groups)
    return Section(title, caption, [("projection.png", f"Scatter plot of {rows} by group", picture)])


def group(
    sample: Sequence[list[int]], classes: Sequence[ClassInfo], counts: np.ndarray
) -> tuple[list[tuple[str, np.ndarray]], str]:
    """The most frequent groups of the sampled videos as (name, rows), the rest first, and what the groups are.

    A video belongs to the vertical that most of its labels have, on a tie to that of its most frequent label. Where
    the vocabulary has no verticals, it belongs to the rarest of its labels that is among the most frequent ones.
    """
    if any(info.verticals for info in classes):
        by, of_video = "Coloured by the vertical that most labels of the video have.", []
        for labels in sample:
            votes = Counter(
                v for n in sorted(labels, key=lambda n: -counts[n]) for v in classes[n].verticals[:1]
            )
            of_video.append(votes.most_common(1)[0][0] if votes else None)
        shown = [name for name, _ in Counter(filter(None, of_video)).most_common(GROUPS)]
    else:
        by = "Coloured by the rarest of the video's labels that is among the most frequent ones of all."
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
        (name, rows) for name, rows in groups if len(rows)
    ], by if shown else "No labels to colour them by."


def make_facts(overview: Overview, dataset: ShardDataset, skipped: int) -> dict[str, str]:
    """Figures for the head of the page, name to text."""
    rows = "segments" if overview.level == "segment" else "videos"
    facts = {
        rows: f"{overview.videos:,}",
        "shards": f"{len(dataset.paths):,}",
        "features": ", ".join(f"{name} {size}" for name, size in dataset.features.items()),
        "records left out": f"{skipped:,}",
    }
    if overview.level != "video":
        frames = overview.frames_per_video @ np.arange(len(overview.frames_per_video))
        facts["frames"] = f"{frames:,}"
    if overview.labelled:
        facts["classes seen"] = f"{(overview.label_counts > 0).sum():,} of {len(overview.label_counts):,}"
        facts[f"labels per {rows[:-1]}"] = f"{overview.label_counts.sum() / overview.labelled:.2f}"
    return facts
