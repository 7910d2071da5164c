"""Damaged records are left out when asked for, and every one is told of and counted."""

import shutil

import numpy as np
import pytest

from tests.training import TINY, train
from yt8m.datamodules.tfrecord import index


@pytest.fixture
def damaged(tmp_path, tiny_sample, tiny_run):
    """Overrides that choose a copy of the sample with four damaged records, and the count of each shard."""
    root = tmp_path / "data"
    shutil.copytree(tiny_sample[0].partition("=")[2], root)
    lost = {}
    for partition, shard, records in (("train", 0, [3, 20]), ("train", 2, [5]), ("validate", 1, [0])):
        path = sorted((root / partition).glob("*.tfrecord"))[shard]
        data = np.fromfile(path, np.uint8)
        for offset, size in index(path)[records].tolist():
            data[offset + size // 2] ^= 1
        data.tofile(path)
        lost[str(path)] = len(records)
    globs = [f"dataset.{partition}={partition}/*.tfrecord" for partition in ("train", "validate")]
    options = ["dataset=yt8m_frame", f"dataset.root={root}", *globs, "dataset.num_classes=40"]
    return [*TINY, *options, "dataset.max_frames=16", "test=false"], lost


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_leaves_damaged_records_out_and_counts_them(tmp_path, damaged, capsys, num_workers):
    options, lost = damaged
    options = [*options, "dataset.on_corrupt=skip", f"dataset.num_workers={num_workers}"]
    record = train(tmp_path / "run", *options)
    assert record["skipped"] == lost
    assert record["skipped_records"] == 4
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert len(told) == len({*told}) == 4
    assert all("expected payload CRC" in line and "on_corrupt" not in line for line in told)
    # What an earlier stretch of the run has skipped still counts, though the rest of it meets none of that.
    again = train(tmp_path / "run", *options, "ckpt_path=last")
    assert again["skipped"] == lost


def test_a_training_ends_at_a_damaged_record_otherwise(tmp_path, damaged, capsys):
    options, lost = damaged
    with pytest.raises(SystemExit):
        train(tmp_path / "run", *options)
    assert f"{next(iter(lost))} @ byte " in capsys.readouterr().err
