"""Labels of runs."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from yt8m.report.run_labels import label_runs
from yt8m.report.runs import Run


def labels(*runs: tuple[dict, dict]) -> list[str]:
    """Labels of runs with (overrides, configuration)."""
    made = [Run(Path(f"r{n}"), name=f"r{n}", overrides=o, config=c) for n, (o, c) in enumerate(runs)]
    label_runs(made)
    return [run.label for run in made]


def config(model: str = "nn", **values: object) -> dict[str, object]:
    base = {"model._target_": f"yt8m.models.{model}.{model.upper()}", "optimizer.lr": 0.001, "seed": 0}
    return base | {key.replace("__", "."): value for key, value in values.items()}


def test_a_sweep_is_labeled_by_what_it_varies():
    runs = [
        (
            {"model": model, "optimizer.lr": lr, "dataset.num_workers": "4"},
            config(model, optimizer__lr=float(lr)),
        )
        for model in ("nn", "bi_lstm")
        for lr in ("5e-4", "0.002")
    ]
    assert labels(*runs) == ["nn lr=0.0005", "nn lr=0.002", "bi_lstm lr=0.0005", "bi_lstm lr=0.002"]
    assert labels(*runs[:2]) == ["lr=0.0005", "lr=0.002"]


def test_a_run_without_the_override_shows_the_default_or_nothing():
    default = ({}, config(dataset__limit_videos=None))
    changed = ({"optimizer.lr": "0.01"}, config(optimizer__lr=0.01, dataset__limit_videos=None))
    assert labels(default, changed) == ["lr=0.001", "lr=0.01"]
    limited = ({"dataset.limit_videos": "100"}, config(dataset__limit_videos=100))
    assert labels(default, limited) == ["nn", "limit_videos=100"]


def test_a_group_that_is_empty_is_not_shown():
    none = ({"scheduler": "none"}, config(scheduler="{}"))
    cosine = ({"scheduler": "cosine"}, config(**{"scheduler._target_": "yt8m.schedulers.Cosine"}))
    assert labels(none, cosine) == ["nn", "scheduler=Cosine"]


def test_settings_that_change_together_are_named_once():
    runs = [
        ({"experiment": f"small/{m}", "seed": s}, config(m, seed=int(s)))
        for m, s in (("nn", "1"), ("bi", "2"))
    ]
    assert labels(*runs) == ["nn", "bi"]


def test_equal_last_names_are_spelled_out():
    runs = [
        ({"optimizer.lr": a, "scheduler.lr": b}, config(optimizer__lr=float(a), scheduler__lr=float(b)))
        for a, b in (("1", "2"), ("1", "3"), ("4", "3"))
    ]
    assert labels(*runs)[0] == "optimizer.lr=1 scheduler.lr=2"


def test_groups_and_configuration_tell_apart_what_no_override_does():
    sgd = ({"optimizer": "sgd"}, config(optimizer___target_="torch.optim.SGD"))
    adam = ({}, config(optimizer___target_="torch.optim.Adam"))
    assert labels(sgd, adam) == ["optimizer=SGD", "optimizer=Adam"]
    assert labels(({}, config(seed=1)), ({}, config(seed=2))) == ["seed=1", "seed=2"]
    assert labels(({}, config()), ({}, config())) == ["nn (r0)", "nn (r1)"]


@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.sampled_from(["a.x", "b.x", "model", "n"]), st.sampled_from(["1", "2", "", "null"])
            ),
            st.dictionaries(
                st.sampled_from(["a.x", "b.x", "c", "model._target_"]), st.sampled_from([1, 2.5, None, "y"])
            ),
        ),
        max_size=8,
    )
)
def test_no_two_labels_are_equal_and_none_says_none(runs):
    made = labels(*runs)
    assert len(set(made)) == len(runs)
    assert not any("None" in label or "null" in label for label in made)
