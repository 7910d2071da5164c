"""Builders of test records and shards; protobuf and plain framing, independent of the reader under test."""

import gzip
import struct
from pathlib import Path

import crc32c
import numpy as np
from tfrecord import example_pb2


def masked_crc(data: bytes) -> int:
    crc = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(payload: bytes) -> bytes:
    """A payload in TFRecord framing."""
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc(length)) + payload + struct.pack("<I", masked_crc(payload))


def write_shard(path: Path, payloads: list[bytes], compress: bool = False) -> Path:
    """Write a shard of these payloads, gzip-compressed or not."""
    data = b"".join(map(frame_record, payloads))
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def feature(value) -> example_pb2.Feature:
    """A Feature: bytes, str or a list of bytes; a float array; integers; None for one without a kind."""
    if value is None:
        return example_pb2.Feature()
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        value = [value]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return example_pb2.Feature(float_list=example_pb2.FloatList(value=value.tolist()))
    if len(value) and isinstance(value[0], bytes):
        return example_pb2.Feature(bytes_list=example_pb2.BytesList(value=value))
    return example_pb2.Feature(int64_list=example_pb2.Int64List(value=[int(item) for item in value]))


def features(values: dict) -> example_pb2.Features:
    return example_pb2.Features(feature={key: feature(value) for key, value in values.items()})


def example(values: dict) -> bytes:
    """A serialized ``tf.train.Example`` (video level)."""
    return example_pb2.Example(features=features(values)).SerializeToString()


def sequence_example(context: dict, lists: dict) -> bytes:
    """A serialized ``tf.train.SequenceExample`` (frame level); lists hold uint8 [T, D] or lists of values."""
    feature_lists = example_pb2.FeatureLists(
        feature_list={
            key: example_pb2.FeatureList(
                feature=[feature(row.tobytes() if isinstance(row, np.ndarray) else row) for row in rows]
            )
            for key, rows in lists.items()
        }
    )
    return example_pb2.SequenceExample(
        context=features(context), feature_lists=feature_lists
    ).SerializeToString()


def frame_video(
    rng: np.random.Generator,
    frames: int,
    sizes: dict[str, int],
    num_classes: int = 20,
    name: str | None = None,
) -> tuple[dict, dict]:
    """Context and feature lists of a random frame-level video."""
    context = {
        "id": name or f"v{rng.integers(10**6):06d}",
        "labels": np.sort(rng.choice(num_classes, rng.integers(1, 5), replace=False)),
    }
    return context, {key: rng.integers(0, 256, (frames, size), np.uint8) for key, size in sizes.items()}


def level_video(
    rng: np.random.Generator, sizes: dict[str, int], num_classes: int = 20, name: str | None = None
) -> dict:
    """Features of a random video-level record."""
    context, _ = frame_video(rng, 1, {}, num_classes, name)
    return context | {key: rng.standard_normal(size).astype(np.float32) for key, size in sizes.items()}
