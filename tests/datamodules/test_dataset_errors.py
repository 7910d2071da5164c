"""Records and shards that cannot be used: the message, and what skipping leaves."""

import gzip

import numpy as np
import pytest
import torch

from tests.datamodules import records
from yt8m.datamodules.dataset import ShardDataset
from yt8m.errors import DataError

FRAME = {"rgb": 12, "audio": 5}
VIDEO = {"mean_rgb": 12, "mean_audio": 5}
CLASSES = 20


def frame_fault(context=None, lists=None, drop=()):
    values = {"id": "bad", "labels": [1]} | (context or {})
    features = {key: np.ones((4, size), np.uint8) for key, size in FRAME.items()} | (lists or {})
    return records.sequence_example(
        {key: value for key, value in values.items() if key not in drop},
        {key: value for key, value in features.items() if key not in drop},
    )


def video_fault(drop=(), **changes):
    values = {"id": "bad", "labels": [1]} | {key: np.ones(size, np.float32) for key, size in VIDEO.items()}
    values |= changes
    return records.example({key: value for key, value in values.items() if key not in drop})


def segment_fault(**changes):
    context = {
        "id": "bad",
        "segment_start_times": [0, 5],
        "segment_labels": [1, 2],
        "segment_scores": np.array([1, 0], np.float32),
    }
    lists = {key: np.ones((12, size), np.uint8) for key, size in FRAME.items()}
    return records.sequence_example(context | changes, lists)


SOUND = {
    "frame": [frame_fault({"id": name}) for name in "ab"],
    "video": [video_fault(id=name) for name in "ab"],
    "segment": [segment_fault(id=name) for name in "ab"],
}
NAN = np.array([np.nan] + [1] * 11, np.float32)
IDS = {
    "no id": ({"drop": ["id"]}, "expected an id in id, found keys .*; set dataset.id_key"),
    "id without a kind": ({"id": None}, "expected an id in id"),
    "two ids": ({"id": [b"a", b"b"]}, "expected id of one byte string, found 2 byte strings"),
    "id of integers": ({"id": [5]}, "expected id of one byte string, found 1 integers"),
    "id not in UTF-8": ({"id": b"\xff\xfe"}, r"expected id in UTF-8, found b'\\xff\\xfe'"),
}
LABELS = {
    "label C": ({"labels": [3, 20]}, r"expected labels in 0\.\.19, found 20; set dataset.num_classes"),
    "label -1": ({"labels": [-1]}, r"expected labels in 0\.\.19, found -1"),
    "label 2**62": ({"labels": [2**62]}, r"expected labels in 0\.\.19, found 4611686018427387904"),
    "labels of floats": ({"labels": np.ones(2, np.float32)}, "expected labels of integers, found 2 floats"),
    "labels of bytes": ({"labels": b"1"}, "expected labels of integers, found 1 byte strings"),
    "unlabelled among labelled": (
        {"drop": ["labels"]},
        "expected labels in all records of a batch or in none",
    ),
}
MALFORMED = b"\x0a\x7f" + b"x" * 9


def rgb(value):
    return frame_fault(lists={"rgb": value})


def frame_case(changes, message):
    return frame_fault(
        {k: v for k, v in changes.items() if k != "drop"}, drop=changes.get("drop", ())
    ), message


