"""Records of many shards by number: files that change, that are many, that travel to other processes."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.datamodules import records
from tests.datamodules.records import ENDS, OFFSETS, PAYLOADS, SIZES
from yt8m.datamodules import shards as shards_module
from yt8m.datamodules import tfrecord
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import scan
from yt8m.errors import DataError


@pytest.mark.parametrize("opened", [False, True], ids=["before opening", "while open"])
@pytest.mark.parametrize("change", ["shrunk", "emptied", "rewritten", "removed"])
def test_file_that_changes_after_indexing(tmp_path, opened, change):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    shards = Shards([scan(path)])
    first, *_, last = shards.locate(range(4))
    if opened:
        shards.record(first)
    if change == "removed":
        path.unlink()
        if opened:
            assert shards.record(last) == PAYLOADS[3]  # an open file outlives its name
            return
    elif change == "rewritten":
        path.write_bytes(b"?" * ENDS[-1])
        os.utime(path, ns=(1, 1))
    else:
        os.truncate(path, 0 if change == "emptied" else ENDS[-1] - 1)
    expected = r"readable shard|the file that was indexed \(\d+ bytes\), found it changed or gone"
    with pytest.raises(DataError, match=expected):
        shards.record(last)


def test_file_replaced_by_a_sound_one_after_indexing(tmp_path, compress):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS, compress)
    shards = Shards([scan(path)])
    records.write_shard(path, [bytes(len(payload)) for payload in PAYLOADS], compress)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="found it changed or gone"):
        shards.record(shards.locate([0])[0])


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_open_files_are_bounded(tmp_path, compress):
    paths = [records.write_shard(tmp_path / f"{number}.tfrecord", PAYLOADS, compress) for number in range(20)]
    shards = Shards([scan(path) for path in paths], max_open=3)
    before = open_files()
    for place in shards.locate(np.random.default_rng(0).permutation(len(shards))):
        shards.record(place)
        assert open_files() <= before + 2 * 3  # a memory map holds a second descriptor
    del shards
    assert open_files() == before


def test_pickled_copy_and_threads(tmp_path, compress):
    paths = [records.write_shard(tmp_path / f"{number}.tfrecord", PAYLOADS, compress) for number in range(5)]
    shards = Shards([scan(path) for path in paths], max_open=2)
    places = shards.locate(list(range(20)) * 10)
    shards.record(places[0])
    copy = pickle.loads(pickle.dumps(shards))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.record, places)) == PAYLOADS * 50


def _child(shards, queue):
    queue.put([shards.record(place) for place in shards.locate(range(len(shards)))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_read_in_another_process(tmp_path, method):
    shards = Shards([scan(records.write_shard(tmp_path / "a.tfrecord", PAYLOADS, True))])
    shards.record(shards.locate([0])[0])
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(shards, queue))
    process.start()
    assert queue.get() == PAYLOADS
    process.join()
    assert shards.record(shards.locate([1])[0]) == PAYLOADS[1]


@pytest.fixture
def asked(monkeypatch):
    """What the system is asked to read, (offset, size) each."""
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *args: asked.append(args[:2]), raising=False)
    return asked


def test_will_need_asks_for_what_is_not_in_the_cache(tmp_path, monkeypatch, asked):
    paths = [records.write_shard(tmp_path / f"{number}.tfrecord", PAYLOADS) for number in range(3)]
    shards = Shards([scan(path) for path in paths])
    shards.prefetch(range(12))
    assert asked == []

    def not_there(*args):
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", not_there, raising=False)
    shards.prefetch([9, 2, 3, 5])
    assert asked == [(OFFSETS[2], ENDS[3] - OFFSETS[2]), (OFFSETS[1], SIZES[1]), (OFFSETS[1], SIZES[1])]
    asked.clear()
    monkeypatch.setattr(shards_module, "_GAP", 0)
    monkeypatch.setattr(tfrecord, "_ADVICE", 200)
    shards.prefetch([2, 0])
    assert asked == [(0, SIZES[0]), (OFFSETS[2], 200), (OFFSETS[2] + 200, SIZES[2] - 200)]


def test_will_need_leaves_errors_to_reading(tmp_path, asked):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    shards = Shards([scan(path)])
    path.unlink()
    shards.prefetch([0, 1])
    assert asked == []
    with pytest.raises(DataError, match="readable shard"):
        shards.record(shards.locate([0])[0])
