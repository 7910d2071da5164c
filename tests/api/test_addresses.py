"""Shards and checkpoints at addresses: `yt8m.open` and `predict` read those as they read files."""

from pathlib import Path

import google_crc32c
import numpy as np
import pytest

import yt8m
from yt8m.errors import ConfigError
from yt8m.storage import transport
from yt8m.storage.manifest import MANIFEST, Entry, to_csv


@pytest.fixture
def bucket(tiny_run, tiny_sample, tmp_path, monkeypatch):
    """The address of the small sample's test partition, in memory, and its local folder."""
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))
    folder = Path(tiny_sample[0].partition("=")[2]) / "test"
    root = f"memory:///{tmp_path.name}"
    for path in folder.glob("*.tfrecord"):
        transport.write(f"{root}/test/{path.name}", path.read_bytes())
    return f"{root}/test", folder


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/*.tfrecord"])
def test_records_are_those_of_the_files(bucket, form):
    address, folder = bucket
    expected, found = yt8m.open(folder), yt8m.open(form.format(address))
    assert len(found) == len(expected) == 20
    assert found.paths == [f"{address}/{path.rpartition('/')[2]}" for path in map(str, expected.paths)]
    for one, other in zip(found, expected, strict=True):
        assert (one.id, one.labels.tolist()) == (other.id, other.labels.tolist())
        assert all(np.array_equal(one.features[name], other.features[name]) for name in other.features)
    assert [one.id for one in found[-3:]] == [one.id for one in expected[-3:]]


def test_predictions_are_those_of_the_files(tiny_run, bucket):
    address, folder = bucket
    model = yt8m.load(tiny_run / "checkpoints" / "best.ckpt", device="cpu")
    shard = sorted(folder.glob("*.tfrecord"))[0]
    found, expected = model.predict(f"{address}/{shard.name}"), model.predict(shard)
    assert found.ids == expected.ids
    assert np.array_equal([one.scores for one in found], [one.scores for one in expected])


def test_a_manifest_spares_counting(bucket, monkeypatch):
    address, folder = bucket
    entries = [
        Entry(path.name, len(yt8m.open(path)), path.stat().st_size, google_crc32c.value(path.read_bytes()))
        for path in folder.glob("*.tfrecord")
    ]
    transport.write(f"{address}/{MANIFEST}", to_csv(entries).encode())
    read = []
    original = transport.read_range
    monkeypatch.setattr(
        transport,
        "read_range",
        lambda path, *arguments: read.append(path) or original(path, *arguments),
    )
    assert len(yt8m.open(address)) == 20
    assert len({*read}) == 1  # the first shard, for its features


def test_wrong_addresses_are_one_line(bucket):
    address, _ = bucket
    for path, message in {
        f"{address}/none*.tfrecord": "^path: expected shards at memory://.*, found none in the bucket",
        "nowhere://bucket/a.tfrecord": "^path: expected a path or an address such as s3://",
        "s3://key:secret@bucket/a.tfrecord": "^path: ",
    }.items():
        with pytest.raises(ConfigError, match=message) as error:
            yt8m.open(path)
        assert "\n" not in str(error.value)
        assert "secret@" not in str(error.value)
    with pytest.raises(ConfigError, match=r"^ckpt_path: .* found an address of s3://; copy"):
        yt8m.load("s3://bucket/best.ckpt")
