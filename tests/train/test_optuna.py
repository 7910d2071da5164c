"""A search with Optuna: continues from its SQLite file, survives failures, ends hopeless trials early.

Runs with the released sweeper (Optuna 2) and with the one of constraints-optuna5.txt.
"""

import json

import pytest
import yaml

from tests.training import TINY, run_command

optuna = pytest.importorskip("optuna", reason="needs the extra `search`")
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `search`")

STUDY = "nn_stream_lstm_sample"


@pytest.fixture
def search(tmp_path, tiny_sample):
    """Run the command on a storage of the test's own; the study and the folder of the jobs."""
    tiny = [override for override in TINY if not override.startswith("dataset.batch_size")]

    def run(name, *overrides):
        storage = f"sqlite:///{tmp_path / 'search.db'}"
        run_command(
            *("train", "-m", "hparams_search=optuna", f"hydra.sweeper.storage={storage}"),
            *(f"hydra.sweep.dir={tmp_path / name}", *tiny, *tiny_sample, *overrides),
        )
        return optuna.load_study(study_name=STUDY, storage=storage), tmp_path / name

    run.storage = f"sqlite:///{tmp_path / 'search.db'}"
    return run


def test_a_search_stops_and_continues(search):
    fixed = ("trainer.max_epochs=1", "dataset.batch_size=choice(16,32)")
    first, folder = search("first", "hydra.sweeper.n_trials=2", *fixed)
    before = [trial.value for trial in first.trials]
    assert first.direction == optuna.study.StudyDirection.MAXIMIZE
    study, resumed = search("resumed", "hydra.sweeper.n_trials=1", *fixed)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert [trial.value for trial in study.trials[:2]] == before
    runs = [*sorted(folder.glob("[01]_*")), *resumed.glob("0_*")]
    for trial, run in zip(study.trials, runs, strict=True):
        metrics = json.loads((run / "metrics.json").read_text())
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.value == metrics["val/gap"]
        assert trial.params == {"optimizer.lr": metrics["lr"], "dataset.batch_size": metrics["batch_size"]}
        assert trial.intermediate_values == {1: metrics["last/val/gap"]}
        assert not any(key.startswith("test/") for key in metrics)
    best = yaml.safe_load((resumed / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(trial.value for trial in study.trials)


def test_the_direction_of_the_search_is_that_of_the_metric():
    from hydra import compose, initialize_config_dir

    from yt8m.config import CONFIG_DIR

    for metric, direction in (("val/loss", "minimize"), ("val/gap", "maximize")):
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            config = compose(
                "train",
                overrides=["hparams_search=optuna", f"optimized_metric={metric}", "output_dir=x"],
                return_hydra_config=True,
            )
        assert config.hydra.sweeper.direction == direction
        assert config.callbacks.best.mode == direction[:3]


def trials_that_reached(storage, *values):
    """A study whose five finished trials logged `values`, one after each validation."""
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize")
    for _ in range(5):
        trial = study.ask()
        trial.suggest_categorical("dataset.batch_size", (16, 32))
        for validation, value in enumerate(values, start=1):
            trial.report(value, validation)
        study.tell(trial, values[-1])


@pytest.mark.parametrize(("others", "epochs"), [(0.9, 3), (0.0, 5)])
def test_a_trial_behind_the_median_ends_early(search, others, epochs):
    trials_that_reached(search.storage, *[others] * 5)
    study, folder = search(
        *("one", "hydra.sweeper.n_trials=1", "trainer.max_epochs=5"),
        *("optimizer.lr=1e-9", "dataset.batch_size=choice(16,32)"),
    )
    trial = study.trials[-1]
    (run,) = folder.glob("0_*")
    # The third validation is the first that may be the last.
    assert json.loads((run / "metrics.json").read_text())["epochs"] == epochs
    assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
    assert trial.user_attrs.get("pruned_after") == (3 if epochs == 3 else None)
    assert trial.value == max(trial.intermediate_values.values())


def test_a_failed_trial_is_recorded_and_the_search_continues(search):
    study, folder = search(
        *("mixed", "hydra.sweeper.n_trials=4", "hydra/sweeper/sampler=grid", "trainer.max_epochs=1"),
        *("optimizer.lr=choice(0.001,-1.0)", "dataset.batch_size=16"),
    )
    states = {trial.params["optimizer.lr"]: trial.state.name for trial in study.trials}
    assert states == {0.001: "COMPLETE", -1.0: "FAIL"}
    failed, *_ = folder.glob("*lr=-1.0*")  # Optuna 5 may try a point of the grid again
    assert "-1.0" in (failed / "train.log").read_text()


def test_a_search_whose_trials_all_fail_ends_in_one_line(search, capfd):
    with pytest.raises(SystemExit) as ended:
        search(
            *("failed", "hydra.sweeper.n_trials=2", "trainer.max_epochs=1"),
            *("optimizer.lr=choice(-1.0,-2.0)", "dataset.batch_size=16"),
        )
    assert ended.value.code == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith(
        "error: hparams_search: expected one trial or more to succeed, all failed"
    )


def test_pruning_outside_a_search_says_so(tmp_path, tiny_sample, capsys):
    with pytest.raises(SystemExit):
        run_command(
            *("train", "hparams_search=optuna", f"hydra.run.dir={tmp_path / 'run'}"),
            *(
                f"hydra.sweeper.storage=sqlite:///{tmp_path / 'search.db'}",
                "study_name=none",
                *TINY,
                *tiny_sample,
            ),
        )
    assert "start the search with -m" in (tmp_path / "run" / "train.log").read_text()
