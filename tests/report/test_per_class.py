"""Class statistics against plain loops."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m.labels import ClassInfo
from yt8m.metrics import MAP
from yt8m.report.leaderboard import Leaderboard
from yt8m.report.page import render
from yt8m.report.per_class import CONFUSED, ClassCounts
from yt8m.report.runs import Run


def test_class_stats_equal_plain_loops():
    for masked in (False, True):
        check_against_loops(masked)


def check_against_loops(masked: bool) -> None:
    rng = np.random.default_rng(0)
    videos, classes = 90, CONFUSED + 4
    scores = rng.random((videos, classes), dtype=np.float32)
    labels = rng.random(scores.shape) < np.linspace(0.4, 0.02, classes)
    labels[:, 3] = False
    rated = rng.random(scores.shape) < 0.7 if masked else np.ones_like(labels)
    counts = ClassCounts(classes)
    for part in np.array_split(np.arange(videos), 4):
        mask = torch.from_numpy(rated[part]) if masked else None
        counts.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]), mask)
    stats = counts.stats([ClassInfo(n, f"c{n}") for n in range(classes)])

    labels &= rated
    assert stats.videos == videos
    assert {c.name: c.positives for c in stats.classes} == {
        f"c{n}": labels[:, n].sum() for n in range(classes) if labels[:, n].any()
    }
    assert "c3" not in {c.name for c in stats.classes}
    assert not {c.name for c in stats.best()} & {c.name for c in stats.worst()}
    precision = [c.average_precision for c in stats.classes]
    assert precision == sorted(precision, reverse=True)
    assert [c.average_precision for c in stats.worst()] == precision[: len(stats.best()) - 1 : -1][:20]

    for one in stats.calibration:
        bin_ = int(one.score * 10)
        inside = rated & (scores >= bin_ / 10) & (scores < (bin_ + 1) / 10)
        assert one.count == inside.sum()
        assert one.hit_rate == pytest.approx(labels[inside].mean())
        assert one.score == pytest.approx(scores[inside].mean(), rel=1e-5)

    frequent = sorted(range(classes), key=lambda n: -labels[:, n].sum())[:CONFUSED]
    assert stats.confused == [f"c{n}" for n in frequent]
    predicted = np.zeros_like(labels)
    for video in range(videos):
        ranked = sorted(np.flatnonzero(rated[video]), key=lambda n: -scores[video, n])
        predicted[video, ranked[: labels[video].sum()]] = True
    for row, i in enumerate(frequent):
        for column, j in enumerate(frequent):
            of = labels[:, i] & (labels[:, j] if i == j else ~labels[:, j])
            assert stats.confusion[row][column] == pytest.approx(predicted[of, j].mean())
            assert stats.cooccurrence[row][column] == pytest.approx(labels[labels[:, i], j].mean())


def test_genre_table_leaves_out_what_is_unknown():
    """A class without a genre, a class that is never true, a genre without videos."""
    classes = [
        ClassInfo(0, "a", ("Games",)),
        ClassInfo(1, "b", ("(Unknown)",)),
        ClassInfo(2, "c", ("Games", "Pets")),
    ]
    scores = torch.tensor([[0.9, 0.4, 0.1], [0.7, 0.8, 0.2], [0.8, 0.3, 0.6]])
    labels = torch.tensor([[True, True, False], [True, False, False], [False, True, False]])
    counts, of_genres = ClassCounts(3), MAP()
    counts.update(scores, labels)
    of_genres.update(scores[:, [0, 2]], labels[:, [0, 2]])
    stats = counts.stats(classes, of_genres)
    page = render(Leaderboard.of([Run(Path("run"), metrics={"val/gap": 0.5})], "val/gap"), stats)
    part = page[page.index("<h3>By genre") : page.index("<h3>Calibration")]
    # Each of a and Games is right at ranks 1 and 3: (1 + 2/3) / 2; b is at ranks 2 and 3: (1/2 + 2/3) / 2.
    assert re.findall(r'row">(.*?)</th>', part) == ["Games", "Pets", "(Unknown)"]
    assert re.findall(r">([\d.–]+)</td>", part) == [
        *("1", "2", "0.833", "0.833"),
        *("0", "0", "–", "–"),
        *("1", "–", "0.583", "–"),
    ]
