"""The report as a command: its files, its page in a browser, its refusals; and the study's experiments."""

import csv
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.training import TINY, run_command, train
from yt8m.config import CONFIG_DIR
from yt8m.report.__main__ import as_overrides
from yt8m.report.report import FILES

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_sample) -> Path:
    """Three runs that finished, one that failed and one that was stopped; a name that wants to be a script."""
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


def test_the_report_has_every_run_and_figure(runs, report, capsys):
    assert sorted(path.name for path in report.iterdir()) == sorted(FILES)
    rows = read_csv(report / "leaderboard.csv")
    assert [row["Status"] for row in rows] == ["finished"] * 3 + ["failed", "unfinished"]
    for row in rows[:3]:
        metrics = json.loads((runs / row["Run"] / "metrics.json").read_text())
        assert float(row["GAP"]) == metrics["val/gap"]
        assert float(row["Accuracy"]) == metrics["val/hit1"]
        assert float(row["Videos/s"]) == metrics["videos_per_second"]
        assert row["Parameters"] == str(metrics["params"])
    assert [float(row["GAP"]) for row in rows[:3]] == sorted(
        (float(row["GAP"]) for row in rows[:3]), reverse=True
    )
    text = Page(report / "report.html").text
    assert "3 finished, 1 failed, 1 unfinished" in text
    # The best checkpoint scores as its run did; here its last epoch is its best.
    assert f"GAP {float(rows[0]['GAP']):.4f}" in text
    assert re.search(r"(Rgb|Audio) theme \d", text)
    assert "3 runs are few" in text


def test_curves_are_over_steps_and_time(runs, report):
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", (report / "report.html").read_text())
    assert titles[:6] == [
        f"{what} over {axis}"
        for what in ("GAP", "Validation loss", "Training loss")
        for axis in ("steps", "time")
    ]
    for path in runs.glob("run*/csv/version_0/metrics.csv"):
        seconds = [float(row["seconds"]) for row in read_csv(path) if row["seconds"]]
        assert len(seconds) >= 2
        assert seconds == sorted(seconds)


def test_seconds_go_on_in_a_resumed_run(tmp_path, tiny_sample):
    train(tmp_path, *TINY, *tiny_sample, "trainer.max_epochs=1", "test=false")
    train(tmp_path, *TINY, *tiny_sample, "test=false", "ckpt_path=last")
    first, second = (
        [float(row["seconds"]) for row in read_csv(path) if row["seconds"]]
        for path in sorted(tmp_path.glob("csv/version_*/metrics.csv"))
    )
    assert second[0] > first[-1]


def test_the_page_asks_nothing_of_the_outside_and_runs_no_script_of_a_run(report):
    source = (report / "report.html").read_text()
    page = Page(report / "report.html")
    assert [
        tag for tag, attributes in page.tags if attributes.keys() & {"src", "href", "onerror", "onclick"}
    ] == []
    assert {tag for tag, _ in page.tags} & {"img", "link", "iframe", "object"} == set()
    assert not re.search(r"url\(|@import|https?:", source)
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert (
        page.text.count("document.title='owned'") == 2
    )  # as text: the failed run's reason, a dataset's name


def test_nothing_is_overwritten_unasked(runs, report, capsys):
    before = (report / "report.html").read_bytes()
    with pytest.raises(SystemExit) as ended:
        run_command("report", str(runs), f"output={report}", "classes=false")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "overwrite=true" in error
    assert error.count("\n") == 1
    assert (report / "report.html").read_bytes() == before


def test_figures_of_classes_that_cannot_be_had_are_told_of(runs, tmp_path, capsys):
    run_command("report", str(runs), f"output={tmp_path}", f"dataset.root={tmp_path / 'absent'}")
    why = f"dataset.root: expected the dataset's folder, found nothing at {tmp_path / 'absent'}"
    assert why in Page(tmp_path / "report.html").text
    assert why in capsys.readouterr().out
    assert not (tmp_path / "absent").exists()


