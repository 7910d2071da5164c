"""Wire format of ``tf.train.Example`` and ``tf.train.SequenceExample``, read straight into NumPy views.

Every writer in use lays a record out in one way: each message field once, in order, lists packed, and in a
feature list every frame in the same number of bytes. A record of that form is read here by walking a few
lengths; a feature list is then a matrix with a constant stride. Whatever differs in any byte of that structure
goes to protobuf, so a record is accepted, rejected and understood exactly as protobuf does.
"""

from collections.abc import Sequence

import numpy as np

# Tags of the wire format: field number << 3 | wire type, here always 2 (length-delimited).
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A
_BYTES, _FLOATS, _INT64S = _FIELD_1, _FIELD_2, _FIELD_3  # kinds of tf.train.Feature

#: Value of one feature: list of bytes, float32 array or list of int; None where the key or its list is absent.
Value = list[bytes] | np.ndarray | list[int] | None


class ExampleError(ValueError):
    """A record that is no valid message, or whose feature has another type or shape than asked for."""


class _Irregular(Exception):
    """Not the usual layout: for protobuf to decide."""


def parse_example(data: bytes, keys: Sequence[str], start: int = 0, end: int | None = None) -> list[Value]:
    """Values of ``keys`` in the ``tf.train.Example`` that is ``data[start:end]``.

    Raises ExampleError where the message is malformed.
    """
    end = len(data) if end is None else end
    try:
        length, position = _field(data, start, _FIELD_1)
        # Video-level shards end in an empty second field, which an Example does not know.
        if position + length != end and data[position + length : end] != b"\x12\x00":
            raise _Irregular
        found = _features(data, position, position + length, keys)
    except (_Irregular, IndexError):
        found = _protobuf_values(_protobuf("Example", data[start:end]).features, keys)
    return [found.get(key) for key in keys]


def parse_sequence(
    data: bytes, keys: Sequence[str], lists: Sequence[str], start: int = 0, end: int | None = None
) -> tuple[list[Value], list[np.ndarray | None]]:
    """Context values of ``keys`` and frames of ``lists`` in the ``tf.train.SequenceExample`` ``data[start:end]``.

    Frames are uint8 [T, D], usually a view into ``data``; None where there is no such feature list. Raises
    ExampleError where the message is malformed or the frames of a list are not byte strings of one size.
    """
    end = len(data) if end is None else end
    try:
        length, position = _field(data, start, _FIELD_1)
        context = _features(data, position, position + length, keys)
        length, position = _field(data, position + length, _FIELD_2)
        if position + length != end:
            raise _Irregular
        frames = _feature_lists(data, position, end, lists)
    except (_Irregular, IndexError):
        message = _protobuf("SequenceExample", data[start:end])
        context = _protobuf_values(message.context, keys)
        frames = {
            name: _protobuf_frames(name, message.feature_lists.feature_list[name].feature)
            for name in lists
            if name in message.feature_lists.feature_list
        }
    return [context.get(key) for key in keys], [frames.get(name) for name in lists]


def available(data: bytes) -> list[str]:
    """Keys of a record, of its features or its context and its feature lists, sorted; for error messages."""
    message = _protobuf("SequenceExample", data)
    return sorted({*message.context.feature, *message.feature_lists.feature_list})


def _field(data: bytes, position: int, tag: int) -> tuple[int, int]:
    """Length and position of the content of the field at ``position``, whose tag must be ``tag``."""
    if data[position] != tag:
        raise _Irregular
    length = data[position + 1]
    if length < 0x80:
        return length, position + 2
    length &= 0x7F
    for shift in (7, 14, 21):
        position += 1
        byte = data[position + 1]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, position + 2
    raise _Irregular


def _entries(data: bytes, position: int, end: int):
    """Key, position and end of the value of each entry of a map."""
    while position < end:
        length, position = _field(data, position, _FIELD_1)
        stop = position + length
        length, position = _field(data, position, _FIELD_1)
        key = data[position : position + length]
        length, position = _field(data, position + length, _FIELD_2)
        # Equality also bounds every length before it, as each moved the position forwards.
        if position + length != stop or stop > end:
            raise _Irregular
        yield key, position, stop
        position = stop


def _features(data: bytes, position: int, end: int, keys: Sequence[str]) -> dict[str, Value]:
    """Values of ``keys`` in a ``Features`` message; the others are checked and left out."""
    found = {}
    for key, position, stop in _entries(data, position, end):
        kind = data[position]
        length, position = _field(data, position, kind)
        if position + length != stop:
            raise _Irregular
        length, position = _field(data, position, _FIELD_1)
        if position + length != stop:
            raise _Irregular
        if kind == _INT64S:
            value = _int64s(data[position:stop])
        elif kind == _FLOATS and length % 4 == 0:
            value = np.frombuffer(data, "<f4", length // 4, position)
        elif kind == _BYTES:
            value = [data[position:stop]]
        else:
            raise _Irregular
        _keep(found, key, value, keys)
    return found


def _feature_lists(data: bytes, position: int, end: int, lists: Sequence[str]) -> dict[str, np.ndarray]:
    """Frames of ``lists`` in a ``FeatureLists`` message; the others are checked and left out."""
    found = {}
    for key, start, stop in _entries(data, position, end):
        length, position = _field(data, start, _FIELD_1)
        frame_end = position + length
        for tag in (_BYTES, _FIELD_1):
            length, position = _field(data, position, tag)
            if position + length != frame_end:
                raise _Irregular
        header = data[start:position]
        frames, rest = divmod(stop - start, frame_end - start)
        if rest:
            raise _Irregular
        matrix = np.frombuffer(data, np.uint8, stop - start, start).reshape(frames, -1)
        if matrix[:, : len(header)].tobytes() != header * frames:
            raise _Irregular
        _keep(found, key, matrix[:, len(header) :], lists)
    return found


def _keep(found: dict, key: bytes, value, wanted: Sequence[str]) -> None:
    # Keys are UTF-8, which protobuf checks; of a repeated key the last counts.
    if not key.isascii():
        raise _Irregular
    name = key.decode("ascii")
    if name in wanted:
        if name in found:
            raise _Irregular
        found[name] = value


def _int64s(packed: bytes) -> list[int]:
    values, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            values.append(value)
            value = shift = 0
        else:
            shift += 7
            if shift > 56:  # negative numbers take ten bytes
                raise _Irregular
    if shift:
        raise _Irregular
    return values


def _protobuf(name: str, data: bytes):
    from google.protobuf.message import DecodeError
    from tfrecord import example_pb2  # imports torch, and is rarely needed

    try:
        return getattr(example_pb2, name).FromString(data)
    except DecodeError as error:
        raise ExampleError(f"expected a tf.train.{name}, found a malformed message") from error


def _protobuf_values(features, keys: Sequence[str]) -> dict[str, Value]:
    found = {}
    for key in keys:
        if key in features.feature:
            feature = features.feature[key]
            kind = feature.WhichOneof("kind")
            if kind == "float_list":
                found[key] = np.array(feature.float_list.value, np.float32)
            elif kind:
                found[key] = list(getattr(feature, kind).value)
    return found


def _protobuf_frames(name: str, features) -> np.ndarray:
    frames = []
    for number, feature in enumerate(features):
        values = feature.bytes_list.value
        if len(values) != 1 or len(values[0]) != len(frames[0] if frames else values[0]):
            found = f"{len(values)} values of {[len(value) for value in values]} bytes"
            raise ExampleError(
                f"expected frames of {name} to be single byte strings of one size, found {found} in frame {number}"
            )
        frames.append(values[0])
    return np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), -1 if frames else 0)
