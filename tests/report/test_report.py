"""The report as a command: its files, class statistics, and refusals; and the study's experiments."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.report.run_folder import write_run
from tests.training import TINY, run_command, train
from yt8m.config import CONFIG_DIR
from yt8m.report.__main__ import as_overrides
from yt8m.report.report import FILES

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_sample) -> Path:
    """Three runs that finished, one that failed, one that was stopped; a name that tries to be a script."""
    folder = tmp_path_factory.mktemp("runs")
    for number, lr in enumerate((0.001, 0.003, 0.01)):
        train(folder / f"run{number}", *TINY, *tiny_sample, f"optimizer.lr={lr}", "test=false")
    for name, log in (("failed", f"[t][x][ERROR] {EVIL}\n"), ("stopped", "[t][x][INFO] begins\n")):
        shutil.copytree(folder / "run2" / ".hydra", folder / name / ".hydra")
        (folder / name / "train.log").write_text(log)
    metrics = folder / "run0" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"dataset": EVIL}))
    return folder


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("report")
    run_command("report", str(runs), f"output={output}")
    return output


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_report_has_every_run_and_its_record(runs, report):
    assert sorted(path.name for path in report.iterdir()) == sorted(FILES)
    rows = read_csv(report / "leaderboard.csv")
    assert [row["Status"] for row in rows] == ["finished"] * 3 + ["failed", "unfinished"]
    for row in rows[:3]:
        metrics = json.loads((runs / row["Folder"] / "metrics.json").read_text())
        assert float(row["GAP"]) == metrics["val/gap"]
        assert float(row["Hit@1"]) == metrics["val/hit1"]
        assert float(row["Videos/s"]) == metrics["videos_per_second"]
        assert row["Parameters"] == str(metrics["params"])
        assert row["Run"].split()[0] == f"lr={metrics['lr']:g}"
        assert row["Best epoch"] == str(metrics["best_epoch"])
    assert [float(row["GAP"]) for row in rows[:3]] == sorted(
        (float(row["GAP"]) for row in rows[:3]), reverse=True
    )
    text = Page(report / "report.html").text
    assert "3 finished, 1 failed, 1 unfinished" in text
    # The class statistics are of the same checkpoint as the scores.
    assert f"GAP {float(rows[0]['GAP']):.4f}" in text
    assert re.search(r"(Rgb|Audio) theme \d", text)
    assert "Only 3 runs" in text


def test_seconds_continue_in_a_resumed_run(tmp_path, tiny_sample):
    train(tmp_path, *TINY, *tiny_sample, "trainer.max_epochs=1", "test=false")
    train(tmp_path, *TINY, *tiny_sample, "test=false", "ckpt_path=last")
    first, second = (
        [float(row["seconds"]) for row in read_csv(path) if row["seconds"]]
        for path in sorted(tmp_path.glob("csv/version_*/metrics.csv"))
    )
    assert second[0] > first[-1]


def test_nothing_is_overwritten_without_the_flag(runs, report, capsys):
    before = (report / "report.html").read_bytes()
    with pytest.raises(SystemExit) as ended:
        run_command("report", str(runs), f"output={report}", "classes=false")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "overwrite=true" in error
    assert error.count("\n") == 1
    assert (report / "report.html").read_bytes() == before


def test_class_stats_that_cannot_be_computed_are_explained(runs, tmp_path, capsys):
    run_command("report", str(runs), f"output={tmp_path}", f"dataset.root={tmp_path / 'absent'}")
    why = f"dataset.root: expected the dataset's folder, found nothing at {tmp_path / 'absent'}"
    assert why in Page(tmp_path / "report.html").text
    assert why in capsys.readouterr().out
    assert not (tmp_path / "absent").exists()


def test_genre_stats_equal_those_of_eval(runs, report, tmp_path):
    best = runs / read_csv(report / "leaderboard.csv")[0]["Folder"]
    run_command("eval", f"ckpt_path={best}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}", "trainer=cpu")
    source = (report / "report.html").read_text()
    part = source[source.index("<h3>By genre") : source.index("<h3>Calibration")]
    expected = read_csv(tmp_path / "genres.csv")
    assert len(expected) == 4
    names = [html.unescape(name) for name in re.findall(r'<th scope="row">(.*?)</th>', part)]
    assert names == [row["genre"] for row in expected]
    columns = ("classes", "videos", "mean_ap_top20", "genre_ap_top20")
    stats = [float(row[column]) for row in expected for column in columns]  # of six digits
    values = [float(value) for value in re.findall(r'data-value="(.*?)"', part)]
    assert values == pytest.approx(stats, abs=1e-6)
    shown = [f"{value:.3f}" if number % 4 > 1 else f"{value:.0f}" for number, value in enumerate(values)]
    assert re.findall(r">([\d.]+)</td>", part) == shown


def test_unknown_genres_are_explained(tmp_path, tiny_sample):
    train(tmp_path / "run", *TINY, *tiny_sample, "dataset.vocabulary=null", "test=false")
    run_command("report", str(tmp_path / "run"), f"output={tmp_path}")
    text = Page(tmp_path / "report.html").text
    assert "Left out: no genres are known" in text
    assert "AP of the genre" not in text
    assert "class 0" in text


def test_runs_that_all_failed_are_reported(runs, tmp_path, capsys):
    run_command("report", str(runs / "failed"), str(runs / "stopped"), f"output={tmp_path}")
    text = Page(tmp_path / "report.html").text
    assert "No run has a value of val/gap" in text
    assert "1 failed, 1 unfinished" in text


def test_a_bad_argument_is_answered_in_one_line(runs, tmp_path, capsys):
    cases = [
        ([], "runs: expected a value, found none"),
        (["/absent"], "runs: expected a folder of runs, found none at /absent"),
        ([str(runs), "classes=maybe"], "classes: expected true or false, found 'maybe'"),
        ([str(runs), "metrics=val/map"], "metrics"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as ended:
            run_command("report", *arguments, f"output={tmp_path}")
        assert ended.value.code == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
        assert list(tmp_path.iterdir()) == []


def test_an_unreadable_run_costs_only_itself(runs, tmp_path, capsys):
    for name, metrics in (
        ("huge", f'{{"val/gap": {"9" * 400}}}'),
        ("list", "[1]"),
        ("cut", '{"val/gap": 0.'),
    ):
        write_run(tmp_path / "bad" / name, metrics=metrics)
    write_run(tmp_path / "bad" / "yaml", config="model: [", metrics={"val/gap": 0.001})
    output = tmp_path / "out"
    run_command("report", str(runs), str(tmp_path / "bad"), f"output={output}", "classes=false")
    rows = read_csv(output / "leaderboard.csv")
    assert [row["Status"] for row in rows[:4]] == ["finished"] * 3 + ["unreadable"]
    assert [
        row["Why"].split(":")[0] for row in rows if row["Status"] == "unreadable" and not row["Rank"]
    ] == ["metrics.json"] * 3
    lines = capsys.readouterr().out.splitlines()
    assert sum("unreadable" in line and "expected a number below" in line for line in lines) == 1
    assert "4 unreadable" in lines[-1]


def test_a_broken_best_checkpoint_is_one_line(runs, report, tmp_path, capsys):
    folder = tmp_path / "best"
    shutil.copytree(runs / read_csv(report / "leaderboard.csv")[0]["Folder"], folder)
    checkpoint = folder / "checkpoints" / "best.ckpt"
    whole = checkpoint.read_bytes()
    hostile = torch.load(checkpoint, weights_only=True)
    sample = {"_target_": "yt8m.datamodules.sample.write_sample", "root": str(tmp_path / "written")}
    hostile["hyper_parameters"]["config"]["dataset"] = sample
    broken = {
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "empty dict": saved({}),
        "a list": saved([1]),
        "config is text": saved({"hyper_parameters": {"config": "x"}, "state_dict": {}}),
        "side effect": saved(hostile),
        "no weights": saved({**torch.load(checkpoint, weights_only=True), "state_dict": {}}),
    }
    for case, content in broken.items():
        checkpoint.write_bytes(content)
        run_command("report", str(folder), f"output={tmp_path / case}")
        out = capsys.readouterr()
        assert "Traceback" not in out.out + out.err, case
        (line,) = [line for line in out.out.splitlines() if line.startswith("class statistics left out: ")]
        assert len(line) < 340, case
        assert not (tmp_path / "written").exists(), case
        assert "1 finished" in (tmp_path / case / "report.html").read_text(), case


def saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_a_folder_of_any_name_reaches_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "a b",
        "it's",
        'say "x"',
        "back\\slash",
        "end\\",
        "x\\'y",
        "${oc.env:HOME}",
        "a,b",
        "[x]",
        "null",
    ]
    for name in [*names, "lr=1,x=[2]"]:
        Path(name).mkdir()
        (override,) = as_overrides([name])
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            config = compose("report", [override, "metric=val/map"])
        assert OmegaConf.to_container(config.runs, resolve=True) == [name]


def test_overrides_and_flags_are_not_folders():
    others = ["metric=val/map", "+x=1", "~dataset.root=1", "--cfg", "job", "--help"]
    assert as_overrides(others) == others
    assert as_overrides(["a", "output=b", "c"]) == ["output=b", "runs=['a','c']"]


def test_help_is_quick_and_names_every_argument():
    code = (
        "import sys\nfrom yt8m.report.__main__ import main\n"
        "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert result.stderr.strip() == "False"
    for key in ("metric", "classes", "output", "overwrite", "dataset.root"):
        assert f"{key}=" in result.stdout


@pytest.mark.parametrize(
    ("experiment", "network", "optimizer", "lr", "epochs", "batch_size"),
    [
        ("study_pytorch/nn", "NN", "Adam", 0.01, 300, 30),
        ("study_pytorch/bi_lstm", "BiLSTM", "Adam", 0.003, 300, 64),
        ("study_pytorch/stream_lstm", "StreamLSTM", "Adam", 0.03, 300, 64),
        ("study_pytorch/nn_stream_lstm", "NNStreamLSTM", "Adam", 0.00045, 300, 64),
        ("study_keras/nn", "KerasNN", "SGD", 0.01, 300, 84),
        ("study_keras/bi_lstm", "KerasBiLSTM", "SGD", 0.01, 300, 64),
        ("study_keras/stream_lstm", "KerasStreamLSTM", "SGD", 0.01, 500, 64),
        ("study_keras/nn_stream_lstm", "KerasNNStreamLSTM", "SGD", 0.01, 100, 20),
    ],
)
def test_the_studys_hyperparameters(experiment, network, optimizer, lr, epochs, batch_size):
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("train", [f"experiment={experiment}"])
    assert cfg.model._target_.endswith(f".{network}")
    assert (cfg.optimizer._target_, cfg.optimizer.lr) == (f"torch.optim.{optimizer}", lr)
    assert (cfg.trainer.max_epochs, cfg.dataset.batch_size, cfg.dataset.max_frames) == (
        epochs,
        batch_size,
        100,
    )
    stopping = cfg.callbacks.early_stopping
    if experiment.startswith("study_keras"):
        assert (stopping.monitor, stopping.patience) == ("val/loss", 3)
    else:
        assert stopping is None
