"""The report's own arithmetic against loops and NumPy: ranking, importance, classes, axes."""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from yt8m.labels import ClassInfo
from yt8m.metrics import MAP
from yt8m.report.charts import Axis
from yt8m.report.hyperparameters import importance, varied
from yt8m.report.leaderboard import Leaderboard
from yt8m.report.page import render
from yt8m.report.per_class import CONFUSED, ClassCounts
from yt8m.report.runs import Run


def run(name="run", config=None, **metrics):
    return Run(
        Path(name),
        name=name,
        config=config or {},
        metrics={k.replace("_", "/"): v for k, v in metrics.items()},
    )


@pytest.mark.parametrize(("metric", "order"), [("val/gap", "bca"), ("val/loss", "acb")])
def test_the_leaderboard_puts_the_best_first(metric, order):
    runs = [
        run("a", val_gap=0.1, val_loss=1.0),
        run("b", val_gap=0.3, val_loss=3.0),
        run("c", val_gap=0.2, val_loss=2.0),
    ]
    board = Leaderboard.of([*runs, run("d")], metric)
    assert "".join(one.name for one in board.ranked) == order
    assert [(one.name, one.reason) for one in board.others] == [("d", f"metrics.json has no {metric}")]


def test_csv_and_markdown_hold_every_run_and_escape_names():
    evil = run("=cmd|' /C calc'!A1 <b>*", val_gap=0.5, params=12)
    failed = Run(Path("f"), name="f", status="failed", reason="a | b\nc")
    board = Leaderboard.of([evil, failed], "val/gap")
    rows = list(csv.DictReader(io.StringIO(board.csv())))
    assert [(row["Rank"], row["Status"], row["GAP"], row["Parameters"]) for row in rows] == [
        ("1", "finished", "0.5", "12"),
        ("", "failed", "", ""),
    ]
    assert rows[0]["Run"].startswith("'=cmd")
    assert r"=cmd\|' /C calc'!A1 \<b\>\*" in board.markdown()
    assert r"a \| b c" in board.markdown()


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminals_table_is_whole_at_its_width(width):
    runs = [
        run(
            "r",
            {"model._target_": "yt8m.models.keras_nn_stream_lstm.X"},
            val_gap=0.5,
            params=228186118,
            lr=0.00045,
        )
    ]
    console = Console(width=width, file=io.StringIO(), color_system=None)
    Leaderboard.of(runs, "val/gap").print(console)
    text = console.file.getvalue()
    assert all(
        word in text
        for word in ("keras_nn_stream_lstm", "0.5000", "228,186,118", "0.00045", "Accuracy", "Memory")
    )
    assert max(map(len, text.splitlines())) <= width


def test_scores_on_different_data_are_warned_of():
    same = [run("a", {"dataset.root": "x"}, val_gap=0.1), run("b", {"dataset.root": "x"}, val_gap=0.2)]
    assert Leaderboard.of(same, "val/gap").warnings() == []
    other = [*same, run("c", {"dataset.root": "y"}, val_gap=0.3)]
    assert "Their scores do not compare" in Leaderboard.of(other, "val/gap").warnings()[0]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1, width=16)), min_size=5, max_size=30).filter(
        lambda rows: len({score for _, score in rows}) > 1 and len({value for value, _ in rows}) > 1
    )
)
def test_importance_is_the_adjusted_r_squared_of_a_regression_on_the_groups(rows):
    values, scores = [value for value, _ in rows], np.array([score for _, score in rows])
    distinct = sorted(set(values))
    design = np.array([[value == one for one in distinct] for value in values], dtype=float)
    residual = scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    r_squared = 1 - residual @ residual / np.sum((scores - scores.mean()) ** 2)
    n, k = design.shape
    assert importance(values, scores.tolist()) == pytest.approx(
        max(0, 1 - (1 - r_squared) * (n - 1) / (n - k)), abs=1e-9
    )


def test_importance_bins_many_numbers_and_knows_when_it_cannot_tell():
    values = [float(n) for n in range(40)]
    assert importance(values, [float(v >= 20) for v in values]) == pytest.approx(1)
    assert importance(["a", "b", "c"], [1.0, 2.0, 3.0]) is None
    assert importance(["a", "a", "b"], [1.0, 1.0, 1.0]) is None


