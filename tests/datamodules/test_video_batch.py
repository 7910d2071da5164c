"""Video-level batches read at once against the same records read one by one, and against what was written."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from tests.datamodules import records
from yt8m.datamodules import dataset as dataset_module
from yt8m.datamodules import tfrecord, video_batch
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.tfrecord import DataError

VIDEO = {"mean_rgb": 6, "mean_audio": 3}
CLASSES = 3862


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def open_shard(tmp_path):
    def open_shard(payloads, **arguments):
        path = records.write_shard(tmp_path / "a.tfrecord", payloads)
        return ShardDataset([path], VIDEO, CLASSES, level="video", **arguments)

    return open_shard


def video(rng, **changes):
    return records.pooled_video(rng, VIDEO, CLASSES, changes.pop("name", None)) | changes


def outcome(dataset, numbers, monkeypatch, at_once):
    """All of the batch, features by their bits, or the message of the error."""
    monkeypatch.setattr(dataset_module, "_MANY_VIDEOS", 1 if at_once else 1 << 30)
    try:
        batch = dataset.__getitems__(numbers)
    except DataError as error:
        return str(error)
    index = None if batch.label_index is None else batch.label_index.tolist()
    return batch.ids, batch.features.numpy().tobytes(), batch.num_frames.tolist(), index, batch.faults


def assert_agrees(dataset, numbers, monkeypatch):
    """Both ways agree on the batch; whether it was read at once."""
    expected = outcome(dataset, numbers, monkeypatch, at_once=False)
    assert outcome(dataset, numbers, monkeypatch, at_once=True) == expected
    out = np.empty((len(numbers), dataset.feature_size), np.float32)
    return dataset._videos.read(numbers, out) is not None


@pytest.mark.parametrize("chunk", [256, 4])
@pytest.mark.parametrize("most", [1 << 10, 3])
def test_usual_videos_are_read_at_once(rng, open_shard, monkeypatch, chunk, most):
    monkeypatch.setattr(video_batch, "_CHUNK", chunk)
    monkeypatch.setattr(video_batch, "_MAX_LAYOUTS", most)
    videos = []
    for number in range(60):
        labels = rng.integers(0, CLASSES, rng.integers(1, 40))  # unsorted, some twice, of one and two bytes
        values = video(rng, name="é" * int(rng.integers(1, 30)) + str(number), labels=labels)
        values |= {"other": np.ones(2, np.float32), "note": "text"} if number % 3 else {}
        videos.append(records.shuffled(rng, values))
    dataset = open_shard(map(records.example, videos))
    for numbers in (np.arange(60), rng.integers(0, 60, 23), list(range(5))):
        assert assert_agrees(dataset, numbers, monkeypatch)
        batch = dataset.__getitems__(numbers)
        assert batch.ids == [videos[number]["id"] for number in numbers]
        expected = [np.hstack([videos[number][key] for key in VIDEO]) for number in numbers]
        np.testing.assert_array_equal(batch.features, expected)
        labels = [
            [row, label]
            for row, number in enumerate(numbers)
            for label in sorted({*videos[number]["labels"]})
        ]
        assert batch.label_index.tolist() == labels


def test_unlabelled_videos_are_read_at_once(rng, open_shard, monkeypatch):
    videos = [video(rng) for _ in range(9)]
    for values in videos[:6]:
        del values["labels"]
    dataset = open_shard(map(records.example, videos))
    assert assert_agrees(dataset, [0, 3, 5, 1], monkeypatch)
    for chunk in (256, 2):
        monkeypatch.setattr(video_batch, "_CHUNK", chunk)
        assert not assert_agrees(dataset, [0, 3, 7, 8], monkeypatch)
        assert not assert_agrees(dataset, [7, 8, 0, 3], monkeypatch)


def test_real_shards_are_read_at_once(shared_data, rng):
    paths = sorted(shared_data.glob("yt8m/2/video/*/*.tfrecord"))[::7]
    dataset = ShardDataset(paths, {"mean_rgb": 1024, "mean_audio": 128}, CLASSES, level="video")
    out = np.empty((len(dataset), 1152), np.float32)
    assert dataset._videos.read(rng.permutation(len(dataset)), out) is not None


UNUSUAL = {
    "label of four bytes": {"labels": [1, 1 << 21]},
    "label C": {"labels": [CLASSES]},
    "label -1": {"labels": [-1]},
    "no labels in the list": {"labels": []},
    "integers of another key": {"other": [1, 2]},
    "id not in UTF-8": {"id": b"\xff\xfe"},
    "two ids": {"id": [b"a", b"b"]},
    "id of integers": {"id": [5]},
    "labels of floats": {"labels": np.ones(2, np.float32)},
    "long feature": {"mean_rgb": np.ones(7, np.float32)},
    "feature of bytes": {"mean_rgb": b"1" * 24},
    "NaN": {"mean_audio": np.array([1, np.nan, 1], np.float32)},
    "finite, with an infinite sum": {"mean_audio": np.full(3, 3e38, np.float32)},
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_unusual_videos(rng, open_shard, monkeypatch, changes, on_corrupt):
    payloads = [records.example(video(rng, name="abcd", **extra)) for extra in ({}, changes, {})]
    dataset = open_shard(payloads, on_corrupt=on_corrupt)
    assert_agrees(dataset, [0, 1, 2], monkeypatch)
    assert_agrees(dataset, [1, 1], monkeypatch)
    assert assert_agrees(dataset, [2, 0], monkeypatch)


@pytest.mark.parametrize("ending", [b"", b"\x12\x00"], ids=["plain", "empty second field"])
def test_every_single_byte_changed(rng, open_shard, monkeypatch, ending):
    sound = records.example(video(rng, name="abcd", labels=[3, 300], other=np.ones(1, np.float32))) + ending
    changed = [
        sound[:position] + bytes([sound[position] ^ change]) + sound[position + 1 :]
        for position in range(len(sound))
        for change in (1, 2, 3, 8, 0x10, 0x80, 0xFF)
    ]
    dataset = open_shard([sound, *changed])
    at_once = sum(assert_agrees(dataset, [0, number, 0], monkeypatch) for number in range(1, len(dataset)))
    assert len(changed) / 4 < at_once < len(changed)


def test_random_edits(rng, open_shard, monkeypatch):
    sound = records.example(video(rng, name="abcd", labels=[3, 300]))
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


def test_one_length_and_beginning_for_two_layouts(rng, open_shard, monkeypatch):
    values = video(rng, name="ab", labels=[3, 4])
    ends = [("id", "labels"), ("labels", "id")]
    orders = [{key: values[key] for key in ("mean_rgb", "mean_audio", *end)} for end in ends]
    dataset = open_shard(map(records.example, orders))
    assert len({size for _, size in tfrecord.index(dataset.paths[0]).tolist()}) == 1
    for _ in range(3):
        assert assert_agrees(dataset, [0, 1, 0, 1, 1], monkeypatch)
    assert len(dataset._videos._known) == 2


def test_shard_cut_short_while_open(rng, open_shard, monkeypatch):
    monkeypatch.setattr(dataset_module, "_MANY_VIDEOS", 1)
    dataset = open_shard([records.example(video(rng)) for _ in range(200)])
    dataset.__getitems__(range(200))
    os.truncate(dataset.paths[0], 5000)
    with pytest.raises(DataError, match="found it changed or gone"):
        dataset.__getitems__(range(200))


def test_damaged_bytes_are_found(rng, tmp_path, monkeypatch):
    payloads = [records.example(video(rng, name="abcd", labels=[3])) for _ in range(3)]
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
            dataset = ShardDataset([path], VIDEO, CLASSES, level="video")
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
