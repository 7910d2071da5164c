"""`python -m yt8m.extract` as a user runs it."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import yt8m
from tests.training import run_command
from tests.video.files import INCEPTION, VGGISH
from tests.video.videos import encode, seconds
from yt8m import interpreter
from yt8m.datamodules.dataset import ShardDataset
from yt8m.video.extractor import FeatureExtractor


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four videos, one of them silent, two files that are none, and one whose decoder `crashing` ends."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        encode(folder / f"v{number}.mp4", seconds(2 + number, rate=5), sound=2)
    (folder / "sub").mkdir()
    encode(folder / "sub" / "silent.webm", seconds(2, rate=5), codec="libvpx")
    (folder / "text.mp4").write_text("no video")
    shutil.copy(folder / "v0.mp4", folder / "crash.mp4")
    (folder / "cut.mp4").write_bytes((folder / "v0.mp4").read_bytes()[:1000])
    return folder


@pytest.fixture
def crashing(monkeypatch):
    """The decoder of crash.mp4 crashes."""

    def start(module, path, *arguments, **options):
        process = interpreter.start(module, path, *arguments, **options)
        if path.endswith("crash.mp4"):
            process.send_signal(signal.SIGSEGV)
        return process

    monkeypatch.setattr("yt8m.video.source.start", start)


def extract(clips, output, weights, *overrides):
    arguments = [f"videos={clips}/**/*.*", f"output={output}", f"weights={weights}", "device=cpu", *overrides]
    run_command("extract", *arguments)


def content(folder):
    """The bytes of every shard that is done."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "2").rglob("*.tfrecord"))}


def test_both_levels_are_read_and_verified(clips, crashing, feature_weights, tmp_path, capfd):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        extract(clips, output, feature_weights, "shard_videos=3", "jobs=2")
    printed = capfd.readouterr()
    assert ended.value.code == 1
    assert "3 of 7 videos could not be read" in printed.err
    for name in ("cut.mp4", "text.mp4"):
        assert f"failed  {clips / name}: expected a video" in printed.out
    assert f"failed  {clips / 'crash.mp4'}: the decoder crashed; is the file damaged?" in printed.out
    assert f"{clips / 'sub' / 'silent.webm'}: no sound: audio features of silence" in printed.out

    for level in ("frame", "video"):
        dataset = [
            f"dataset=yt8m_{level}",
            f"dataset.root={output}",
            f"dataset.test=2/{level}/test/*.tfrecord",
        ]
        run_command("verify", *dataset, "partition=test")
        assert "all good" in capfd.readouterr().out
    paths = sorted((output / "2" / "frame" / "test").iterdir())
    videos = ShardDataset(paths, {"rgb": 1024, "audio": 128}, 3862, level="frame")
    batch = videos.__getitems__([*range(len(videos))])
    assert batch.ids == ["sub/silent", "v0", "v1", "v2"]
    assert batch.num_frames.tolist() == [2, 2, 3, 4]
    extractor = FeatureExtractor.load(feature_weights, device="cpu")
    assert np.array_equal(batch.features[-4:].numpy(), extractor(clips / "v2.mp4").array)
    paths = sorted((output / "2" / "video" / "test").iterdir())
    means = ShardDataset(paths, {"mean_rgb": 1024, "mean_audio": 128}, 3862, level="video", max_frames=1)
    vectors = means.__getitems__([*range(len(means))])
    expected = batch.features[-4:].double().mean(dim=0) * (4 / 255) + (4 / 512 - 2)
    np.testing.assert_allclose(vectors.features[3], expected, atol=1e-5)

    used = json.loads((output / "extract.json").read_text())["settings"]["weights"]
    assert {INCEPTION, VGGISH, "mean.npy", "vggish_pca_params.npz"} < {*used}
    for name, checksum in used.items():
        assert hashlib.md5((feature_weights / name).read_bytes()).hexdigest() == checksum

    # The same again, whatever order the decoders finish in; and what is done stays.
    again = tmp_path / "again"
    with pytest.raises(SystemExit):
        extract(clips, again, feature_weights, "shard_videos=3", "jobs=1")
    assert content(again) == content(output)
    for name in ("text.mp4", "cut.mp4", "crash.mp4"):
        (clips / name).rename(tmp_path / name)
    before = content(output)
    extract(clips, output, feature_weights, "shard_videos=3", f"compare={again}")
    assert content(output) == before
    assert "4 of 4 videos are done already" in (out := capfd.readouterr().out)
    assert "100.0%" in out
    report = json.loads((output / "compare.json").read_text())["videos"]
    assert [one["rgb"]["equal"] for one in report] == [1.0] * 4
    assert report[1]["audio"]["other"] > 0  # tones against silence


