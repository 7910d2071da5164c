"""Builders of test records and shards: protobuf values in a plain wire layout, independent of the reader."""

import gzip
import struct
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import crc32c
import numpy as np
from tfrecord import example_pb2

#: Four payloads, and where their records lie in a shard.
PAYLOADS = [bytes([number]) * length for number, length in enumerate((17, 1, 300, 5), start=1)]
SIZES = [len(payload) + 16 for payload in PAYLOADS]
ENDS = list(accumulate(SIZES))
OFFSETS = [0, *ENDS[:-1]]


def masked_crc(data: bytes) -> int:
    crc = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes) -> bytes:
    """A payload in TFRecord framing."""
    length = struct.pack("<Q", len(payload))
    crcs = (struct.pack("<I", masked_crc(data)) for data in (length, payload))
    return length + next(crcs) + payload + next(crcs)


def write_shard(path: Path, payloads: Iterable[bytes], compress: bool = False) -> Path:
    """Write a shard of these payloads, gzip-compressed or not."""
    data = b"".join(map(framed, payloads))
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(value) -> bytes:
    """A Feature: bytes, str, list of bytes, float array, integers; None for one without a kind."""
    message = example_pb2.Feature()
    if isinstance(value, str | bytes):
        value = [value.encode() if isinstance(value, str) else value]
    if value is None:
        pass
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        message.float_list.value.extend(value.tolist())
        message.float_list.SetInParent()
    elif len(value) and isinstance(value[0], bytes):
        message.bytes_list.value.extend(value)
    else:
        message.int64_list.value.extend(int(item) for item in value)
        message.int64_list.SetInParent()
    return message.SerializeToString()


def features(values: dict) -> bytes:
    """A Features message with its keys in this order."""
    return b"".join(
        field(1, field(1, key.encode()) + field(2, feature(value))) for key, value in values.items()
    )


def example(values: dict) -> bytes:
    """A ``tf.train.Example`` (video level)."""
    return field(1, features(values))


def sequence_example(context: dict, lists: dict) -> bytes:
    """A ``tf.train.SequenceExample`` (frame level); lists are uint8 [T, D] or hold a value per frame."""
    entries = []
    for key, rows in lists.items():
        values = (row.tobytes() if isinstance(rows, np.ndarray) else row for row in rows)
        content = b"".join(field(1, feature(value)) for value in values)
        entries.append(field(1, field(1, key.encode()) + field(2, content)))
    return field(1, features(context)) + field(2, b"".join(entries))


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


def pooled_video(
    rng: np.random.Generator, sizes: dict[str, int], num_classes: int = 20, name: str | None = None
) -> dict:
    """Features of a random video-level record."""
    context, _ = frame_video(rng, 1, {}, num_classes, name)
    return context | {key: rng.standard_normal(size).astype(np.float32) for key, size in sizes.items()}


def shuffled(rng: np.random.Generator, values: dict) -> dict:
    """The same entries in a random order."""
    return {key: values[key] for key in rng.permutation(list(values))}
