"""Framing against an independent writer and the `tfrecord` package, with every kind of damage."""

import gzip
import multiprocessing
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import pytest
from tfrecord.reader import tfrecord_iterator

from tests.datamodules import records
from yt8m.datamodules import shards as shards_module
from yt8m.datamodules import tfrecord
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import DataError, index, read, scan

PAYLOADS = [bytes([number]) * length for number, length in enumerate((17, 1, 300, 5), start=1)]
SIZES = [len(payload) + 16 for payload in PAYLOADS]
ENDS = list(accumulate(SIZES))
OFFSETS = [0, *ENDS[:-1]]


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def compress(request):
    return request.param


def damaged_shard(path, compress, damage=lambda data: None):
    data = bytearray(b"".join(map(records.framed, PAYLOADS)))
    damage(data)
    path.write_bytes(gzip.compress(bytes(data)) if compress else bytes(data))
    return path


def test_index_and_payloads(tmp_path, compress):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS, compress)
    for _ in ("walked", "cached"):
        found = index(path)
        assert found.dtype == np.int64
        assert found.tolist() == list(map(list, zip(OFFSETS, SIZES, strict=True)))
    assert list(read(path)) == PAYLOADS
    assert list(read(path, [3, 0, 3])) == [PAYLOADS[3], PAYLOADS[0], PAYLOADS[3]]
    assert sorted(os.listdir(tmp_path)) == ["a.tfrecord", "cache"]
    assert len(os.listdir(tmp_path / "cache" / "index")) == 1
    with pytest.raises(IndexError, match=r"0\.\.3, found 4"):
        list(read(path, [4]))


def test_index_touches_only_headers(tmp_path, monkeypatch):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    asked = []
    plain_read = tfrecord.File.read
    monkeypatch.setattr(
        tfrecord.File, "read", lambda self, *args: asked.append(args) or plain_read(self, *args)
    )
    index(path)
    assert asked == [(offset, 12) for offset in OFFSETS]
    asked.clear()
    index(path)
    assert not asked


@pytest.mark.parametrize("name", ["a.tfindex", "a.tfrecord.tfindex"])
def test_fitting_sidecar_is_used(tmp_path, monkeypatch, name):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    rows = "".join(f"{offset} {size}\n" for offset, size in zip(OFFSETS, SIZES, strict=True))
    (tmp_path / name).write_text(rows)
    monkeypatch.setattr(tfrecord, "_walk", lambda file: pytest.fail("the shard was walked"))
    assert index(path)[:, 0].tolist() == OFFSETS


@pytest.mark.parametrize(
    "rows",
    [
        "0 33\n33 17\n50 316\n",
        "0 33\n33 17\n51 315\n366 21\n",
        "0 33\n33 333\n366 20\n",
        "0 33\n33 344\n377 10\n",
        "0 33\n33\n",
        "",
        "offset size\n",
        f"0 {2**70}\n",
    ],
    ids=["short", "gap", "end", "last header", "odd", "empty", "text", "huge"],
)
def test_sidecar_that_does_not_fit_is_ignored(tmp_path, rows):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    (tmp_path / "a.tfindex").write_text(rows)
    assert index(path)[:, 0].tolist() == OFFSETS


def test_sidecar_of_another_shard_is_named(tmp_path):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    (tmp_path / "a.tfindex").write_text("0 33\n33 18\n51 315\n366 21\n")
    with pytest.raises(DataError, match=r"@ byte 33: expected the header of a record of 2 bytes.*\.tfindex"):
        list(read(path))


def test_older_sidecar_is_ignored(tmp_path):
    path = records.write_shard(tmp_path / "a.tfrecord", [b"x" * 10, b"y" * 20])
    (tmp_path / "a.tfindex").write_text("0 26\n26 36\n")
    os.utime(tmp_path / "a.tfindex", (1, 1))
    records.write_shard(path, [b"z" * 4, b"y" * 26])
    assert index(path).tolist() == [[0, 20], [20, 42]]


