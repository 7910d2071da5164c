"""Reading run folders: finished, failed, stopped, and unreadable ones."""

import pytest

from tests.report.run_folder import CONFIG, CSV, write_run
from yt8m.errors import ConfigError
from yt8m.report.runs import Point, find_runs, read_run


def test_a_finished_run(tmp_path):
    run = read_run(write_run(tmp_path / "run", metrics={"val/gap": 0.25, "model": "nn"}, logged=CSV))
    assert (run.status, run.reason, run.model) == ("finished", "", "nn")
    assert run.number("val/gap") == 0.25
    assert run.config["optimizer.lr"] == 0.01
    assert run.config["model.hidden_sizes"] == "[8, 4]"
    assert run.curves == {
        "train/loss_step": [Point(1, 0.5, 3.0), Point(3, 1.5, 2.0)],
        "val/gap": [Point(3, 2.0, 0.25)],
    }


def test_a_run_without_metrics_failed_or_is_unfinished(tmp_path):
    traceback = 'Traceback (most recent call last):\n  File "x"\nOSError: disk full\n'
    cases = {
        "message": (
            "[t][x][INFO] a\n[t][x][ERROR] dataset.root: not there\n",
            "failed",
            "dataset.root: not there",
        ),
        "traceback": (f"[t][x][ERROR] The job failed\n{traceback}", "failed", "OSError: disk full"),
        "running": ("[t][x][INFO] begins\n", "unfinished", "still running"),
        "resumed": ("[t][x][ERROR] first try\n[t][x][INFO] resumed\n", "unfinished", "still running"),
        "control characters": ("[t][x][ERROR] \x1b[2Jgone\u202e\n", "failed", "[2Jgone"),
        "no log": ("", "unfinished", "no train.log"),
    }
    for case, (log, status, reason) in cases.items():
        run = read_run(write_run(tmp_path / case, log=log))
        assert run.status == status, case
        assert reason in run.reason, case
        assert run.reason.isprintable(), case


def test_an_unreadable_file_is_reported_in_one_line(tmp_path):
    huge = "9" * 400
    cases = [
        ({"metrics": '{"val/gap": 0.2'}, "metrics.json: "),
        ({"metrics": "[1, 2]"}, "metrics.json: expected an object of names and values, found [1, 2]"),
        ({"metrics": '"text"'}, "metrics.json: expected an object of names and values"),
        ({"metrics": "[" * 100_000}, "metrics.json: "),
        ({"metrics": f'{{"val/gap": {huge}}}'}, "metrics.json: val/gap: expected a number below 1e+100"),
        ({"metrics": '{"val/gap": 1e308}'}, "metrics.json: val/gap: expected a number below 1e+100"),
        ({"metrics": f'{{"seconds": {"9" * 5000}}}'}, "metrics.json: "),
        ({"config": "model: {_target_: ["}, "config.yaml: "),
        ({"config": "- 1\n- 2\n"}, "config.yaml: expected keys and values"),
        ({"config": "model: !!python/object/apply:os.system ['true']\n"}, "config.yaml: "),
        ({"config": f"model: {{_target_: a.b, size: {'9' * 5000}}}\n"}, "config.yaml: "),
        ({"overrides": "a: [b\n"}, "overrides.yaml: "),
        ({"overrides": "- {a: b}\n"}, "overrides.yaml: expected a list of overrides"),
        ({"logged": CSV + "0,5,2.0\n0,6,2.5,1.0,\n"}, "metrics.csv @ line 5: expected 5 values"),
        ({"logged": CSV + "0,five,2.5,1.0,\n"}, "metrics.csv @ line 5: expected numbers"),
        ({"logged": "epoch,loss\n1,2\n"}, "metrics.csv @ line 1: expected a column step"),
    ]
    for number, (files, reason) in enumerate(cases):
        run = read_run(write_run(tmp_path / str(number), **{"metrics": {"val/gap": 0.25}, **files}))
        assert run.status == "unreadable", files
        assert run.reason.startswith(reason), files
        assert len(run.reason) <= 300, files
        assert run.reason.isprintable(), files
        if "metrics" not in files:
            assert run.number("val/gap") == 0.25, files


