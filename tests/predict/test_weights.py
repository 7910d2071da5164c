"""weights=fit: the weights that minimize the cross-entropy, by an independent search; the same in predict and eval."""

import json

import numpy as np
import pytest
import torch

from tests.predict.test_predict import changed
from tests.training import run_command
from yt8m.predict.weights import CrossEntropyOfMean

VIDEOS, CLASSES = 300, 60


def made_up(count, rare=-6.0):
    """Scores float32 [K, N, C] of classifiers of falling quality, labels and a mask bool [N, C]."""
    rng = np.random.default_rng(3)
    truth = rng.random((VIDEOS, CLASSES)) < 0.05
    logits = (
        rare + 7 * truth + rng.normal(size=(count, *truth.shape)) * np.arange(1, count + 1)[:, None, None]
    )
    scores = torch.from_numpy(1 / (1 + np.exp(-logits))).float()
    return scores, torch.from_numpy(truth), torch.from_numpy(rng.random(truth.shape) < 0.8)


def cross_entropy(weights, scores, labels, mask):
    """Per video, over all pairs, in float64."""
    mean = np.tensordot(weights, scores.double().numpy(), 1)
    truth = labels.numpy()
    pairs = np.where(truth, np.log(mean), np.log1p(-mean))
    return -(pairs * mask.numpy()).sum() / len(truth)


@pytest.mark.parametrize("masked", [False, True])
def test_the_weights_minimize_the_cross_entropy_of_all_pairs(masked):
    for count in (2, 3):
        scores, labels, rated = made_up(count)
        mask = rated if masked else torch.ones_like(labels)
        metric = CrossEntropyOfMean(count)
        for part in torch.arange(VIDEOS).split(70):
            metric.update(scores[:, part], labels[part], mask[part] if masked else None)
        weights, losses = metric.compute()
        assert weights.sum() == pytest.approx(1)
        grid = np.stack(np.meshgrid(*[np.linspace(0.0, 1, 41)] * (count - 1)), -1).reshape(-1, count - 1)
        grid = np.c_[grid, 1 - grid.sum(1)]
        found = [cross_entropy(one, scores, labels, mask) for one in grid[grid[:, -1] >= 0]]
        fitted = cross_entropy(weights.numpy(), scores, labels, mask)
        assert fitted <= min(found) + 1e-4
        assert fitted < cross_entropy(np.full(count, 1 / count), scores, labels, mask) - 0.01
        assert losses["fitted"] == pytest.approx(fitted, rel=1e-3)
        kept = sum(len(part) for part in metric.scores)
        assert kept < VIDEOS * (20 + CLASSES * 0.05 * 1.5)


def test_a_useless_classifier_gets_no_weight_and_a_saturated_one_no_infinite_loss():
    scores, labels, _ = made_up(1)
    metric = CrossEntropyOfMean(2)
    metric.update(torch.stack([scores[0], (~labels).float()]), labels)
    weights, losses = metric.compute()
    assert weights[1] < 1e-4
    assert np.isfinite([*losses.values()]).all()


@pytest.fixture
def two(tiny_run, tmp_path):
    """A checkpoint, and one whose classifier is shifted at random."""
    first = tiny_run / "checkpoints" / "best.ckpt"

    def shift(content):
        noise = torch.randn(40, generator=torch.Generator().manual_seed(0))
        content["state_dict"]["model.classifier.bias"] += noise

    return first, changed(first, tmp_path / "other.ckpt", shift)


def test_fitted_weights_are_written_beside_the_predictions_and_those_of_eval(two, tmp_path, monkeypatch):
    both = f"ckpt_path=[{two[0]},{two[1]}]"
    common = [both, "trainer=cpu", "dataset.batch_size=7"]
    output = tmp_path / "out.csv"
    run_command("predict", *common, "weights=fit", f"output={output}", f"hydra.run.dir={tmp_path / 'p'}")
    record = json.loads((tmp_path / "out.csv.weights.json").read_text())
    assert record["ckpt_path"] == [str(path) for path in two]
    assert record["fit_on"] == "validate"
    assert record["fit_loss_fitted"] < record["fit_loss_equal"]
    given = f"weights=[{','.join(map(str, record['weights']))}]"
    again = tmp_path / "again.csv"
    run_command("predict", *common, given, f"output={again}", f"hydra.run.dir={tmp_path / 'q'}")
    assert output.read_text() == again.read_text()

    def evaluate(name, *overrides):
        folder = tmp_path / name
        run_command("eval", *overrides, "trainer=cpu", "dataset.batch_size=7", f"hydra.run.dir={folder}")
        return json.loads((folder / "metrics.json").read_text())

    monkeypatch.setattr(
        "yt8m.eval.evaluate.is_installed", lambda package: False
    )  # no pictures, which take seconds
    fitted = evaluate("fitted", both, "weights=fit")
    assert "scores are optimistic" in (tmp_path / "fitted" / "eval.log").read_text()
    assert fitted["weights"] == record["weights"]
    assert (tmp_path / "fitted" / "genres.csv").is_file()
    alone = evaluate("alone", f"ckpt_path={two[1]}")
    assert fitted["members"][1] == {
        "ckpt_path": str(two[1]),
        "weight": record["weights"][1],
        "val/gap": pytest.approx(alone["val/gap"], abs=1e-6),
    }
    equal = evaluate("equal", both, "fit_on=train")
    assert equal["weights"] == [0.5, 0.5]
    assert fitted["equal/val/gap"] == equal["val/gap"] == equal["equal/val/gap"]


def test_weights_that_do_not_fit_the_checkpoints_are_refused(two, tmp_path, capsys):
    for command, checkpoints, weights, says in [
        ("eval", f"{two[0]}", "fit", "weights: expected two checkpoints or more to fit, found 1"),
        (
            *("predict", f"[{two[0]},{two[1]}]", "best"),
            "weights: expected positive numbers, one per checkpoint, or fit, found",
        ),
        ("eval", f"[{two[0]},{two[1]}]", "[1]", "weights: expected 2 positive numbers"),
    ]:
        with pytest.raises(SystemExit) as ended:
            run_command(
                *(command, f"ckpt_path={checkpoints}", f"weights={weights}", "trainer=cpu"),
                f"hydra.run.dir={tmp_path / 'wrong'}",
            )
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
