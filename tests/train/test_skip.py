"""With `dataset.on_corrupt=skip`, training leaves out damaged records, reports each, and counts them."""

import pytest

from tests.train.damage import copy_of_sample, damage
from tests.training import TINY, train


@pytest.fixture
def damaged(tmp_path, tiny_sample, tiny_run):
    """Overrides that choose a copy of the sample with four damaged records, and the count of each shard."""
    options = copy_of_sample(tiny_sample, tmp_path / "data")
    lost = {}
    for partition, shard, records in (("train", 0, [3, 20]), ("train", 2, [5]), ("validate", 1, [0])):
        path = sorted((tmp_path / "data" / partition).glob("*.tfrecord"))[shard]
        lost[str(path)] = damage(path, records)
    return [*TINY, *options], lost


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_leaves_damaged_records_out_and_counts_them(tmp_path, damaged, capsys, num_workers):
    options, lost = damaged
    options = [*options, f"dataset.num_workers={num_workers}"]
    record = train(tmp_path / "run", *options)
    assert record["skipped"] == lost
    assert record["skipped_records"] == 4
    reported = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert len(reported) == len({*reported}) == 4
    assert all("expected payload CRC" in line and "on_corrupt" not in line for line in reported)
    # A resumed run still counts what the run skipped before.
    again = train(tmp_path / "run", *options, "ckpt_path=last")
    assert again["skipped"] == lost


def test_a_training_ends_at_a_damaged_record_otherwise(tmp_path, damaged, capsys):
    options, lost = damaged
    with pytest.raises(SystemExit):
        train(tmp_path / "run", *options, "dataset.on_corrupt=raise")
    assert f"{next(iter(lost))} @ byte " in capsys.readouterr().err