def test_sidecar_of_a_cut_shard_does_not_hide_the_cut(tmp_path):
    path = damaged_shard(tmp_path / "a.tfrecord", False, lambda data: data.__delitem__(slice(-3, None)))
    sizes = [*SIZES[:3], SIZES[3] - 3]  # as tfrecord2idx writes it
    (tmp_path / "a.tfindex").write_text(
        "".join(f"{offset} {size}\n" for offset, size in zip(OFFSETS, sizes, strict=True))
    )
    with pytest.raises(DataError, match=f"@ byte {OFFSETS[3]}: expected a record of 21 bytes, found 18"):
        index(path)


def test_cache_follows_the_file(tmp_path, cache_folder, compress):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS, compress)
    index(path)
    records.write_shard(path, PAYLOADS[::-1], compress)
    os.utime(path, ns=(1, 1))
    assert index(path)[:, 1].tolist() == SIZES[::-1]
    (cached,) = (cache_folder / "index").iterdir()
    data = cached.read_bytes()
    for broken in (data[:-1], data[:40] + b"\xff" + data[41:], b"", b"\x80\x04", data[:20]):
        cached.write_bytes(broken)
        assert index(path)[:, 1].tolist() == SIZES[::-1]
        assert cached.read_bytes() == data


def test_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "file"))
    assert len(index(records.write_shard(tmp_path / "a.tfrecord", PAYLOADS))) == 4


def test_matches_tfrecord_package_on_real_shards(shared_data):
    for path in sorted(shared_data.glob("*/bal_train/*0-of*")) + sorted(shared_data.glob("yt8m-2017/*")):
        assert list(read(path)) == [bytes(payload) for payload in tfrecord_iterator(str(path))]


def flip(position, bit=0):
    def damage(data):
        data[position] ^= 1 << bit

    return damage


def put(position, content):
    def damage(data):
        data[position : position + len(content)] = content

    return damage


HUGE = struct.pack("<Q", 2**63)
RECORD = OFFSETS[2]  # the record that is damaged, of four

# Damage, the offset it is reported at, and the records that are left.
INDEX_FAULTS = {
    "length": (flip(RECORD), RECORD, [0, 1, 3]),
    "length, high byte": (flip(RECORD + 7, 7), RECORD, [0, 1, 3]),
    "CRC of length": (flip(RECORD + 8), RECORD, [0, 1, 3]),
    "2**63 bytes": (put(RECORD, HUGE), RECORD, [0, 1, 3]),
    "2**63 bytes, valid CRC": (
        put(RECORD, HUGE + struct.pack("<I", records.masked_crc(HUGE))),
        RECORD,
        [0, 1, 3],
    ),
    "first length": (flip(0), 0, [1, 2, 3]),
    "last length": (flip(OFFSETS[3]), OFFSETS[3], [0, 1, 2]),
    "garbage appended": (lambda data: data.extend(b"garbage " * 9), ENDS[3], [0, 1, 2, 3]),
    "one byte appended": (lambda data: data.append(0), ENDS[3], [0, 1, 2, 3]),
    "zeros appended": (lambda data: data.extend(bytes(4096)), ENDS[3], [0, 1, 2, 3]),
    "no record": (lambda data: data.clear(), 0, []),
}


@pytest.mark.parametrize(("damage", "offset", "left"), INDEX_FAULTS.values(), ids=INDEX_FAULTS)
def test_damaged_structure(tmp_path, compress, damage, offset, left):
    path = damaged_shard(tmp_path / "a.tfrecord", compress, damage)
    for use in (index, lambda path: list(read(path))):
        with pytest.raises(
            DataError, match=rf"a\.tfrecord @ byte {offset}: expected .*, found .*; re-download"
        ):
            use(path)
    found = scan(path)
    assert [number for number in range(4) if OFFSETS[number] in found.records[:, 0]] == left
    assert len(found.faults) == 1
    assert all_records(found) == [PAYLOADS[number] for number in left]


def all_records(found):
    if not len(found.records):
        return []
    shards = Shards([found])
    return [shards.record(place) for place in shards.locate(range(len(shards)))]