#: Records with a valid CRC that cannot be used, by level: the payload and the message.
FAULTS = {
    **{("frame", name): frame_case(*fault) for name, fault in (IDS | LABELS).items()},
    **{("video", name): (video_fault(**changes), text) for name, (changes, text) in (IDS | LABELS).items()},
    ("frame", "malformed"): (
        MALFORMED,
        r"expected a tf\.train\.SequenceExample, found a malformed message; re-",
    ),
    ("video", "malformed"): (
        MALFORMED,
        r"expected a tf\.train\.Example, found a malformed message; re-download",
    ),
    ("frame", "empty payload"): (b"", "expected an id in id, found keys ;"),
    ("frame", "no rgb"): (
        frame_fault(drop=["rgb"]),
        "expected rgb of 12 bytes per frame, found keys audio, id, labels; set dataset.features",
    ),
    ("frame", "no audio"): (frame_fault(drop=["audio"]), "expected audio of 5 bytes per frame, found keys"),
    ("frame", "no frames"): (rgb([]), "expected at least 1 frames of rgb, found 0"),
    ("frame", "no frames at all"): (
        frame_fault(lists={"rgb": [], "audio": []}),
        "expected at least 1 frames of rgb, found 0",
    ),
    ("frame", "wide frames"): (
        rgb(np.ones((4, 13), np.uint8)),
        "expected 12 bytes per frame of rgb, found 13",
    ),
    ("frame", "ragged frames"): (
        rgb([bytes(12), bytes(11)]),
        "expected frames of rgb .* of one size, found 1",
    ),
    ("frame", "rgb of floats"): (
        rgb([np.ones(12, np.float32)] * 4),
        "expected frames of rgb to be single byte",
    ),
    ("frame", "rgb of integers"): (rgb([[1] * 12] * 4), "expected frames of rgb to be single byte strings"),
    ("frame", "short audio"): (
        frame_fault(lists={"audio": np.ones((3, 5), np.uint8)}),
        "expected at least 4 frames of audio, found 3",
    ),
    ("frame", "video-level record"): (
        video_fault(),
        "expected rgb of 12 bytes per frame, found keys id, labels, mean_audio, mean_rgb; .*of this level",
    ),
    ("video", "frame-level record"): (
        frame_fault(),
        "expected mean_rgb of 12 floats, found keys audio, id, labels, rgb",
    ),
    ("video", "no feature"): (video_fault(drop=["mean_rgb"]), "expected mean_rgb of 12 floats, found keys"),
    ("video", "long feature"): (
        video_fault(mean_rgb=np.ones(13, np.float32)),
        "expected mean_rgb of 12 floats, found 13 floats; set dataset.features",
    ),
    ("video", "feature of integers"): (video_fault(mean_rgb=[1] * 12), "12 floats, found 12 integers"),
    ("video", "feature of bytes"): (video_fault(mean_rgb=b"1" * 12), "12 floats, found 1 byte strings"),
    ("video", "NaN"): (
        video_fault(mean_rgb=NAN),
        "expected mean_rgb of finite numbers, found NaN or infinity",
    ),
    ("video", "infinity"): (video_fault(mean_rgb=NAN * 0 + np.inf), "expected mean_rgb of finite numbers"),
    ("segment", "starts late"): (
        segment_fault(segment_start_times=[0, 300]),
        r"expected segments to start in 0\.\.299, found one at 300; set dataset\.max_frames",
    ),
    ("segment", "starts early"): (segment_fault(segment_start_times=[-5, 0]), "found one at -5"),
    ("segment", "no starts"): (
        segment_fault(segment_start_times=None),
        "segment_start_times of integers, found none",
    ),
    ("segment", "too few scores"): (
        segment_fault(segment_scores=np.ones(1, np.float32)),
        "of one length, found 2, 2 integers and 1 floats",
    ),
    ("segment", "no scores"): (segment_fault(segment_scores=None), "found 2, 2 integers and none"),
    ("segment", "class"): (
        segment_fault(segment_labels=[1, 20]),
        r"expected segment_labels in 0\.\.19, found 20",
    ),
}


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("level", "payload", "message"), [(k[0], *v) for k, v in FAULTS.items()], ids=map(" ".join, FAULTS)
)
def test_record_that_does_not_fit(tmp_path, level, payload, message, compress):
    first, last = SOUND[level]
    path = records.write_shard(tmp_path / "a.tfrecord", [first, payload, last], compress)
    sizes = VIDEO if level == "video" else FRAME
    strict = ShardDataset([path], sizes, CLASSES, level=level)
    place = rf"a\.tfrecord @ byte {len(first) + 16}: "
    with pytest.raises(DataError, match=place + ".*" + message) as error:
        strict.__getitems__([0, 1, 2])
    assert "\n" not in str(error.value)
    alone = strict.__getitems__([0, 2])
    lenient = ShardDataset([path], sizes, CLASSES, level=level, on_corrupt="skip")
    batch = lenient.__getitems__([0, 1, 2])
    assert batch.errors == [str(error.value)]
    for name in ("ids", "features", "num_frames", "label_index", "label_mask"):
        one, other = getattr(batch, name), getattr(alone, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    if "unlabelled" not in message and "in all records" not in message:
        none_left = lenient.__getitems__([1, 1])
        assert len(none_left) == len(none_left.features) == 0
        assert len(none_left.errors) == 2


@pytest.mark.parametrize("level", ["frame", "video"])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "position", [3, 9, 40, -2], ids=["length", "CRC of length", "payload", "CRC of payload"]
)
def test_damaged_framing(tmp_path, level, compress, position):
    payloads = [*SOUND[level], *SOUND[level]]
    data = bytearray(b"".join(map(records.framed, payloads)))
    start = len(payloads[0]) + 16
    size = len(payloads[1]) + 16
    data[start + position % size] ^= 4
    path = tmp_path / "a.tfrecord"
    path.write_bytes(gzip.compress(bytes(data)) if compress else bytes(data))
    arguments = {"features": FRAME if level == "frame" else VIDEO, "num_classes": CLASSES, "level": level}
    with pytest.raises(DataError, match=rf"@ byte {start}: expected .*dataset\.on_corrupt=skip"):
        ShardDataset([path], **arguments).__getitems__(range(4))
    dataset = ShardDataset([path], **arguments, on_corrupt="skip")
    batch = dataset.__getitems__(range(len(dataset)))
    assert batch.ids == ["a", "a", "b"]
    assert len(dataset.errors) + len(batch.errors) == 1


def test_nothing_readable(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"no records in here")
    with pytest.raises(DataError, match="expected records, found none in 2 shards"):
        ShardDataset([tmp_path / "a", tmp_path / "b"], FRAME, CLASSES, on_corrupt="skip")
    with pytest.raises(DataError, match="found an empty file"):
        ShardDataset([tmp_path / "a", tmp_path / "b"], FRAME, CLASSES)