def test_hyperparameters_that_change_together_are_one():
    runs = [
        run(
            str(n),
            {
                "model._target_": f"yt8m.models.{m}.{m.upper()}",
                "model.size": s,
                "optimizer.lr": lr,
                "seed": 0,
                "output_dir": str(n),
            },
            val_gap=gap,
        )
        for n, (m, s, lr, gap) in enumerate(
            [("a", 1, 0.1, 0.1), ("a", 1, 0.2, 0.2), ("b", 2, 0.1, 0.8), ("b", 2, 0.2, 0.9)]
        )
    ]
    model, lr = varied(runs, "val/gap")
    assert (model.key, model.values, model.together) == ("model", ["A", "A", "B", "B"], ["model.size"])
    assert (lr.key, lr.values, lr.together) == ("optimizer.lr", [0.1, 0.2, 0.1, 0.2], [])
    assert model.importance > 0.9 > 0.1 > lr.importance


@pytest.mark.parametrize("masked", [False, True])
def test_figures_of_classes_equal_those_of_loops(masked):
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
    figures = counts.figures([ClassInfo(n, f"c{n}") for n in range(classes)])

    labels &= rated
    assert figures.videos == videos
    assert {c.name: c.positives for c in figures.classes} == {
        f"c{n}": labels[:, n].sum() for n in range(classes) if labels[:, n].any()
    }
    assert "c3" not in {c.name for c in figures.classes}
    assert not {c.name for c in figures.best()} & {c.name for c in figures.worst()}
    precision = [c.average_precision for c in figures.classes]
    assert precision == sorted(precision, reverse=True)
    assert [c.average_precision for c in figures.worst()] == precision[: len(figures.best()) - 1 : -1][:20]

    for one in figures.calibration:
        bin_ = int(one.score * 10)
        inside = rated & (scores >= bin_ / 10) & (scores < (bin_ + 1) / 10)
        assert one.count == inside.sum()
        assert one.hit_rate == pytest.approx(labels[inside].mean())
        assert one.score == pytest.approx(scores[inside].mean(), rel=1e-5)

    frequent = sorted(range(classes), key=lambda n: -labels[:, n].sum())[:CONFUSED]
    assert figures.confused == [f"c{n}" for n in frequent]
    predicted = np.zeros_like(labels)
    for video in range(videos):
        ranked = sorted(np.flatnonzero(rated[video]), key=lambda n: -scores[video, n])
        predicted[video, ranked[: labels[video].sum()]] = True
    for row, i in enumerate(frequent):
        for column, j in enumerate(frequent):
            of = labels[:, i] & (labels[:, j] if i == j else ~labels[:, j])
            assert figures.confusion[row][column] == pytest.approx(predicted[of, j].mean())
            assert figures.cooccurrence[row][column] == pytest.approx(labels[labels[:, i], j].mean())


def test_a_genre_shows_what_is_known_of_it():
    """A class without a genre and one never true; a genre without videos."""
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
    figures = counts.figures(classes, of_genres)
    page = render(Leaderboard.of([run(val_gap=0.5)], "val/gap"), figures)
    part = page[page.index("<h3>By genre") : page.index("<h3>Calibration")]
    # Each of a and Games is right at ranks 1 and 3: (1 + 2/3) / 2; b is at ranks 2 and 3: (1/2 + 2/3) / 2.
    assert re.findall(r'row">(.*?)</th>', part) == ["Games", "Pets", "(Unknown)"]
    assert re.findall(r">([\d.–]+)</td>", part) == [
        *("1", "2", "0.833", "0.833"),
        *("0", "0", "–", "–"),
        *("1", "–", "0.583", "–"),
    ]


@given(st.lists(st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-6), min_size=1, max_size=5))
def test_an_axis_keeps_values_and_ticks_inside(values):
    axis = Axis(values, 100, 20)
    assert all(20 - 1e-6 <= axis(value) <= 100 + 1e-6 for value in values)
    assert 2 <= len(axis.ticks()) <= 7
    assert all(20 - 1e-3 <= axis(tick) <= 100 + 1e-3 for tick in axis.ticks())


def test_a_logarithmic_axis_gives_decades_equal_room():
    axis = Axis([1e-4, 1e-2], 0, 2, log=True)
    assert axis(1e-3) == pytest.approx(1)
    assert math.isclose(axis(1e-2), 2)
