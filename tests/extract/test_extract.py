"""`python -m yt8m.extract` as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.training import run_command
from tests.video.files import INCEPTION, VGGISH, write_weights
from tests.video.videos import encode, seconds
from yt8m.datamodules.dataset import ShardDataset
from yt8m.extract.records import read_frames
from yt8m.video.extractor import FeatureExtractor


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("extract") / "weights")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four videos, one of them silent, and two files that are none."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        encode(folder / f"v{number}.mp4", seconds(2 + number, rate=5), sound=2)
    (folder / "sub").mkdir()
    encode(folder / "sub" / "silent.webm", seconds(2, rate=5), codec="libvpx")
    (folder / "text.mp4").write_text("no video")
    (folder / "cut.mp4").write_bytes((folder / "v0.mp4").read_bytes()[:1000])
    return folder


def extract(clips, output, weights, *overrides):
    arguments = [f"videos={clips}/**/*.*", f"output={output}", f"weights={weights}", "device=cpu", *overrides]
    run_command("extract", *arguments)


def content(folder):
    """Every shard's bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.tfrecord"))}


def test_both_levels_are_read_and_verified(clips, weights, tmp_path, capfd):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        extract(clips, output, weights, "shard_videos=3", "jobs=2")
    printed = capfd.readouterr()
    assert ended.value.code == 1
    assert "2 of 6 videos could not be read" in printed.err
    for name in ("cut.mp4", "text.mp4"):
        assert f"failed  {clips / name}: expected a video" in printed.out
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
    extractor = FeatureExtractor.load(weights, device="cpu")
    assert np.array_equal(batch.features[-4:].numpy(), extractor(clips / "v2.mp4").array)
    paths = sorted((output / "2" / "video" / "test").iterdir())
    means = ShardDataset(paths, {"mean_rgb": 1024, "mean_audio": 128}, 3862, level="video", max_frames=1)
    vectors = means.__getitems__([*range(len(means))])
    expected = batch.features[-4:].double().mean(dim=0) * (4 / 255) + (4 / 512 - 2)
    np.testing.assert_allclose(vectors.features[3], expected, atol=1e-5)

    # The same again, whatever order the decoders finish in; and what is done stays.
    again = tmp_path / "again"
    with pytest.raises(SystemExit):
        extract(clips, again, weights, "shard_videos=3", "jobs=1")
    assert content(again) == content(output)
    (clips / "text.mp4").rename(tmp_path / "text.mp4")
    (clips / "cut.mp4").rename(tmp_path / "cut.mp4")
    before = content(output)
    extract(clips, output, weights, "shard_videos=3", f"compare={again}")
    assert content(output) == before
    assert "4 of 4 videos are done already" in (out := capfd.readouterr().out)
    assert "100.0%" in out
    report = json.loads((output / "compare.json").read_text())["videos"]
    assert [one["rgb"]["equal"] for one in report] == [1.0] * 4
    assert report[1]["audio"]["other"] > 0  # tones against silence


def test_without_audio(clips, weights, tmp_path, capfd):
    """No VGGish: rgb alone, and said; zero bytes only if asked for; no PCA: refused."""
    partial = shutil.copytree(weights, tmp_path / "weights")
    (partial / VGGISH).unlink()
    run = [f"videos={clips}/v0.mp4", f"weights={partial}", "device=cpu"]
    run_command("extract", *run, f"output={tmp_path / 'rgb'}")
    assert "no audio: rgb alone" in capfd.readouterr().out
    ((_, values),) = read_frames(tmp_path / "rgb" / "2" / "frame" / "test" / "test0000.tfrecord")
    assert [*values] == ["rgb"]
    run_command("extract", *run, f"output={tmp_path / 'zeros'}", "audio=zeros", "partition=train")
    ((_, values),) = read_frames(tmp_path / "zeros" / "2" / "frame" / "train" / "train0000.tfrecord")
    assert values["audio"].shape == (2, 128)
    assert not values["audio"].any()

    def refused(message, *arguments):
        with pytest.raises(SystemExit) as ended:
            run_command("extract", *arguments)
        assert ended.value.code == 2
        assert message in capfd.readouterr().err.splitlines()[-1]

    refused("output: expected features", *run, f"output={tmp_path / 'zeros'}", "partition=train")
    refused("weights: expected a value", f"videos={clips}/*", f"output={tmp_path / 'x'}")
    refused(
        "videos: expected files that match", *run[1:], f"videos={clips}/*.avi", f"output={tmp_path / 'x'}"
    )
    (partial / "mean.npy").unlink()
    (partial / "eigenvecs.npy").unlink()
    (partial / "eigenvals.npy").unlink()
    refused("weights: expected the dataset's PCA", *run, f"output={tmp_path / 'x'}")
    (partial / INCEPTION).write_bytes(b"PK")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(clips, weights, tmp_path):
    """kill -9 after the first videos: they are not extracted again, and the shards are those of an undisturbed run."""
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "yt8m.extract", f"videos={clips}/v?.mp4", f"weights={weights}"]
    command += ["device=cpu", "jobs=1"]
    process = subprocess.Popen(
        [*command, f"output={output}"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while (
        not list(output.glob(".done/*.tfrecord")) and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob(".done/*.tfrecord")}
    assert kept or content(output)  # a fast machine may have finished
    subprocess.run([*command, f"output={output}"], check=True, stdout=subprocess.DEVNULL, timeout=100)
    subprocess.run([*command, f"output={whole}"], check=True, stdout=subprocess.DEVNULL, timeout=100)
    assert content(output) == content(whole)
    assert not list(output.glob(".done/*"))
