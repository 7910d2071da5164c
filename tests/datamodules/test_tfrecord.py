"""Framing against an independent writer and the `tfrecord` package, with every kind of damage."""

import gzip
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord.reader import tfrecord_iterator

from tests.datamodules import records
from tests.datamodules.records import ENDS, OFFSETS, PAYLOADS, SIZES
from yt8m.datamodules import tfrecord
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import index, read, scan
from yt8m.errors import DataError

HUGE = struct.pack("<Q", 2**63)


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
    assert len(found.errors) == 1
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


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([*map(records.framed, PAYLOADS), HUGE]))
    ),
    compress=st.booleans(),
)
def test_random_bytes_never_pass_for_records(tmp_path, parts, compress):
    path = tmp_path / "a.tfrecord"
    data = b"".join(parts)
    path.write_bytes(gzip.compress(data) if compress else data)
    found = scan(path, cache=False)
    assert bool(found.errors) == (sum(size for _, size in found.records.tolist()) < len(data) or not data)
    sound = {bytes(part) for part in map(records.framed, PAYLOADS)}
    for (offset, size), payload in zip(found.records.tolist(), all_records(found), strict=True):
        assert records.framed(payload) == data[offset : offset + size] in sound


def test_cut_anywhere(tmp_path):
    path = tmp_path / "a.tfrecord"
    for size in [*range(1, 70), *range(RECORD - 1, RECORD + 20), *range(ENDS[2] - 6, ENDS[3])]:
        damaged_shard(path, False, lambda data, size=size: data.__delitem__(slice(size, None)))
        whole = [end for end in ENDS if end <= size]
        found = scan(path, cache=False)
        assert len(found.records) == len(whole)
        if size in ENDS:
            assert not found.errors
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
    assert found.errors
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
            assert f"({len(stretch) - shift * 7} bytes without a readable record)" in found.errors[0]


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.tfrecord", tmp_path):
        with pytest.raises(DataError, match=r"expected a readable shard, found: .*; check dataset\.root"):
            index(path)
