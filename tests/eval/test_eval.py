"""The files of eval: the run's metrics, and results per class and genre that agree with them."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.training import run_command
from yt8m.eval.per_class import TopKPredictions, draw_curves, write_classes
from yt8m.labels import ClassInfo, Genres


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_run):
    """Folder of an evaluation of the small run, and its metrics.json."""
    folder = tmp_path_factory.mktemp("eval")
    run_command(
        "eval", f"ckpt_path={tiny_run}/checkpoints/best.ckpt", f"hydra.run.dir={folder}", "trainer=cpu"
    )
    return folder, json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def scored(tiny_run, tiny_sample):
    """Scores float64 [B, C] and labels bool [B, C] of the validate partition, and the classifier."""
    from yt8m.restore import restore

    _, classifier, datamodule = restore(f"{tiny_run}/checkpoints/best.ckpt", tiny_run, {})
    datamodule.setup("validate")
    classifier.eval()
    with torch.no_grad():
        batches = list(datamodule.val_dataloader())
        scores = torch.cat([classifier.predict_step(batch, 0) for batch in batches])
        labels = torch.cat([classifier.labels(batch) for batch in batches])
    return scores.double().numpy(), labels.numpy(), classifier


def naive_average_precision(scores, labels, survives):
    """Of one class over all videos, by the definition; scores are distinct."""
    hits = seen = total = 0
    for video in np.argsort(-scores):
        if survives[video]:
            seen += 1
            if labels[video]:
                hits += 1
                total += hits / seen
    return total / labels.sum()


def in_top_20(scores):
    rank = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return rank < 20


def test_class_results_follow_the_definition(evaluated, scored, tiny_sample):
    folder, record = evaluated
    scores, labels, _ = scored
    rows = table(folder / "classes.csv")
    vocabulary = {row["Index"]: row for row in table(_root(tiny_sample) / "vocabulary.csv")}
    assert [row["class"] for row in rows] == [str(i) for i in range(40)]
    survives = in_top_20(scores)
    precisions = []
    for index, row in enumerate(rows):
        assert row["name"] == vocabulary[str(index)]["Name"]
        assert row["verticals"] == vocabulary[str(index)]["Vertical1"]
        assert int(row["positives"]) == labels[:, index].sum()
        if labels[:, index].any():
            expected = naive_average_precision(scores[:, index], labels[:, index], survives[:, index])
            assert float(row["ap_top20"]) == pytest.approx(expected, abs=1e-6)
            precisions.append(expected)
        else:
            assert row["ap_top20"] == ""
    assert record["val/map"] == pytest.approx(np.mean(precisions), abs=1e-6)


def test_genre_results_group_the_classes_and_score_the_genre_itself(evaluated, scored):
    folder, record = evaluated
    scores, labels, classifier = scored
    verticals = [info.verticals for info in classifier.classes()]
    genres = Genres(verticals)
    genre_scores = genres.of_scores(torch.from_numpy(scores).float()).numpy()
    rows = table(folder / "genres.csv")
    assert [row["genre"] for row in rows] == genres.names
    aps = [row["ap_top20"] for row in table(folder / "classes.csv")]
    own = []
    for column, row in enumerate(rows):
        members = [index for index, names in enumerate(verticals) if row["genre"] in names]
        of_members = [float(aps[index]) for index in members if aps[index]]
        assert int(row["classes"]) == len(of_members)
        assert float(row["mean_ap_top20"]) == pytest.approx(np.mean(of_members), abs=1e-5)
        truth = labels[:, members].any(axis=1)
        assert int(row["videos"]) == truth.sum()
        own.append(naive_average_precision(genre_scores[:, column], truth, np.ones(len(truth), bool)))
        assert float(row["genre_ap_top20"]) == pytest.approx(own[-1], abs=1e-5)
    assert record["val/genre_map"] == pytest.approx(np.mean(own), abs=1e-5)
    assert record["val/videos_without_genre"] == 0


def test_pictures_are_drawn(evaluated):
    folder, _ = evaluated
    for which in ("best", "median", "worst"):
        content = (folder / f"precision_recall_{which}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


def test_the_area_under_a_curve_is_the_average_precision():
    rng = np.random.default_rng(1)
    scores, hits = rng.random(60, dtype=np.float32), rng.random(60) < 0.3
    classes = rng.integers(0, 3, 60)
    positives = np.bincount(classes[hits], minlength=3) + 2  # two that no pair has
    pairs = TopKPredictions(*map(torch.from_numpy, (scores, classes, hits, positives)))
    for index, ap in enumerate(pairs.average_precisions()):
        recall, precision = pairs.curve(index)
        assert np.sum(np.diff(recall, prepend=0) * precision) == pytest.approx(ap)
        assert (np.diff(recall) > 0).all()


def test_equal_scores_are_one_point_of_the_curve():
    pairs = TopKPredictions(
        torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1]),
        torch.zeros(5, dtype=torch.int32),
        torch.tensor([True, False, True, True, False]),
        torch.tensor([4]),
    )
    recall, precision = pairs.curve(0)
    assert recall.tolist() == [0.25, 0.75]
    assert precision.tolist() == [1.0, 0.75]


def test_curves_of_classes_without_any_pair_or_any_positive(tmp_path):
    empty = torch.empty(0)
    pairs = TopKPredictions(empty, empty.int(), empty.bool(), torch.tensor([3, 0]))
    classes = [ClassInfo(0, '$x$, the "unseen"'), ClassInfo(1, "never true")]
    draw_curves(tmp_path, classes, pairs)
    write_classes(tmp_path / "classes.csv", classes, pairs)
    rows = table(tmp_path / "classes.csv")
    assert [(row["name"], row["positives"], row["ap_top20"]) for row in rows] == [
        ('$x$, the "unseen"', "3", "0.000000"),
        ("never true", "0", ""),
    ]
    assert (
        draw_curves(
            tmp_path, classes, TopKPredictions(*(pairs.scores, pairs.classes, pairs.hits, torch.zeros(2)))
        )
        == []
    )


def test_a_picture_of_classes_with_ap_0_names_them(tmp_path):
    """Blank otherwise: such a class has no point where recall rises."""
    from PIL import Image

    positives = torch.tensor([12, 30, 11, 15, 20])
    pairs = TopKPredictions(torch.rand(5), torch.arange(5), torch.zeros(5, dtype=torch.bool), positives)
    classes = [ClassInfo(index, f"class {index}") for index in range(5)]
    paths = draw_curves(tmp_path, classes, pairs)
    draw_curves(tmp_path, [], TopKPredictions(*(tensor[:0] for tensor in vars(pairs).values())))
    for path in paths:
        with Image.open(path) as image:
            dark = np.asarray(image.convert("L"))[100:-100, 150:-100] < 100  # inside the axes
        assert dark.mean() > 0.002, path


def test_without_matplotlib_there_are_metrics_but_no_pictures(tiny_run, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("yt8m.eval.evaluate.is_installed", lambda package: False)
    run_command(
        "eval", f"ckpt_path={tiny_run}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}", "trainer=cpu"
    )
    assert "pip install 'yt8m[plots]'" in capfd.readouterr().err
    assert (tmp_path / "classes.csv").is_file()
    assert not list(tmp_path.glob("*.png"))


def _root(tiny_sample):
    from pathlib import Path

    return Path(tiny_sample[0].removeprefix("dataset.root="))
