"""Batches read at once against the same records read one by one, and against what was written."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.datamodules import records
from yt8m.datamodules import tfrecord
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.parse import frames as frame_reader
from yt8m.datamodules.parse import layouts
from yt8m.datamodules.parse import videos as video_reader
from yt8m.errors import DataError

SIZES = {"video": {"mean_rgb": 6, "mean_audio": 3}, "frame": {"rgb": 6, "audio": 3}}
CLASSES = 3862


@pytest.fixture(params=SIZES)
def level(request):
    return request.param


@pytest.fixture
def open_shard(tmp_path, level):
    def open_shard(payloads, **arguments):
        path = records.write_shard(tmp_path / "a.tfrecord", payloads)
        return ShardDataset([path], SIZES[level], CLASSES, level=level, **arguments)

    return open_shard


def video(rng, level, frames=2, **changes):
    """Context and feature lists of a video; no lists at video level."""
    name = changes.pop("name", None)
    if level == "video":
        return records.pooled_video(rng, SIZES[level], CLASSES, name) | changes, {}
    context, lists = records.frame_video(rng, frames, SIZES[level], CLASSES, name)
    for key in SIZES[level].keys() & changes.keys():
        lists[key] = changes.pop(key)
    return context | changes, lists


def payload(level, context, lists):
    return records.example(context) if level == "video" else records.sequence_example(context, lists)


def outcome(dataset, numbers, monkeypatch, at_once):
    """All of the batch, features by their bits, or the message of the error."""
    with monkeypatch.context() as patch:
        if not at_once:
            patch.setattr(dataset, "_read_fast", lambda *_: None)
        try:
            batch = dataset.__getitems__(numbers)
        except DataError as error:
            return str(error)
    index = None if batch.label_index is None else batch.label_index.tolist()
    return batch.ids, batch.features.numpy().tobytes(), batch.num_frames.tolist(), index, batch.errors


def assert_agrees(dataset, numbers, monkeypatch):
    """Both ways agree on the batch; whether it was read at once."""
    expected = outcome(dataset, numbers, monkeypatch, at_once=False)
    assert outcome(dataset, numbers, monkeypatch, at_once=True) == expected
    return read_at_once(dataset, numbers)


def read_at_once(dataset, numbers):
    try:
        return dataset.__getitems__(numbers).slow_records == 0
    except DataError:
        return False


@pytest.mark.parametrize("rows", [64, 4])
@pytest.mark.parametrize("most", [1 << 10, 3])
def test_usual_videos_are_read_at_once(rng, level, open_shard, monkeypatch, rows, most):
    monkeypatch.setattr(video_reader, "_ROWS", rows)
    for module in (layouts, frame_reader):
        monkeypatch.setattr(module, "_MAX_LAYOUTS", most)
    videos = []
    for number in range(60):
        labels = rng.integers(0, CLASSES, rng.integers(1, 40))  # unsorted, some twice, of one and two bytes
        name = "é" * int(rng.integers(1, 30)) + str(number)
        context, lists = video(rng, level, int(rng.integers(1, 20)), name=name, labels=labels)
        context |= {"other": np.ones(2, np.float32), "note": "text"} if number % 3 else {}
        lists |= {"more": np.ones((3, 200), np.uint8)} if lists and number % 2 else {}
        videos.append((records.shuffled(rng, context), records.shuffled(rng, lists)))
    dataset = open_shard([payload(level, *parts) for parts in videos], max_frames=12)
    for numbers in (np.arange(60), rng.integers(0, 60, 23), list(range(5)), [7]):
        assert assert_agrees(dataset, numbers, monkeypatch)
        batch = dataset.__getitems__(numbers)
        assert batch.ids == [videos[number][0]["id"] for number in numbers]
        expected = [
            np.hstack([(videos[number][0] | videos[number][1])[key] for key in SIZES[level]])
            for number in numbers
        ]
        expected = expected if level == "video" else np.concatenate([rows[:12] for rows in expected])
        np.testing.assert_array_equal(batch.features, expected)
        labels = [
            [row, label]
            for row, number in enumerate(numbers)
            for label in sorted({*videos[number][0]["labels"]})
        ]
        assert batch.label_index.tolist() == labels


def test_unlabelled_videos_are_read_at_once(rng, level, open_shard, monkeypatch):
    videos = [video(rng, level) for _ in range(9)]
    for context, _ in videos[:6]:
        del context["labels"]
    dataset = open_shard([payload(level, *parts) for parts in videos])
    assert assert_agrees(dataset, [0, 3, 5, 1], monkeypatch)
    assert not assert_agrees(dataset, [0, 3, 7, 8], monkeypatch)
    assert not assert_agrees(dataset, [7, 8, 0, 3], monkeypatch)


REAL = {
    "video": ("yt8m/2/video/*/*.tfrecord", {"mean_rgb": 1024, "mean_audio": 128}, "id"),
    "frame": ("audioset/*/*.tfrecord", {"audio_embedding": 128}, "video_id"),
}


def test_real_shards_are_read_at_once(shared_data, rng, level):
    pattern, features, id_key = REAL[level]
    paths = sorted(shared_data.glob(pattern))[::3]
    dataset = ShardDataset(paths, features, CLASSES, level=level, id_key=id_key)
    assert read_at_once(dataset, rng.permutation(len(dataset)))


UNUSUAL = {
    "label of four bytes": {"labels": [1, 1 << 21]},
    "label C": {"labels": [CLASSES]},
    "label -1": {"labels": [-1]},
    "no labels in the list": {"labels": []},
    "long id": {"id": "x" * 20000},
    "integers of another key": {"other": [1, 2]},
    "id not in UTF-8": {"id": b"\xff\xfe"},
    "two ids": {"id": [b"a", b"b"]},
    "id of integers": {"id": [5]},
    "labels of floats": {"labels": np.ones(2, np.float32)},
}
UNUSUAL_FEATURES = {
    "video": {
        "long feature": {"mean_rgb": np.ones(7, np.float32)},
        "feature of bytes": {"mean_rgb": b"1" * 24},
        "NaN": {"mean_audio": np.array([1, np.nan, 1], np.float32)},
        "-inf": {"mean_audio": np.array([1, -np.inf, 1], np.float32)},
    },
    "frame": {
        "wide feature": {"rgb": np.ones((2, 7), np.uint8)},
        "fewer frames of one": {"audio": np.ones((1, 3), np.uint8)},
        "more frames of one": {"audio": np.ones((5, 3), np.uint8)},
        "no frames": {"rgb": np.ones((0, 6), np.uint8), "audio": np.ones((0, 3), np.uint8)},
        "frames of two sizes": {"rgb": [b"123456", b"12345"]},
        "empty frames": {"rgb": [b"", b""]},
    },
}


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_unusual_videos(rng, level, open_shard, monkeypatch, on_corrupt):
    for changes in (UNUSUAL | UNUSUAL_FEATURES[level]).values():
        videos = [video(rng, level, **{"name": "abcd"} | extra) for extra in ({}, changes, {})]
        dataset = open_shard([payload(level, *parts) for parts in videos], on_corrupt=on_corrupt)
        assert_agrees(dataset, [0, 1, 2], monkeypatch)
        assert_agrees(dataset, [1, 1], monkeypatch)
        assert assert_agrees(dataset, [2, 0], monkeypatch)


@pytest.mark.parametrize("ending", [b"", b"\x12\x00"], ids=["plain", "empty second field"])
def test_every_single_byte_changed(rng, level, open_shard, monkeypatch, ending):
    other = np.ones(1, np.float32)
    sound = payload(level, *video(rng, level, name="abcd", labels=[3, 300], other=other)) + ending
    changed = [
        sound[:position] + bytes([sound[position] ^ change]) + sound[position + 1 :]
        for position in range(len(sound))
        for change in (1, 2, 3, 8, 0x10, 0x80, 0xFF)
    ]
    dataset = open_shard([sound, *changed])
    at_once = sum(assert_agrees(dataset, [0, number, 0], monkeypatch) for number in range(1, len(dataset)))
    usual = level == "video" or not ending
    assert len(changed) / 4 < at_once < len(changed) if usual else at_once == 0


def test_random_edits(rng, level, open_shard, monkeypatch):
    sound = payload(level, *video(rng, level, name="abcd", labels=[3, 300]))
    changed = []
    for _ in range(1500):
        edited = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            first, second = sorted(rng.integers(0, len(sound), 2))
            kind, size = rng.integers(0, 5), int(rng.integers(0, 9))
            if kind == 0:
                del edited[first : first + size]
            elif kind == 1:
                edited[second:second] = edited[first : first + size]
            elif kind == 2:
                edited[second : second + size], edited[first : first + size] = (
                    edited[first : first + size],
                    edited[second : second + size],
                )
            elif kind == 3:
                del edited[second:]
            else:
                edited[first : first + 1] = rng.bytes(1)
        changed.append(bytes(edited))
    dataset = open_shard([sound, *changed])
    for number in range(1, len(dataset)):
        assert_agrees(dataset, [0, number, 0], monkeypatch)


def test_one_length_and_beginning_for_two_layouts(rng, level, open_shard, monkeypatch):
    context, lists = video(rng, level, name="ab", labels=[3, 4])
    keys = [key for key in context if key not in ("id", "labels")]
    orders = [
        payload(level, {key: context[key] for key in (*keys, *ends)}, features)
        for ends in (("id", "labels"), ("labels", "id"))
        for features in (lists, dict(reversed(lists.items())))
    ]
    dataset = open_shard(orders)
    assert len({size for _, size in tfrecord.index(dataset.paths[0]).tolist()}) == 1
    for _ in range(3):
        assert assert_agrees(dataset, [0, 3, 0, 2, 1, 1], monkeypatch)


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_shard_cut_short_while_open(rng, level, open_shard, on_corrupt):
    dataset = open_shard([payload(level, *video(rng, level)) for _ in range(200)], on_corrupt=on_corrupt)
    dataset.__getitems__(range(200))
    os.truncate(dataset.paths[0], 5000)
    with pytest.raises(DataError, match="found it changed or gone"):
        dataset.__getitems__(range(200))


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_shard_gone_before_it_was_opened(rng, level, open_shard, on_corrupt):
    dataset = open_shard([payload(level, *video(rng, level)) for _ in range(20)], on_corrupt=on_corrupt)
    os.unlink(dataset.paths[0])
    with pytest.raises(DataError, match="expected a readable shard, found: No such file"):
        dataset.__getitems__(range(20))


def test_threads_and_a_pickled_copy(rng, level, open_shard, monkeypatch):
    monkeypatch.setattr(layouts, "_MAX_LAYOUTS", 2)
    videos = [video(rng, level, 1 + number % 7) for number in range(50)]
    dataset = open_shard([payload(level, *parts) for parts in videos])
    copy = pickle.loads(pickle.dumps(dataset))
    orders = [rng.permutation(50) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for numbers, batch in zip(orders, pool.map(copy.__getitems__, orders), strict=True):
            assert batch.ids == [videos[number][0]["id"] for number in numbers]
            assert torch.equal(batch.features, dataset.__getitems__(numbers).features)


def test_damaged_bytes_are_found(rng, level, tmp_path, monkeypatch):
    payloads = [payload(level, *video(rng, level, name="abcd", labels=[3])) for _ in range(3)]
    data = b"".join(map(records.framed, payloads))
    size = len(payloads[0]) + 16
    path = tmp_path / "a.tfrecord"
    dataset = None
    for position in range(size):
        # Written in place behind the index's back: size and time stay.
        path.write_bytes(
            data[: size + position] + bytes([data[size + position] ^ 4]) + data[size + position + 1 :]
        )
        os.utime(path, ns=(1, 1))
        if dataset is None:
            index = np.array([[0, size], [size, size], [2 * size, size]])
            (tmp_path / "a.tfindex").write_text("".join(f"{offset} {length}\n" for offset, length in index))
            dataset = ShardDataset([path], SIZES[level], CLASSES, level=level)
        assert not assert_agrees(dataset, [0, 1, 2], monkeypatch)
        assert assert_agrees(dataset, [0, 2], monkeypatch)
        assert f"@ byte {size}: " in outcome(dataset, [0, 1, 2], monkeypatch, at_once=True)


def _send(dataset, numbers, queue):
    queue.put(dataset.__getitems__(numbers).ids)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_process_forked_after_torch_used_threads(rng, tmp_path):
    sizes = {"mean_rgb": 1024, "mean_audio": 128}
    path = records.write_shard(
        tmp_path / "a", [records.example(records.pooled_video(rng, sizes, CLASSES)) for _ in range(64)]
    )
    dataset = ShardDataset([path], sizes, CLASSES, level="video")
    ids = dataset.__getitems__(range(64)).ids
    torch.ones(1 << 20).sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_send, args=(dataset, range(64), queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) == ids
    process.join()
