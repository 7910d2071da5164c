"""Wire format of ``tf.train.Example`` and ``tf.train.SequenceExample``, read straight into NumPy views.

Every writer in use lays a record out in one way: each message field once, in order, lists packed, and in a
feature list every frame in the same number of bytes. A record of that form is read here by walking a few
lengths; a feature list is then a matrix with a constant stride. Whatever differs in any byte of that structure
goes to protobuf, so a record is accepted, rejected and understood exactly as protobuf does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Tags of the wire format: field number << 3 | wire type, here always 2 (length-delimited).
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A
_BYTES, _FLOATS, _INT64S = _FIELD_1, _FIELD_2, _FIELD_3  # kinds of tf.train.Feature

_FLOAT32 = np.dtype("<f4")

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
        frames = _feature_lists(data, position, end)
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


class _Layout(NamedTuple):
    """Where everything lies in a ``Features`` message."""

    structure: list[tuple[int, int, bytes]]  # start, end and content of the bytes around the values
    values: list[tuple[str, int, int, int]]  # key, kind, start and end of each value


# Records differ little in layout: by the order of the keys and the lengths of id and labels. One whose structure
# equals that of a layout seen before, byte by byte, is not walked again.
_layouts: dict[tuple[bytes, int], _Layout] = {}
_MAX_LAYOUTS = 1 << 14


def _features(data: bytes, position: int, end: int, keys: Sequence[str]) -> dict[str, Value]:
    """Values of ``keys`` in a ``Features`` message; the others are checked and left out."""
    place = data[position : position + 8], end
    layout = _layouts.get(place)
    if layout is None or not _has_layout(data, layout):
        layout = _walk(data, position, end)
        if len(_layouts) == _MAX_LAYOUTS:
            _layouts.clear()
        _layouts[place] = layout
    found = {}
    for key, kind, start, stop in layout.values:
        if kind == _INT64S:
            found[key] = _int64s(data[start:stop])
        elif key not in keys:
            continue
        elif kind == _FLOATS:
            found[key] = np.frombuffer(data, _FLOAT32, (stop - start) >> 2, start)
        else:
            found[key] = [data[start:stop]]
    return found


def _has_layout(data: bytes, layout: _Layout) -> bool:
    # Run for every record, and a plain loop takes half the time of all().
    for start, stop, content in layout.structure:  # noqa: SIM110
        if data[start:stop] != content:
            return False
    return True


def _walk(data: bytes, position: int, end: int) -> _Layout:
    structure, values = [], {}
    while position < end:
        key, start, stop = _entry(data, position)
        kind = data[start]
        for tag in (kind, _FIELD_1):
            length, start = _field(data, start, tag)
            if start + length != stop:
                raise _Irregular
        if kind not in (_BYTES, _FLOATS, _INT64S) or (kind == _FLOATS and length % 4) or key in values:
            raise _Irregular
        structure.append((position, start, data[position:start]))
        values[key] = (key, kind, start, stop)
        position = stop
    if position != end:
        raise _Irregular
    return _Layout(structure, list(values.values()))


def _feature_lists(data: bytes, position: int, end: int) -> dict[str, np.ndarray]:
    """Frames of all lists of a ``FeatureLists`` message."""
    found = {}
    while position < end:
        key, start, stop = _entry(data, position)
        length, position = _field(data, start, _FIELD_1)
        frame_end = position + length
        for tag in (_BYTES, _FIELD_1):
            length, position = _field(data, position, tag)
            if position + length != frame_end:
                raise _Irregular
        size, stride = position - start, frame_end - start
        count, rest = divmod(stop - start, stride)
        if rest or stop > end:
            raise _Irregular
        # As items of `size` bytes the headers are gathered twice as fast as in a matrix of bytes.
        headers = np.ndarray(count, f"V{size}", data, start, (stride,))
        if headers.tobytes() != data[start:position] * count:
            raise _Irregular
        if key in found:
            raise _Irregular
        found[key] = np.ndarray((count, length), np.uint8, data, position, (stride, 1))
        position = stop
    if position != end:
        raise _Irregular
    return found


def _entry(data: bytes, position: int) -> tuple[str, int, int]:
    """Key, position and end of the value of the map entry at ``position``."""
    length, position = _field(data, position, _FIELD_1)
    stop = position + length
    length, position = _field(data, position, _FIELD_1)
    key = data[position : position + length]
    length, position = _field(data, position + length, _FIELD_2)
    # Equality also bounds every length before it, as each moved the position forwards. Keys must be UTF-8.
    if position + length != stop or not key.isascii():
        raise _Irregular
    return key.decode("ascii"), position, stop


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
