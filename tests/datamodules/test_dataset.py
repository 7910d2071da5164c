"""Batches against the records that were written, against the `tfrecord` package on real shards."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from tfrecord.torch.dataset import TFRecordDataset

from tests.datamodules import records
from yt8m.datamodules.dataset import Batch, ShardDataset
from yt8m.errors import ConfigError

FRAME = {"rgb": 12, "audio": 5}
VIDEO = {"mean_rgb": 12, "mean_audio": 5}
CLASSES = 20


def write(path, videos, compress=False):
    """Write videos, frame level as (context, lists), video level as a dict, as they are if bytes."""
    payloads = [
        video
        if isinstance(video, bytes)
        else records.example(video)
        if isinstance(video, dict)
        else records.sequence_example(*video)
        for video in videos
    ]
    return records.write_shard(path, payloads, compress)


def frame_videos(rng, count, frames=40, **lists):
    videos = []
    for number in range(count):
        context, features = records.frame_video(
            rng, int(rng.integers(1, frames)), FRAME, CLASSES, f"v{number}"
        )
        context["unknown"] = [1, 2]
        videos.append((records.shuffled(rng, context), records.shuffled(rng, features | lists)))
    return videos


def pairs(classes):
    return [[row, label] for row, labels in enumerate(classes) for label in sorted(set(map(int, labels)))]


def assert_frames(batch, videos, max_frames=300):
    """A batch holds these videos, put together here frame by frame."""
    expected = [np.hstack([lists[key] for key in FRAME])[:max_frames] for _, lists in videos]
    assert batch.ids == [context["id"] for context, _ in videos]
    assert batch.num_frames.tolist() == [len(part) for part in expected]
    assert batch.num_frames.dtype == batch.label_index.dtype == torch.int64
    assert batch.features.dtype == torch.uint8
    np.testing.assert_array_equal(batch.features.numpy(), np.vstack(expected))
    assert batch.label_index.tolist() == pairs(context["labels"] for context, _ in videos)
    assert batch.label_mask is None
    assert batch.errors == []


@pytest.mark.parametrize("max_frames", [300, 7, 1])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_frame_level(tmp_path, rng, compress, max_frames):
    videos = frame_videos(rng, 30)
    paths = [write(tmp_path / f"{part}", videos[part::3], compress) for part in range(3)]
    order = [*range(0, 30, 3), *range(1, 30, 3), *range(2, 30, 3)]
    dataset = ShardDataset(paths, FRAME, CLASSES, max_frames=max_frames)
    assert len(dataset) == 30
    assert dataset.shard_sizes.tolist() == [10, 10, 10]
    assert dataset.paths == [str(path) for path in paths]
    for _ in range(5):
        numbers = rng.integers(0, 30, 12)
        assert_frames(dataset.__getitems__(numbers), [videos[order[n]] for n in numbers], max_frames)
    assert_frames(dataset[29], [videos[29]], max_frames)
    for numbers in ([30], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.29"):
            dataset.__getitems__(numbers)


def test_more_than_300_frames_are_cut(tmp_path, rng):
    videos = [records.frame_video(rng, frames, FRAME) for frames in (299, 300, 301, 450)]
    batch = ShardDataset([write(tmp_path / "a", videos)], FRAME, CLASSES).__getitems__(range(4))
    assert batch.num_frames.tolist() == [299, 300, 300, 300]
    assert_frames(batch, videos)


def test_features_follow_the_configured_order(tmp_path, rng):
    ((context, lists),) = videos = frame_videos(rng, 1)
    path = write(tmp_path / "a", videos)
    batch = ShardDataset([path], {"audio": 5, "rgb": 12}, CLASSES)[0]
    np.testing.assert_array_equal(batch.features, np.hstack([lists["audio"], lists["rgb"]]))
    batch = ShardDataset([path], {"audio": 5}, CLASSES)[0]
    np.testing.assert_array_equal(batch.features, lists["audio"])
    assert batch.ids == [context["id"]]


def test_video_level(tmp_path, rng):
    videos = [records.shuffled(rng, records.pooled_video(rng, VIDEO, CLASSES)) for _ in range(30)]
    path = write(tmp_path / "a", videos)
    dataset = ShardDataset([path], VIDEO, CLASSES, level="video")
    numbers = rng.permutation(30)[:20]
    batch = dataset.__getitems__(numbers)
    expected = np.stack([np.hstack([videos[n]["mean_rgb"], videos[n]["mean_audio"]]) for n in numbers])
    assert batch.features.dtype == torch.float32
    np.testing.assert_array_equal(batch.features, expected)
    assert batch.ids == [videos[n]["id"] for n in numbers]
    assert batch.num_frames.tolist() == [1] * 20
    assert batch.label_index.tolist() == pairs(videos[n]["labels"] for n in numbers)


@pytest.mark.parametrize(
    ("pattern", "sizes", "num_classes", "level", "id_key", "labelled"),
    [
        (
            "yt8m/2/video/train/train000[0-4].*",
            {"mean_rgb": 1024, "mean_audio": 128},
            3862,
            "video",
            "id",
            True,
        ),
        ("yt8m-2017/val*", {"mean_rgb": 1024, "mean_audio": 128}, 4716, "video", "video_id", True),
        ("yt8m-2017/test*", {"mean_rgb": 1024, "mean_audio": 128}, 4716, "video", "video_id", False),
        ("audioset/eval/*", {"audio_embedding": 128}, 527, "frame", "video_id", True),
    ],
)
def test_real_shards(shared_data, pattern, sizes, num_classes, level, id_key, labelled):
    paths = sorted(shared_data.glob(pattern))
    dataset = ShardDataset(paths, sizes, num_classes, level=level, id_key=id_key)
    batch = dataset.__getitems__(range(len(dataset)))
    keys = {id_key: "byte"} | ({"labels": "int"} if labelled else {})
    lists = None
    if level == "video":
        keys |= dict.fromkeys(sizes, "float")
    else:
        lists = dict.fromkeys(sizes, "byte")
    row = 0
    classes = []
    for path in paths:
        for number, item in enumerate(TFRecordDataset(str(path), None, keys, sequence_description=lists)):
            context, features = item if lists else (item, item)
            video = len(classes)
            assert batch.ids[video] == bytes(context[id_key]).decode()
            classes.append(context.get("labels", []))
            frames = int(batch.num_frames[video])
            if number < 100:
                expected = [
                    np.array([np.frombuffer(frame, np.uint8) for frame in features[key]])
                    if lists
                    else features[key][None]
                    for key in sizes
                ]
                np.testing.assert_array_equal(batch.features[row : row + frames], np.hstack(expected))
            row += frames
    assert len(classes) == len(dataset)
    assert row == len(batch.features)
    if labelled:
        assert batch.label_index.tolist() == pairs(classes)
    else:
        assert batch.label_index is None


def test_labels(tmp_path, rng):
    def video(labels):
        context, lists = records.frame_video(rng, 2, FRAME)
        return context | {"labels": labels}, lists

    dataset = ShardDataset(
        [write(tmp_path / "a", [video([5, 3, 5, 3, 5]), video([]), video([0])])], FRAME, CLASSES
    )
    assert dataset.__getitems__([0, 1, 2]).label_index.tolist() == [[0, 3], [0, 5], [2, 0]]
    assert dataset.__getitems__([1]).label_index.shape == (0, 2)


def test_read_into_a_buffer_of_the_caller(tmp_path, rng):
    videos = frame_videos(rng, 12)
    dataset = ShardDataset([write(tmp_path / "a", videos)], FRAME, CLASSES)
    rows = dataset.max_rows(range(12))
    frames = sum(len(lists["rgb"]) for _, lists in videos)
    assert frames <= rows <= 12 * 300
    buffer = torch.zeros(rows, 17, dtype=torch.uint8)
    for numbers in (range(12), [3, 1]):
        batch = dataset.read_into(numbers, buffer)
        assert batch.features.data_ptr() == buffer.data_ptr()
        assert_frames(batch, [videos[number] for number in numbers])
    before = buffer.clone()
    batch = dataset.read_into(range(12), buffer[:-1])  # too small: memory of its own
    assert_frames(batch, videos)
    assert torch.equal(buffer, before)


def test_empty_batch(tmp_path, rng):
    dataset = ShardDataset([write(tmp_path / "a", frame_videos(rng, 2))], FRAME, CLASSES)
    batch = dataset.__getitems__([])
    assert len(batch) == 0
    assert batch.features.shape == (0, 17)
    assert batch.num_frames.shape == (0,)


def test_a_batch_moves_as_a_whole_and_knows_its_longest_video(tmp_path, rng):
    videos = frame_videos(rng, 3)
    batch = ShardDataset([write(tmp_path / "a", videos)], FRAME, CLASSES).__getitems__([0, 1, 2])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    for tensor in (moved.features, moved.num_frames, moved.label_index):
        assert tensor.device.type == "meta"
    # Known without reading the moved tensor, which a meta tensor would not allow.
    assert moved.longest == batch.longest == max(len(lists["rgb"]) for _, lists in videos)
    assert len(moved) == len(batch) == 3


def test_a_batch_survives_pickling(tmp_path, rng):
    batch = ShardDataset([write(tmp_path / "a", frame_videos(rng, 2))], FRAME, CLASSES).__getitems__([0, 1])
    batch.errors, batch.slow_records = ["a.tfrecord @ byte 0: ..."], 2
    again = pickle.loads(pickle.dumps(batch))
    for name, value in vars(batch).items():
        other = getattr(again, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def _send(dataset, queue):
    queue.put(dataset.__getitems__([1, 0]).ids)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_worker_processes(tmp_path, rng, method):
    dataset = ShardDataset([write(tmp_path / "a", frame_videos(rng, 2), compress=True)], FRAME, CLASSES)
    assert dataset[0].ids == ["v0"]
    assert pickle.loads(pickle.dumps(dataset))[0].ids == ["v0"]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_send, args=(dataset, queue))
    process.start()
    assert queue.get() == ["v1", "v0"]
    process.join()


def test_progress(tmp_path, rng):
    paths = [write(tmp_path / f"{part}", frame_videos(rng, 1)) for part in range(3)]
    calls = []
    ShardDataset(paths, FRAME, CLASSES, progress=lambda *args: calls.append(args))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": []}, "expected shards, found none; check dataset.root"),
        ({"level": "clip"}, "expected dataset.level frame, video or segment, found 'clip'"),
        ({"on_corrupt": "ignore"}, "expected dataset.on_corrupt raise or skip, found 'ignore'"),
        ({"features": {}}, "expected dataset.features as name: size, found {}"),
        ({"features": {"rgb": 0}}, "found {'rgb': 0}"),
        ({"num_classes": 0}, "expected dataset.num_classes of at least 1, found 0"),
        ({"max_frames": 0}, "expected dataset.max_frames of at least 1, found 0"),
    ],
)
def test_config_errors(tmp_path, change, message):
    arguments = {"paths": [tmp_path / "a"], "features": FRAME, "num_classes": CLASSES} | change
    with pytest.raises(ConfigError) as error:
        ShardDataset(**arguments)
    assert message in str(error.value)


def test_longer_second_feature_is_cut_to_the_first(tmp_path):
    lists = {"rgb": np.ones((4, 12), np.uint8), "audio": np.arange(30, dtype=np.uint8).reshape(6, 5)}
    path = write(tmp_path / "a", [({"id": "x", "labels": [1]}, lists)])
    batch = ShardDataset([path], FRAME, CLASSES)[0]
    assert batch.num_frames.tolist() == [4]
    np.testing.assert_array_equal(batch.features[:, 12:], lists["audio"][:4])
    batch = ShardDataset([path], FRAME, CLASSES, max_frames=3)[0]
    assert batch.num_frames.tolist() == [3]
