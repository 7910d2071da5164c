"""`python -m yt8m.predict video=…`: labels of a video file, and when."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.training import run_command
from tests.video.files import VGGISH
from tests.video.videos import encode, seconds
from yt8m.api.model import load
from yt8m.api.predictions import Timeline
from yt8m.predict.timeline import clock, draw
from yt8m.video.extractor import FeatureExtractor


def test_labels_and_windows(tiny_run, feature_weights, tmp_path, capfd):
    weights = shutil.copytree(feature_weights, tmp_path / "weights")
    video, table = encode(tmp_path / "my.mp4", seconds(7, rate=1), sound=7), tmp_path / "my.csv"
    checkpoint = tiny_run / "checkpoints" / "best.ckpt"
    run = [f"ckpt_path={checkpoint}", f"video={video}", "trainer=cpu", f"hydra.run.dir={tmp_path / 'run'}"]
    run_command("predict", *run, f"weights={weights}", f"output={table}", "top_k=3")
    printed = capfd.readouterr().out
    frames = FeatureExtractor.load(weights, device="cpu")(video).array
    model = load(checkpoint, device="cpu")
    whole, first, last = (model.predict(part, top_k=None) for part in (frames, frames[:5], frames[5:]))
    assert len(frames) == 7
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Name"] for row in rows[:3]] == whole.names[:3]
    assert {(row["Start"], row["End"]) for row in rows} == {("0", "7"), ("0", "5"), ("5", "7")}
    for start, expected in (("0", first), ("5", last)):
        scores = dict(zip(expected.names, expected.scores.tolist(), strict=True))
        window = [row for row in rows[3:] if row["Start"] == start]
        assert len(window) == 8
        for row in window:
            assert float(row["Score"]) == pytest.approx(scores[row["Name"]], abs=1e-4)
    assert f"genres: {whole.genres[0]}" in printed
    assert all(text in printed for text in ("0:05", "0:07", whole.names[0]))
    with Image.open(table.with_suffix(".png")) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10

    def refused(message, *arguments):
        with pytest.raises(SystemExit) as ended:
            run_command("predict", *arguments)
        assert ended.value.code in (1, 2)
        assert message in capfd.readouterr().err.splitlines()[-1]

    refused("output: expected a new file", *run, f"weights={weights}", f"output={table}")
    refused("weights: expected the folder", *run, f"output={tmp_path / 'x.csv'}")
    refused(
        "video: expected a local file, found a folder at",
        run[0],
        f"video={tmp_path}",
        f"weights={weights}",
        run[3],
    )
    refused("weights: expected positive numbers", run[0], f"weights={weights}", run[3])
    (weights / VGGISH).unlink()
    refused("set audio=zeros", *run, f"weights={weights}", f"output={tmp_path / 'x.csv'}")
    run_command("predict", *run, f"weights={weights}", f"output={tmp_path / 'zeros.csv'}", "audio=zeros")
    video.write_text("no video")
    refused(
        "expected a video, found none",
        *run,
        f"weights={weights}",
        f"output={tmp_path / 'x.csv'}",
        "audio=zeros",
    )
    assert not (tmp_path / "x.csv").exists()


def test_the_picture_takes_any_name():
    scores = np.linspace(0, 1, 4, dtype=np.float32).reshape(2, 2)
    names = ["$\\frac$ [b]" + "long" * 20, "\N{HIRAGANA LETTER A}"]
    content = draw(
        "a$b$.mp4", Timeline(np.array([0.0, 5.0]), np.arange(2), names, scores), np.array([5.0, 6.0])
    )
    assert content.startswith(b"\x89PNG")
    assert [clock(value) for value in (0, 59.5, 60, 3725)] == ["0:00", "0:59", "1:00", "62:05"]
