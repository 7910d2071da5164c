"""Run folders as the report reads them, whole, failed, stopped and damaged."""

import json
from pathlib import Path

import pytest

from yt8m.errors import ConfigError
from yt8m.report.runs import Point, find_runs, read_run

CONFIG = """\
model: {_target_: yt8m.models.nn.NN, hidden_sizes: [8, 4]}
optimizer: {_target_: torch.optim.Adam, lr: 0.01}
"""
CSV = "epoch,step,seconds,train/loss_step,val/gap\n0,1,0.5,3.0,\n0,3,1.5,2.0,\n0,3,2.0,,0.25\n"


def write_run(
    folder: Path,
    config: str = CONFIG,
    metrics: dict | str | None = None,
    log: str = "",
    logged: str = "",
) -> Path:
    """A run folder by hand; `metrics` as figures, or as the file's text."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(config)
    if metrics is not None:
        text = metrics if isinstance(metrics, str) else json.dumps(metrics)
        (folder / "metrics.json").write_text(text)
    if log:
        (folder / "train.log").write_text(log)
    if logged:
        (folder / "csv" / "version_0").mkdir(parents=True)
        (folder / "csv" / "version_0" / "metrics.csv").write_text(logged)
    return folder


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


@pytest.mark.parametrize(
    ("log", "status", "reason"),
    [
        (
            "[t][x][INFO] begins\n[t][x][ERROR] dataset.root: not there\n",
            "failed",
            "dataset.root: not there",
        ),
        (
            '[t][x][ERROR] The job failed\nTraceback (most recent call last):\n  File "x"\nOSError: disk full\n',
            "failed",
            "OSError: disk full",
        ),
        ("[t][x][INFO] begins\n", "unfinished", "still at work"),
        ("[t][x][ERROR] first try\n[t][x][INFO] goes on\n", "unfinished", "still at work"),
        ("[t][x][ERROR] \x1b[2Jgone\u202e\n", "failed", "[2Jgone"),
        ("", "unfinished", "no train.log"),
    ],
    ids=["message", "traceback", "at work", "resumed", "control characters", "no log"],
)
def test_a_run_without_metrics_failed_or_is_unfinished(tmp_path, log, status, reason):
    run = read_run(write_run(tmp_path / "run", log=log))
    assert run.status == status
    assert reason in run.reason
    assert run.reason.isprintable()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"metrics": '{"val/gap": 0.2'}, "metrics.json: "),
        ({"metrics": "[1, 2]"}, "metrics.json: expected figures by name"),
        ({"metrics": "[" * 100_000}, "metrics.json: "),
        ({"config": "model: {_target_: ["}, "config.yaml: "),
        ({"config": "- 1\n- 2\n"}, "config.yaml: expected keys and values"),
        ({"config": "model: !!python/object/apply:os.system ['true']\n"}, "config.yaml: "),
        ({"logged": CSV + "0,5,2.0\n0,6,2.5,1.0,\n"}, "metrics.csv @ line 5: expected 5 values"),
        ({"logged": CSV + "0,five,2.5,1.0,\n"}, "metrics.csv @ line 5: expected numbers"),
        ({"logged": "epoch,loss\n1,2\n"}, "metrics.csv @ line 1: expected a column step"),
    ],
)
def test_a_damaged_file_is_told_of(tmp_path, files, reason):
    run = read_run(write_run(tmp_path / "run", **{"metrics": {"val/gap": 0.25}, **files}))
    assert run.status == "damaged"
    assert run.reason.startswith(reason)
    if "metrics" not in files:
        assert run.number("val/gap") == 0.25


def test_a_configuration_that_unfolds_without_end_is_damaged(tmp_path):
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 60)]
    assert read_run(write_run(tmp_path / "run", config="\n".join(lines))).status == "damaged"


def test_a_row_that_is_being_written_is_no_damage(tmp_path):
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


def test_figures_that_are_no_numbers_are_none(tmp_path):
    figures = '{"a": "0.5", "b": NaN, "c": null, "d": true, "e": Infinity, "f": 3}'
    run = read_run(write_run(tmp_path / "run", metrics=figures))
    assert [run.number(key) for key in "abcdefg"] == [None] * 5 + [3, None]


def test_runs_are_found_at_any_depth_once_and_named_from_where_they_part(tmp_path):
    write_run(tmp_path / "sweep" / "0_lr=1,x=[2]", metrics={})
    write_run(tmp_path / "sweep" / "1", metrics={})
    write_run(tmp_path / "single" / "deep", metrics={})
    write_run(tmp_path / "sweep" / "eval", config="ckpt_path: best.ckpt\nsplit: validate\n", metrics={})
    runs = find_runs([tmp_path, tmp_path / "sweep", tmp_path / "single" / "deep"])
    assert [run.name for run in runs] == ["single/deep", "sweep/0_lr=1,x=[2]", "sweep/1"]


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^runs: expected a folder of runs, found none at .*absent$"):
        find_runs([tmp_path / "absent"])
    with pytest.raises(ConfigError, match=r"^runs: expected runs of yt8m.train at or below"):
        find_runs([tmp_path])
    write_run(tmp_path / "eval", config="ckpt_path: best.ckpt\n")
    with pytest.raises(ConfigError, match="only other commands'"):
        find_runs([tmp_path])