def test_figures_of_genres_are_those_of_eval(runs, report, tmp_path):
    best = runs / read_csv(report / "leaderboard.csv")[0]["Run"]
    run_command("eval", f"ckpt_path={best}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}", "trainer=cpu")
    source = (report / "report.html").read_text()
    part = source[source.index("<h3>By genre") : source.index("<h3>Calibration")]
    expected = read_csv(tmp_path / "genres.csv")
    assert len(expected) == 4
    names = [html.unescape(name) for name in re.findall(r'<th scope="row">(.*?)</th>', part)]
    assert names == [row["genre"] for row in expected]
    columns = ("classes", "videos", "mean_ap_top20", "genre_ap_top20")
    figures = [float(row[column]) for row in expected for column in columns]  # of six digits
    values = [float(value) for value in re.findall(r'data-value="(.*?)"', part)]
    assert values == pytest.approx(figures, abs=1e-6)
    shown = [f"{value:.3f}" if number % 4 > 1 else f"{value:.0f}" for number, value in enumerate(values)]
    assert re.findall(r">([\d.]+)</td>", part) == shown


def test_genres_that_are_not_known_are_told_of(tmp_path, tiny_sample):
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs: expected a value, found none"),
        (["/absent"], "runs: expected a folder of runs, found none at /absent"),
        (["RUNS", "classes=maybe"], "classes: expected true or false, found 'maybe'"),
        (["RUNS", "metrics=val/map"], "metrics"),
    ],
)
def test_a_bad_argument_is_answered_in_one_line(runs, tmp_path, capsys, arguments, message):
    given = [str(runs) if argument == "RUNS" else argument for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        run_command("report", *given, f"output={tmp_path}")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
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
        "lr=1,x=[2]",
    ],
)
def test_a_folder_of_any_name_reaches_the_report(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    (override,) = as_overrides([name])
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("report", [override, "metric=val/map"])
    assert OmegaConf.to_container(cfg.runs, resolve=True) == [name]


def test_overrides_and_flags_are_no_folders():
    others = ["metric=val/map", "+x=1", "~dataset.root=1", "--cfg", "job", "--help"]
    assert as_overrides(others) == others
    assert as_overrides(["a", "output=b", "c"]) == ["output=b", "runs=['a','c']"]


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

PROBE = """
const table = document.querySelector(".sortable");
const heading = [...table.tHead.rows[0].cells].find((th) => th.textContent.startsWith("Loss"));
const values = () => [...table.tBodies[0].rows].map((row) => row.cells[heading.cellIndex].dataset.value);
const click = () => heading.querySelector("button").click();
const seen = {};
click(); seen.up = values();
click(); seen.down = values();
const sizes = [...document.querySelectorAll("figure svg, .parallel svg")].map((svg) => svg.getBoundingClientRect());
seen.visible = sizes.map((size) => size.width > 200 && size.height > 100);
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.width = innerWidth;
const text = document.createElement("pre");
text.id = "probe";
text.textContent = JSON.stringify(seen);
document.body.append(text);
"""


def chromium(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--dump-dom",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium to look at the page")
def test_a_browser_shows_the_page_without_an_error(report, tmp_path):
    shown = chromium(report / "report.html", tmp_path / "profile")
    assert "CONSOLE" not in shown.stderr
    assert "<title>Report: " in shown.stdout


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium to look at the page")
def test_the_page_sorts_and_fits_a_phone(report, tmp_path):
    """In a frame of 360 pixels, as the browser's own window is never as narrow."""
    source = (report / "report.html").read_text()
    # The page's policy would refuse the probe, as it should.
    source = re.sub(r"<meta http-equiv.*?>", "", source)
    source = html.escape(source.replace("</body>", f"<script>{PROBE}</script></body>"))
    relay = "onload = () => { document.title = frames[0].document.getElementById('probe').textContent }"
    (tmp_path / "phone.html").write_text(
        f"<!doctype html><title></title><script>{relay}</script>"
        f'<iframe srcdoc="{source}" width="360" height="800" style="border: 0"></iframe>'
    )
    shown = chromium(tmp_path / "phone.html", tmp_path / "profile")
    seen = json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
    up = [float(value) for value in seen["up"]]
    assert up == sorted(up)
    assert seen["down"] == seen["up"][::-1]
    assert len(seen["visible"]) == 8  # six of curves, the hyperparameters, the calibration
    assert all(seen["visible"])
    assert (seen["width"], seen["overflow"]) == (360, 0)


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
