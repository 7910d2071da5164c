"""Wire format of ``tf.train.Example`` and ``tf.train.SequenceExample``, read straight into NumPy views.

Every writer in use lays a record out in one way: each message field once, in order, lists packed, and in a
feature list every frame in the same number of bytes. A record of that form is read here by walking a few
lengths; a feature list is then a matrix with a constant stride. Whatever differs in any byte of that structure
goes to protobuf, so a record is accepted, rejected and understood exactly as protobuf does.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# Tags of the wire format: field number << 3 | wire type, here always 2 (length-delimited).
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A
BYTES, FLOATS, INT64S = _FIELD_1, _FIELD_2, _FIELD_3  # kinds of tf.train.Feature

_FLOAT32 = np.dtype("<f4")
_FRAME_HEADER = 9  # bytes in front of a frame of 122 to 16,377 bytes; wider ones go to protobuf

#: Value of one feature: list of bytes, float32 array or list of int; None where the key or its list is absent.
Value = list[bytes] | np.ndarray | list[int] | None


class Layout(NamedTuple):
    """Where everything lies in a record, or in its ``Features`` message."""

    structure: list[tuple[int, int, bytes]]  # start, end and content of the bytes around the values
    values: list[tuple[str, int, int, int]]  # key, kind, start and end of each value


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
        return _values(data, start, end, keys, _walk_example)
    except (_Irregular, IndexError):
        return _protobuf_values(_protobuf("Example", data[start:end]).features, keys)


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
        context = _values(data[position : position + length], 0, length, keys, _walk_features)
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
    return context, [frames.get(name) for name in lists]


def available(data: bytes) -> list[str]:
    """Keys of a record, of its features or its context and its feature lists, sorted; for error messages."""
    message = _protobuf("SequenceExample", data)
    return sorted({*message.context.feature, *message.feature_lists.feature_list})


def example_layout(data: bytes) -> Layout | None:
    """Layout of the ``tf.train.Example`` ``data``; None where it is unusual, for `parse_example` to decide.

    Integers may still turn out to be malformed.
    """
    try:
        return _walk_example(data, 0, len(data))
    except (_Irregular, IndexError):
        return None


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


# Records differ little in layout: by the order of the keys and the lengths of id and labels. One whose structure
# equals that of a layout seen before, byte by byte, is not walked again.
_layouts: dict[tuple, Layout] = {}
_MAX_LAYOUTS = 1 << 14


def _values(data: bytes, start: int, end: int, keys: Sequence[str], walk: Callable) -> list[Value]:
    """Values of ``keys`` in the message ``data[start:end]``, whose layout ``walk`` finds."""
    place = walk, data[start : start + 8], start, end
    layout = _layouts.get(place)
    if layout is None or not _has_layout(data, layout):
        layout = walk(data, start, end)
        if len(_layouts) == _MAX_LAYOUTS:
            _layouts.clear()
        _layouts[place] = layout
    found = dict.fromkeys(keys)
    for key, kind, first, last in layout.values:
        if kind == INT64S:
            value = _int64s(data[first:last])  # of other keys too, which may be malformed
            if key in found:
                found[key] = value
        elif key in found:
            if kind == FLOATS:
                found[key] = np.frombuffer(data, _FLOAT32, (last - first) >> 2, first)
            else:
                found[key] = [data[first:last]]
    return [found[key] for key in keys]


def _has_layout(data: bytes, layout: Layout) -> bool:
    # Run for every record, and a plain loop takes half the time of all().
    for start, stop, content in layout.structure:  # noqa: SIM110
        if data[start:stop] != content:
            return False
    return True


def _walk_example(data: bytes, start: int, end: int) -> Layout:
    length, position = _field(data, start, _FIELD_1)
    stop = position + length
    # Video-level shards end in an empty second field, which an Example does not know.
    if stop != end and data[stop:end] != b"\x12\x00":
        raise _Irregular
    structure, values = _walk_features(data, position, stop)
    return Layout([(start, position, data[start:position]), *structure, (stop, end, data[stop:end])], values)


def _walk_features(data: bytes, position: int, end: int) -> Layout:
    structure, values = [], {}
    while position < end:
        key, start, stop = _entry(data, position)
        kind = data[start]
        for tag in (kind, _FIELD_1):
            length, start = _field(data, start, tag)
            if start + length != stop:
                raise _Irregular
        if kind not in (BYTES, FLOATS, INT64S) or (kind == FLOATS and length % 4) or key in values:
            raise _Irregular
        structure.append((position, start, data[position:start]))
        values[key] = (key, kind, start, stop)
        position = stop
    if position != end:
        raise _Irregular
    return Layout(structure, list(values.values()))


def _feature_lists(data: bytes, position: int, end: int) -> dict[str, np.ndarray]:
    """Frames of all lists of a ``FeatureLists`` message; of a repeated key the last counts, as in protobuf."""
    found = {}
    while position < end:
        key, start, stop = _entry(data, position)
        header, width, item = _frame_header(data[start : start + _FRAME_HEADER])
        stride = len(header) + width
        count, rest = divmod(stop - start, stride)
        if rest or stop > end:
            raise _Irregular
        # Gathered as items, headers compare in a third of the time that a matrix of bytes takes.
        if np.ndarray(count, item, data, start, (stride,)).tobytes() != header * count:
            raise _Irregular
        found[key] = np.ndarray((count, width), np.uint8, data, start + len(header), (stride, 1))
        position = stop
    if position != end:
        raise _Irregular
    return found


@lru_cache(maxsize=1 << 10)
def _frame_header(data: bytes) -> tuple[bytes, int, np.dtype]:
    """Header of the frame that begins ``data``, the frame's size without it, and the header as an item."""
    frame, position = _field(data, 0, _FIELD_1)
    end = position + frame
    for tag in (BYTES, _FIELD_1):
        width, position = _field(data, position, tag)
        if position + width != end:
            raise _Irregular
    return data[:position], width, np.dtype(f"V{position}")


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


def _protobuf_values(features, keys: Sequence[str]) -> list[Value]:
    values = []
    for key in keys:
        kind = features.feature[key].WhichOneof("kind") if key in features.feature else None
        value = kind and list(getattr(features.feature[key], kind).value)
        values.append(np.array(value, np.float32) if kind == "float_list" else value)
    return values


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
