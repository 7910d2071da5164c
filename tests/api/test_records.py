"""`yt8m.open`: records as arrays, against an independent reader."""

import numpy as np
import pytest
from tfrecord.example_pb2 import Example, SequenceExample
from tfrecord.reader import tfrecord_iterator

import yt8m
from tests.datamodules.records import example, frame_video, pooled_video, sequence_example, write_shard
from yt8m.errors import ConfigError, DataError


def test_frames_and_vectors_are_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    videos = [frame_video(rng, n, {"audio": 3, "rgb": 5}) for n in (1, 4, 70, 2)]
    frames = write_shard(tmp_path / "frames.tfrecord", [sequence_example(*video) for video in videos])
    vectors = [pooled_video(rng, {"mean_rgb": 4, "mean_audio": 2}) for _ in range(70)]
    pooled = write_shard(tmp_path / "pooled.tfrecord", [example(one) for one in vectors])

    opened = yt8m.open(frames)
    assert (opened.level, opened.feature_sizes, len(opened)) == ("frame", {"rgb": 5, "audio": 3}, 4)
    for record, payload in zip(opened, tfrecord_iterator(str(frames)), strict=True):
        message = SequenceExample.FromString(bytes(payload))
        assert record.id == message.context.feature["id"].bytes_list.value[0].decode()
        assert record.labels.tolist() == sorted(set(message.context.feature["labels"].int64_list.value))
        for name, values in record.features.items():
            rows = [f.bytes_list.value[0] for f in message.feature_lists.feature_list[name].feature]
            np.testing.assert_array_equal(values, [[*row] for row in rows])
            assert values.dtype == np.uint8
    opened = yt8m.open(pooled)
    for record, payload in zip(opened, tfrecord_iterator(str(pooled)), strict=True):
        message = Example.FromString(bytes(payload))
        for name, values in record.features.items():
            np.testing.assert_array_equal(values, np.float32(message.features.feature[name].float_list.value))
    assert opened[-1].id == list(opened)[69].id
    assert [one.id for one in opened[3:6]] == [one.id for one in list(opened)[3:6]]
    with pytest.raises(IndexError):
        opened[70]
    assert "of video level in 1 shards; mean_rgb 4, mean_audio 2" in repr(opened)


def test_damage_is_an_error_or_left_out(tmp_path):
    rng = np.random.default_rng(0)
    payloads = [sequence_example(*frame_video(rng, 3, {"rgb": 5})) for _ in range(5)]
    shard = write_shard(tmp_path / "a.tfrecord", payloads)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tfrecord @ byte \d+: expected payload CRC"):
        list(yt8m.open(tmp_path))
    assert len(list(yt8m.open(tmp_path, on_corrupt="skip"))) == 4
    (tmp_path / "b.tfrecord").write_bytes(b"no records at all, but long enough to be some")
    with pytest.raises(DataError, match=r"b\.tfrecord @ byte 0"):
        yt8m.open(tmp_path / "b.tfrecord")
    write_shard(tmp_path / "c.tfrecord", [b"\xff\xff no protobuf"])
    with pytest.raises(DataError, match=r"expected a tf\.train\.Example or SequenceExample"):
        yt8m.open(tmp_path / "c.tfrecord")
    write_shard(tmp_path / "d.tfrecord", [example({"id": [b"x"], "labels": [1]})])
    with pytest.raises(DataError, match="expected frames or a vector of floats, found keys id, labels"):
        yt8m.open(tmp_path / "d.tfrecord")
    for arguments, message in (
        ((tmp_path / "e*.tfrecord",), "path: expected a shard, a folder .* found none at"),
        ((tmp_path / "a.tfrecord", "x"), "level: expected None or segment, found 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            yt8m.open(arguments[0], level=(*arguments, None)[1])


def test_real_shards(shared_data):
    for folder, level, count in (
        ("yt8m/2/video/validate", "video", 2757),
        ("audioset/eval", "frame", 2474),
        ("yt8m-2017", "video", 481),
    ):
        opened = yt8m.open(shared_data / folder)
        assert (opened.level, len(opened)) == (level, count)
        assert len({record.id for record in opened}) == count