def test_a_huge_setting_or_logged_value_breaks_nothing(tmp_path):
    config = CONFIG + f"seed: {'9' * 400}\nother: 1e308\n"
    logged = CSV + "0,4,nan,1e308,\n0,5,inf,2.0,\n"
    run = read_run(write_run(tmp_path / "run", config=config, metrics={"val/gap": 0.5}, logged=logged))
    assert run.status == "finished"
    assert run.config["seed"].startswith("999")
    assert run.curves["train/loss_step"][2:] == [Point(5, None, 2.0)]


def test_overrides_are_read_as_typed(tmp_path):
    lines = "- model=nn\n- '+model.sizes={rgb: [16]}'\n- '~callbacks'\n- optimizer.lr=5e-4\n"
    run = read_run(write_run(tmp_path / "run", overrides=lines))
    assert run.overrides == {"model": "nn", "model.sizes": "{rgb: [16]}", "optimizer.lr": "5e-4"}


def test_a_configuration_that_expands_without_end_is_unreadable(tmp_path):
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 60)]
    assert read_run(write_run(tmp_path / "run", config="\n".join(lines))).status == "unreadable"


def test_a_row_that_is_still_being_written_is_ignored(tmp_path):
    run = read_run(write_run(tmp_path / "run", metrics={}, logged=CSV + "0,7,2."))
    assert run.status == "finished"
    assert [point.step for point in run.curves["train/loss_step"]] == [1, 3]


def test_a_resumed_runs_log_replaces_what_it_repeats(tmp_path):
    folder = write_run(tmp_path / "run", metrics={}, logged=CSV + "1,9,5.0,1.0,\n")
    for version, row in ((10, "1,6,3.5,1.2,\n"), (2, "1,5,3.0,1.5,\n1,6,3.4,1.4,\n")):
        (folder / "csv" / f"version_{version}").mkdir()
        path = folder / "csv" / f"version_{version}" / "metrics.csv"
        path.write_text(f"epoch,step,seconds,train/loss_step,val/gap\n{row}")
    curve = read_run(folder).curves["train/loss_step"]
    assert [(point.step, point.value) for point in curve] == [(1, 3.0), (3, 2.0), (5, 1.5), (6, 1.2)]


def test_values_that_are_no_numbers_are_none(tmp_path):
    metrics = '{"a": "0.5", "b": NaN, "c": null, "d": true, "e": Infinity, "f": 3}'
    run = read_run(write_run(tmp_path / "run", metrics=metrics))
    assert [run.number(key) for key in "abcdefg"] == [None] * 5 + [3, None]


def test_runs_are_found_once_at_any_depth_and_named_from_their_common_folder(tmp_path):
    write_run(tmp_path / "sweep" / "0_lr=1,x=[2]", metrics={})
    write_run(tmp_path / "sweep" / "1", metrics={})
    write_run(tmp_path / "single" / "deep", metrics={})
    write_run(tmp_path / "sweep" / "eval", config="ckpt_path: best.ckpt\nsplit: validate\n", metrics={})
    runs = find_runs([tmp_path, tmp_path / "sweep", tmp_path / "single" / "deep"])
    assert [run.name for run in runs] == ["single/deep", "sweep/0_lr=1,x=[2]", "sweep/1"]


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^runs: expected a folder of runs, found none at .*absent$"):
        find_runs([tmp_path / "absent"])
    with pytest.raises(ConfigError, match=r"^runs: expected runs of yt8m.train in or below"):
        find_runs([tmp_path])
    write_run(tmp_path / "eval", config="ckpt_path: best.ckpt\n")
    with pytest.raises(ConfigError, match="found 1 folders of other commands"):
        find_runs([tmp_path])
