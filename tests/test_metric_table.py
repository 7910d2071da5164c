"""A metric is a row of the table and a class: everything else reads the table."""

import pytest
import torch
import torchmetrics

from tests.training import TINY, run_command, train
from yt8m import metrics
from yt8m.metric_table import METRICS, MetricInfo, metric_of


class MeanScore(metrics.HitAtOne):
    """A metric for this test: the mean of all scores, which a ranking does not have."""

    def update(self, scores, labels):
        self.hits = self.hits + scores.double().mean(dim=1).sum()
        self.videos = self.videos + len(scores)


class LabelsPerVideo(torchmetrics.Metric):
    """A metric for this test that knows nothing of this package."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("labels", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, labels):
        self.labels = self.labels + labels.sum()
        self.videos = self.videos + len(labels)

    def compute(self):
        return self.labels / self.videos


def test_a_new_metric_shows_up_everywhere(tmp_path, tiny_sample, monkeypatch, capsys):
    monkeypatch.setitem(
        METRICS, "mean_score", MetricInfo("mean_score", "Mean score", "min", ".2f", "MeanScore")
    )
    monkeypatch.setattr(metrics, "MeanScore", MeanScore, raising=False)
    monkeypatch.setitem(METRICS, "labels", MetricInfo("labels", "Labels", "max", ".2f", "LabelsPerVideo"))
    monkeypatch.setattr(metrics, "LabelsPerVideo", LabelsPerVideo, raising=False)
    record = train(tmp_path / "run", *TINY, *tiny_sample, "+trainer.enable_progress_bar=true")
    output = capsys.readouterr().out
    for key in ("val/mean_score", "last/val/mean_score", "test/mean_score"):
        assert 0 < record[key] < 1, key
        assert record[key] != record[key.replace("mean_score", "hit1")], key
        assert record[key.replace("mean_score", "labels")] >= 1, key
    assert f"Mean score {record['last/val/mean_score']:.2f}" in output  # the line of the validation
    (row,) = [line for line in output.splitlines() if line.startswith("Mean score ")]
    assert f"{record['test/mean_score']:.2f}" in row.split()
    run_command(
        *("eval", f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt", "trainer=cpu"),
        f"hydra.run.dir={tmp_path / 'eval'}",
    )
    assert "Mean score of genres" in capsys.readouterr().out


def test_every_row_has_a_class_and_a_direction():
    for key, row in METRICS.items():
        assert key == row.key
        assert metric_of(f"last/val/genre_{key}") is row
        if row.class_name:
            of_class = getattr(metrics, row.class_name)
            assert of_class.higher_is_better == (row.mode == "max"), key
    with pytest.raises(KeyError):
        metric_of("val/seconds")


def test_the_progress_bar_counts_epochs_as_its_lines_do(tmp_path, tiny_sample, capsys):
    train(tmp_path, *TINY, *tiny_sample, "test=false", "+trainer.enable_progress_bar=true")
    output = capsys.readouterr().out
    assert "epoch 2/2  step 14  validate: GAP" in output
    assert "epoch 2/2 ━" in output
    assert "Hit@1" in output
