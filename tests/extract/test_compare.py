"""`compare=DIR`: the distance to shipped features, against numbers that are computed by hand."""

import json

import numpy as np
import pytest
from rich.console import Console

from yt8m.errors import ConfigError
from yt8m.extract.compare import compare
from yt8m.extract.records import serialize, write_shards
from yt8m.video.extractor import VideoFeatures


def write(folder, videos, partition="test"):
    """A shard of each level with these frames of rgb, of two values, by id."""
    records = []
    for name, frames in videos.items():
        values = {"rgb": np.array(frames, np.uint8)}
        records.append(serialize(name, VideoFeatures(values, {"rgb": np.zeros(2, np.float32)})))
    write_shards(folder, partition, 0, records)


def test_distances_are_those_of_the_frames_that_both_have(tmp_path, capsys):
    ours, shipped = tmp_path / "ours", tmp_path / "shipped"
    write(ours, {"sub/AbCd": [[10, 20], [30, 250]], "own": [[0, 0]]})
    # At any depth, and beside video-level shards, which are passed over.
    write(shipped / "deep", {"Zzzz": [[110, 120], [30, 150]], "AbCd": [[10, 21], [40, 250], [9, 9]]}, "train")
    compare(ours, shipped, Console(width=200))
    printed = capsys.readouterr().out
    (video,) = json.loads((ours / "compare.json").read_text())["videos"]
    assert video["id"] == "AbCd"
    found = video["rgb"]
    assert found["frames"] == [2, 3]
    assert found["mean_difference"] == pytest.approx((0 + 1 + 10 + 0) / 4 * 4 / 255)
    assert (found["equal"], found["near"]) == (0.5, 0.75)
    assert found["other"] == pytest.approx((100 + 100 + 0 + 100) / 4 * 4 / 255)
    a, b = (np.array(one) - 127.5 for one in ([[10, 20], [30, 250]], [[10, 21], [40, 250]]))
    cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    assert found["cosine"] == pytest.approx(np.mean(cosines))
    assert all(text in printed for text in (f"{found['mean_difference']:.4f}", "50.0%", "75.0%"))


def test_nothing_to_compare_with_is_an_error(tmp_path):
    ours, other, empty = tmp_path / "ours", tmp_path / "other", tmp_path / "empty"
    empty.mkdir()
    write(ours, {"AbCd": [[1, 2]]})
    write(other, {"Zzzz": [[1, 2]]})
    with pytest.raises(ConfigError, match=f"^compare: expected a folder with frame-level .* in {empty}$"):
        compare(ours, empty, Console())
    with pytest.raises(ConfigError, match=f"^compare: expected files named as the id of a video in {other}"):
        compare(ours, other, Console())
    assert not (ours / "compare.json").exists()