@pytest.mark.parametrize("position", [12, SIZES[2] - 5, SIZES[2] - 4, SIZES[2] - 1])
def test_damaged_payload(tmp_path, compress, position):
    path = damaged_shard(tmp_path / "a.tfrecord", compress, flip(RECORD + position, 3))
    assert len(index(path)) == 4
    assert list(read(path, [0, 1, 3])) == [PAYLOADS[0], PAYLOADS[1], PAYLOADS[3]]
    with pytest.raises(
        DataError, match=rf"@ byte {RECORD}: expected payload CRC \w{{8}}, found \w{{8}}; re-down"
    ):
        list(read(path))
    assert len(list(read(path, verify=False))) == 4


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "a.tfrecord"
    for position in range(0, ENDS[-1], 3):
        damaged_shard(path, False, flip(position, position % 8))
        with pytest.raises(DataError, match=r"@ byte \d+"):
            list(read(path))


def test_cut_anywhere(tmp_path):
    path = tmp_path / "a.tfrecord"
    for size in [*range(1, 70), *range(RECORD - 1, RECORD + 20), *range(ENDS[2] - 6, ENDS[3])]:
        damaged_shard(path, False, lambda data, size=size: data.__delitem__(slice(size, None)))
        whole = [end for end in ENDS if end <= size]
        found = scan(path, cache=False)
        assert len(found.records) == len(whole)
        if size in ENDS:
            assert not found.faults
        else:
            with pytest.raises(DataError, match=rf"@ byte {max([0, *whole])}: expected .*, found "):
                index(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: data[:-8] + bytes([data[-8] ^ 1]) + data[-7:],
        lambda data: data + b"tail",
        lambda data: data[:10] + bytes(10) + data[20:],
    ],
    ids=["trailer cut", "cut in half", "header cut", "CRC wrong", "tail", "zeros"],
)
def test_damaged_gzip_stream(tmp_path, damage):
    path = tmp_path / "a.tfrecord"
    noise = [np.random.default_rng(number).bytes(5000) for number in range(4)]
    path.write_bytes(damage(gzip.compress(b"".join(map(records.framed, noise)))))
    with pytest.raises(DataError, match=r"@ byte \d+: expected .*, found.*; re-download"):
        index(path)
    found = scan(path)
    assert found.faults
    assert set(all_records(found)) <= set(noise)


def test_records_after_a_long_damaged_stretch(tmp_path):
    path = tmp_path / "a.tfrecord"
    first, last = records.framed(b"first"), records.framed(b"last")
    rng = np.random.default_rng(0)
    for stretch in (rng.bytes(3 << 20), bytes(3 << 20)):
        for shift in range(3):
            path.write_bytes(first + stretch[: len(stretch) - shift * 7] + last)
            found = scan(path)
            assert all_records(found) == [b"first", b"last"]
            assert f"({len(stretch) - shift * 7} bytes without a readable record)" in found.faults[0]


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.tfrecord", tmp_path):
        with pytest.raises(DataError, match=r"expected a readable shard, found: .*; check dataset\.root"):
            index(path)


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
    shards.will_need(range(12))
    assert asked == []

    def not_there(*args):
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", not_there, raising=False)
    shards.will_need([9, 2, 3, 5])
    assert asked == [(OFFSETS[2], ENDS[3] - OFFSETS[2]), (OFFSETS[1], SIZES[1]), (OFFSETS[1], SIZES[1])]
    asked.clear()
    monkeypatch.setattr(shards_module, "_GAP", 0)
    monkeypatch.setattr(tfrecord, "_ADVICE", 200)
    shards.will_need([2, 0])
    assert asked == [(0, SIZES[0]), (OFFSETS[2], 200), (OFFSETS[2] + 200, SIZES[2] - 200)]


def test_will_need_leaves_errors_to_reading(tmp_path, asked):
    path = records.write_shard(tmp_path / "a.tfrecord", PAYLOADS)
    shards = Shards([scan(path)])
    path.unlink()
    shards.will_need([0, 1])
    assert asked == []
    with pytest.raises(DataError, match="readable shard"):
        shards.record(shards.locate([0])[0])