def test_without_audio(clips, feature_weights, tmp_path, capfd):
    """No VGGish: rgb alone, and said; zero bytes only if asked for; no PCA: refused."""
    partial = shutil.copytree(feature_weights, tmp_path / "weights")
    (partial / VGGISH).unlink()
    run = [f"videos={clips}/v0.mp4", f"weights={partial}", "device=cpu"]
    run_command("extract", *run, f"output={tmp_path / 'rgb'}")
    assert "no audio: rgb alone" in capfd.readouterr().out
    (record,) = yt8m.open(tmp_path / "rgb" / "2" / "frame")
    assert [*record.features] == ["rgb"]
    run_command("extract", *run, f"output={tmp_path / 'zeros'}", "audio=zeros", "partition=train")
    (record,) = yt8m.open(tmp_path / "zeros" / "2" / "frame" / "train")
    assert record.features["audio"].shape == (2, 128)
    assert not record.features["audio"].any()

    def refused(message, *arguments):
        with pytest.raises(SystemExit) as ended:
            run_command("extract", *arguments)
        assert ended.value.code == 2
        assert message in capfd.readouterr().err.splitlines()[-1]

    refused("output: expected features", *run, f"output={tmp_path / 'zeros'}", "partition=train")
    refused("weights: expected a value", f"videos={clips}/*", f"output={tmp_path / 'x'}")
    refused(
        "videos: expected local files that match",
        *run[1:],
        f"videos={clips}/*.avi",
        f"output={tmp_path / 'x'}",
    )
    refused(
        "videos: expected files, found the folder", *run[1:], f"videos={clips}/s*", f"output={tmp_path / 'x'}"
    )
    (partial / "mean.npy").unlink()
    (partial / "eigenvecs.npy").unlink()
    (partial / "eigenvals.npy").unlink()
    refused("weights: expected the dataset's PCA", *run, f"output={tmp_path / 'x'}")
    (partial / INCEPTION).write_bytes(b"PK")
    assert not (tmp_path / "x").exists()


def test_a_killed_run_goes_on(clips, feature_weights, tmp_path, monkeypatch):
    """kill -9 once a video is kept: it is not extracted again, and the shards are those of an undisturbed run."""
    output, whole = tmp_path / "out", tmp_path / "whole"
    arguments = [f"videos={clips}/v?.mp4", f"weights={feature_weights}", "device=cpu", "jobs=1"]
    killing = """
import os, signal
from yt8m.extract.__main__ import main
from yt8m.extract.records import Done
add = Done.add
Done.add = lambda *arguments: (add(*arguments), os.kill(os.getpid(), signal.SIGKILL))
main()
"""
    command = [sys.executable, "-c", killing, *arguments, f"output={output}"]
    killed = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(output.glob(".done/*.tfrecord"))) == 1
    assert not content(output)
    extracted = []
    call = FeatureExtractor.__call__
    monkeypatch.setattr(
        FeatureExtractor,
        "__call__",
        lambda self, video, **options: extracted.append(video) or call(self, video, **options),
    )
    run_command("extract", *arguments, f"output={output}")
    assert len(extracted) == 2
    run_command("extract", *arguments, f"output={whole}")
    assert content(output) == content(whole)
    assert not list(output.glob(".done/*"))
