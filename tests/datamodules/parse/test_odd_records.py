"""One odd record in a batch: it alone is read carefully, in its place, and the batch equals one read carefully."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tests.datamodules import records
from yt8m.datamodules.dataset import ShardDataset
from yt8m.errors import DataError

SIZES = {"rgb": 6, "audio": 3}
CLASSES = 40
NEGATIVE = [-5, 2**40]


def open_shard(folder, videos, level="frame", **arguments):
    """A dataset of these (context, lists) pairs; damaged where the context holds "damage"."""
    data = b""
    for context, lists in videos:
        context = dict(context)
        damage = context.pop("damage", False)
        payload = records.example(context) if level == "video" else records.sequence_example(context, lists)
        framed = bytearray(records.framed(payload))
        framed[-1] ^= damage
        data += framed
    path = folder / "a.tfrecord"
    path.write_bytes(data)
    return ShardDataset([path], SIZES, CLASSES, level=level, **arguments)


def make(rng, level, dtype="uint8", **changes):
    """Context and lists of a usual record."""
    context, lists = records.frame_video(rng, int(rng.integers(5, 20)), SIZES, CLASSES)
    if dtype == "float32":
        lists = {key: [row.astype(np.float32) * 0.3 for row in rows] for key, rows in lists.items()}
    if level == "video":
        context, lists = records.pooled_video(rng, SIZES, CLASSES), {}
    if level == "segment":
        starts = rng.choice(len(lists["rgb"]), 3).tolist()
        context = {
            "id": context["id"],
            "segment_start_times": starts,
            "segment_end_times": [start + 5 for start in starts],
            "segment_labels": rng.integers(0, CLASSES, 3),
            "segment_scores": rng.integers(0, 2, 3).astype(np.float32),
        }
    return context | changes, lists


def extra(context, lists):
    """Integers, floats, and bytes under keys that the dataset does not use."""
    unused = {
        "year": NEGATIVE,
        "none": [],
        "speed": np.ones(3, np.float32),
        "nothing": np.ones(0, np.float32),
        "text": "x",
        "texts": [b"a", b"bcd", b""],
    }
    return unused | context, lists


def odd_but_valid(context, lists):
    """A record that only protobuf understands: a list without a kind."""
    return context | {"nothing": None}, lists


def damaged(context, lists):
    return context | {"damage": True}, lists


def no_id(context, lists):
    return {key: value for key, value in context.items() if key != "id"}, lists


def strange_label(context, lists):
    key = "segment_labels" if "segment_labels" in context else "labels"
    return context | {key: [CLASSES] * len(context[key])}, lists


def assert_same(batch, other):
    for name in ("ids", "errors", "longest", "unrated"):
        assert getattr(batch, name) == getattr(other, name), name
    for name in ("features", "num_frames", "label_index", "label_mask"):
        one, two = getattr(batch, name), getattr(other, name)
        assert (one is None) == (two is None), name
        assert one is None or torch.equal(one, two), name


def carefully(dataset, numbers, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_read_fast", lambda *_: None)
        return dataset.__getitems__(numbers)


@pytest.mark.parametrize("level", ["frame", "video", "segment"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_extra_keys_and_segments_are_read_fast(rng, tmp_path, monkeypatch, level, dtype):
    videos = [extra(*make(rng, level, dtype)) for _ in range(12)]
    dataset = open_shard(tmp_path, videos, level, dtype=dtype)
    for numbers in (range(12), rng.permutation(12).tolist(), [3], [5, 5]):
        batch = dataset.__getitems__(numbers)
        assert batch.slow_records == 0
        assert len(batch)
        assert_same(batch, carefully(dataset, numbers, monkeypatch))


@pytest.mark.parametrize("level", ["frame", "video", "segment"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_only_odd_records_are_read_carefully(rng, tmp_path, monkeypatch, level, dtype):
    kinds = [odd_but_valid, damaged, no_id, strange_label]
    for kind in (*kinds, "mixed"):
        videos = [make(rng, level, dtype) for _ in range(12)]
        odd = [2, 3, 7, 11]
        for place, position in enumerate(odd):
            chosen = kinds[place] if kind == "mixed" else kind
            videos[position] = chosen(*videos[position])
        dataset = open_shard(tmp_path, videos, level, dtype=dtype, on_corrupt="skip")
        for numbers in (range(12), rng.permutation(12).tolist(), [2, 0], [0, 2], [11], [1, 4]):
            buffer = torch.zeros(dataset.max_rows(numbers), dataset.feature_size, dtype=dataset.dtype)
            batch = dataset.read_into(numbers, buffer)
            assert batch.slow_records == len({*odd} & {*numbers}), kind
            assert_same(batch, carefully(dataset, numbers, monkeypatch))
            assert batch.features.data_ptr() == buffer.data_ptr() or not len(batch)
        whole = open_shard(tmp_path, videos, level, dtype=dtype)
        for numbers in (range(12), range(11, -1, -1)):
            with pytest.raises(DataError) if kind != odd_but_valid else nullcontext() as fast:
                whole.__getitems__(numbers)
            with pytest.raises(DataError) if kind != odd_but_valid else nullcontext() as slow:
                carefully(whole, numbers, monkeypatch)
            assert str(fast and fast.value) == str(slow and slow.value), kind


@pytest.mark.parametrize("level", ["frame", "video", "segment"])
def test_values_that_are_not_finite_are_found_in_their_record(rng, tmp_path, monkeypatch, level):
    videos = [make(rng, level, "float32") for _ in range(6)]
    for position, value in ((1, np.nan), (4, -np.inf)):
        context, lists = videos[position]
        if level == "video":
            context["audio"][1] = value
        else:
            for row in lists["audio"]:
                row[1] = value
    dataset = open_shard(tmp_path, videos, level, dtype="float32", on_corrupt="skip")
    batch = dataset.__getitems__(range(6))
    assert batch.slow_records == len(batch.errors) == 2
    assert all("expected audio of finite numbers, found NaN or infinity" in error for error in batch.errors)
    assert_same(batch, carefully(dataset, range(6), monkeypatch))


def test_frames_of_the_other_dtype_are_an_error(rng, tmp_path):
    for stored, configured, says in (
        ("uint8", "float32", "expected frames of rgb to be lists of floats of one size, found bytes_list"),
        ("float32", "uint8", "expected frames of rgb to be single byte strings of one size, found 0 values"),
    ):
        dataset = open_shard(tmp_path, [make(rng, "frame", stored)], dtype=configured)
        with pytest.raises(DataError, match=says):
            dataset.__getitems__([0])


@pytest.mark.parametrize(
    "ratings", ["none", "no labels", "no scores", "unequal", "late start", "overlapping"]
)
def test_segments_with_unusual_ratings(rng, tmp_path, monkeypatch, ratings):
    """Rated and unrated videos, and ratings that do not fit, as the careful reader has them."""
    videos = [make(rng, "segment") for _ in range(6)]
    for position in range(6) if ratings in ("none", "no labels", "overlapping") else [3]:
        context, lists = videos[position]
        if ratings in ("none", "no labels"):
            del context["segment_labels"], context["segment_scores"]
        if ratings == "none":
            del context["segment_start_times"]
        if ratings == "no scores":
            del context["segment_scores"]
        if ratings == "unequal":
            context["segment_scores"] = np.ones(2, np.float32)
        if ratings == "late start":
            context["segment_start_times"] = [0, 1, 300]
        if ratings == "overlapping":
            count = len(lists["rgb"]) - 1
            context["segment_start_times"] = list(range(count))
            context["segment_labels"] = [1] * count
            context["segment_scores"] = np.ones(count, np.float32)
    dataset = open_shard(tmp_path, videos, "segment", on_corrupt="skip")
    buffer = torch.zeros(130, 9, dtype=torch.uint8)
    batch = dataset.read_into(range(6), buffer)
    assert batch.slow_records == (0 if ratings in ("none", "no labels", "overlapping") else 1)
    expected = carefully(dataset, range(6), monkeypatch)
    assert_same(batch, expected)
    assert batch.unrated == (6 if ratings in ("none", "no labels") else 0)
    if batch.ids:
        in_buffer = batch.features.data_ptr() == buffer.data_ptr()
        assert in_buffer == (ratings != "overlapping")  # too many rows: memory of its own
