"""Which hyperparameters differ, and their importance, against a regression in NumPy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yt8m.report.hyperparameters import importance, varied
from yt8m.report.runs import Run


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


def test_importance_bins_many_numbers_and_is_none_without_evidence():
    values = [float(n) for n in range(40)]
    assert importance(values, [float(v >= 20) for v in values]) == pytest.approx(1)
    assert importance(["a", "b", "c"], [1.0, 2.0, 3.0]) is None
    assert importance(["a", "a", "b"], [1.0, 1.0, 1.0]) is None


def test_hyperparameters_that_change_together_are_one():
    runs = [
        Run(
            Path(str(n)),
            config={
                "model._target_": f"yt8m.models.{m}.{m.upper()}",
                "dataset.size": s,
                "optimizer.lr": lr,
                "seed": 0,
                "output_dir": str(n),
            },
            metrics={"val/gap": gap},
        )
        for n, (m, s, lr, gap) in enumerate(
            [("a", 1, 0.1, 0.1), ("a", 1, 0.2, 0.2), ("b", 2, 0.1, 0.8), ("b", 2, 0.2, 0.9)]
        )
    ]
    model, lr = varied(runs, "val/gap")
    assert (model.key, model.values, model.together) == ("model", ["A", "A", "B", "B"], ["dataset.size"])
    assert (lr.key, lr.values, lr.together) == ("optimizer.lr", [0.1, 0.2, 0.1, 0.2], [])
    assert model.importance > 0.9 > 0.1 > lr.importance


def test_the_default_widths_of_two_networks_are_no_choice():
    """Two networks have different settings by nature; only what differs between runs of one network was chosen."""
    networks = {
        "NN": {"model.hidden_sizes": "[8192]", "model.dropout": 0.5},
        "BiLSTM": {"model.hidden_size": 2096},
    }
    made = [
        Run(
            Path(f"{name}{rate}"),
            name=f"{name}{rate}",
            config={"model._target_": name, **settings, "optimizer.lr": rate},
            metrics={"val/gap": rate},
        )
        for name, settings in networks.items()
        for rate in (0.1, 0.2)
    ]
    assert {one.key for one in varied(made, "val/gap")} == {"model", "optimizer.lr"}
    made[0].config["model.dropout"] = 0.1
    assert {one.key for one in varied(made, "val/gap")} == {"model", "optimizer.lr", "model.dropout"}
