"""Wire format of ``tf.train.Example`` and ``tf.train.SequenceExample``, read straight into NumPy views.

Every writer in use lays out a record the same way: each message field once, in order, lists packed, and every frame
of a feature list in the same number of bytes. Such a record is read here by walking a few lengths; a feature list is
then a matrix with a constant stride. A record that differs in any byte of that structure goes to protobuf, so every
record is accepted, rejected, and interpreted exactly as protobuf does.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Tags of the wire format: field number << 3 | wire type, here always 2 (length-delimited).
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A
BYTES, FLOATS, INT64S = _FIELD_1, _FIELD_2, _FIELD_3  # kinds of tf.train.Feature
_SEVERAL = 0  # a list of bytes with no or several values

_FLOAT32 = np.dtype("<f4")
_FRAME_HEADER = 15  # the most bytes in front of a frame: three tags with lengths of at most four bytes

#: Value of one feature: list of bytes, float32 array or list of int; None where the key or its list is absent.
Value = list[bytes] | np.ndarray | list[int] | None


class Layout(NamedTuple):
    """Positions of all parts of a message that is one map of features."""

    structure: list[tuple[int, int, bytes]]  # start, end and content of the bytes around the values
    values: list[tuple[str, int, int, int]]  # key, kind, start, and end of each value


class FrameList(NamedTuple):
    """A feature list whose frames all have one size: a matrix with a constant stride."""

    kind: int  # BYTES or FLOATS
    start: int  # of the first frame
    count: int
    header: bytes  # in front of the content of every frame
    width: int  # of that content, in bytes

    def item(self) -> np.dtype:
        """dtype of a frame: two fields, ``header`` and ``content``."""
        formats = [f"V{len(self.header)}", f"V{self.width}"]
        return np.dtype(list(zip(("header", "content"), formats, strict=True)))


class ListsLayout(NamedTuple):
    """Positions of all parts of the feature lists of a ``SequenceExample``."""

    structure: list[tuple[int, int, bytes]]  # start, end and content of the bytes around the lists
    lists: dict[str, FrameList]


class ExampleError(ValueError):
    """A record that is not a valid message, or a feature whose type or shape is not the expected one."""


class _Irregular(Exception):
    """Not the usual layout: protobuf has to decide."""


def parse_example(data: bytes, keys: Sequence[str]) -> list[Value]:
    """Values of ``keys`` in the ``tf.train.Example`` that is ``data``.

    Raises ExampleError if the message is malformed.
    """
    try:
        return _values(data, keys)
    except (_Irregular, IndexError):
        return _protobuf_values(_protobuf("Example", data).features, keys)


def parse_sequence(
    data: bytes, keys: Sequence[str], lists: Sequence[str], kind: int = BYTES
) -> tuple[list[Value], list[np.ndarray | None]]:
    """Context values of ``keys`` and frames of ``lists`` in the ``tf.train.SequenceExample`` that is ``data``.

    Frames are uint8 [T, D], or float32 [T, D] if ``kind`` is FLOATS, usually a view into ``data``; None for a feature
    list that is absent. Raises ExampleError if the message is malformed, or if the frames of a list are not byte
    strings (lists of floats) of one size.
    """
    try:
        length, position = _field(data, 0, _FIELD_1)
        context = _values(data[: position + length], keys)
        layout = _walk_lists(data, position + length, len(data))
        frames = {name: _frames(data, found) for name, found in layout.lists.items()}
        if any(layout.lists[name].kind != kind for name in lists if name in layout.lists):
            raise _Irregular
    except (_Irregular, IndexError):
        message = _protobuf("SequenceExample", data)
        context = _protobuf_values(message.context, keys)
        frames = {
            name: _protobuf_frames(name, message.feature_lists.feature_list[name].feature, kind)
            for name in lists
            if name in message.feature_lists.feature_list
        }
    return context, [frames.get(name) for name in lists]


def available(data: bytes) -> list[str]:
    """All keys of a record, sorted: of its features, or of its context and its feature lists. For error messages."""
    message = _protobuf("SequenceExample", data)
    return sorted({*message.context.feature, *message.feature_lists.feature_list})


def map_layout(data: bytes) -> Layout | None:
    """Layout of a ``tf.train.Example``, or of the context of a ``SequenceExample`` with its tag and length.

    None for an unusual one: use the functions above. Integers are not checked and may be malformed.
    """
    try:
        return _walk_map(data)
    except (_Irregular, IndexError):
        return None


def lists_layout(data: bytes, start: int, end: int) -> ListsLayout | None:
    """Layout of the feature lists of a ``SequenceExample``, tag and length included, that are ``data[start:end]``.

    None for an unusual one: use `parse_sequence`. Only the first frame of each list is checked.
    """
    try:
        return _walk_lists(data, start, end)
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


def _values(data: bytes, keys: Sequence[str]) -> list[Value]:
    """Values of ``keys`` in the message ``data``, which is one map of features."""
    found = dict.fromkeys(keys)
    for key, kind, first, last in _walk_map(data).values:
        if kind == INT64S:
            value = _int64s(data[first:last])  # other keys too: a malformed one makes the message invalid
            if key in found:
                found[key] = value
        elif key in found:
            if kind == _SEVERAL:
                raise _Irregular
            if kind == FLOATS:
                found[key] = np.frombuffer(data, _FLOAT32, (last - first) >> 2, first)
            else:
                found[key] = [data[first:last]]
    return [found[key] for key in keys]


def _walk_map(data: bytes) -> Layout:
    length, position = _field(data, 0, _FIELD_1)
    stop = position + length
    # Records of video-level shards end in an empty second field, which an Example does not have.
    if stop != len(data) and data[stop:] != b"\x12\x00":
        raise _Irregular
    structure, values = [(0, position, data[:position])], {}
    while position < stop:
        key, start, end = _entry(data, position)
        kind = data[start]
        length, start = _field(data, start, kind)
        if start + length != end or kind not in (BYTES, FLOATS, INT64S) or key in values:
            raise _Irregular
        begin, first = position, end
        position = start
        strings = 0
        while position < end:  # once, except for several byte strings
            length, first = _field(data, position, _FIELD_1)
            structure.append((begin, first, data[begin:first]))
            begin = position = first + length
            strings += 1
            if kind != BYTES:
                break
        if position != end or (kind == FLOATS and length % 4):
            raise _Irregular
        if not strings:  # an empty list
            structure.append((begin, end, data[begin:end]))
        if kind == BYTES and strings != 1:
            kind = _SEVERAL
        values[key] = (key, kind, first, end)
    if position != stop:
        raise _Irregular
    structure.append((stop, len(data), data[stop:]))
    return Layout(structure, list(values.values()))


def _walk_lists(data: bytes, start: int, end: int) -> ListsLayout:
    length, position = _field(data, start, _FIELD_2)
    if position + length != end:
        raise _Irregular
    structure, lists = [(start, position, data[start:position])], {}
    while position < end:
        key, first, stop = _entry(data, position)
        kind, header, width = _frame_header(data[first : first + _FRAME_HEADER])
        count, rest = divmod(stop - first, len(header) + width)
        if rest or stop > end or not width or key in lists:
            raise _Irregular
        structure.append((position, first, data[position:first]))
        lists[key] = FrameList(kind, first, count, header, width)
        position = stop
    if position != end:
        raise _Irregular
    return ListsLayout(structure, lists)


def _frames(data: bytes, found: FrameList) -> np.ndarray:
    """Frames of a list, uint8 or float32 [T, D], a view into ``data``."""
    items = np.ndarray(found.count, found.item(), data, found.start)
    if items["header"].tobytes() != found.header * found.count:
        raise _Irregular
    value = _FLOAT32 if found.kind == FLOATS else np.dtype(np.uint8)
    shape, strides = (found.count, found.width // value.itemsize), (items.itemsize, value.itemsize)
    return np.ndarray(shape, value, data, found.start + len(found.header), strides)


def _frame_header(data: bytes) -> tuple[int, bytes, int]:
    """Kind and header of the frame that begins ``data``, and the frame's size without the header."""
    frame, position = _field(data, 0, _FIELD_1)
    end = position + frame
    kind = data[position]
    for tag in (kind, _FIELD_1):
        width, position = _field(data, position, tag)
        if position + width != end:
            raise _Irregular
    if kind not in (BYTES, FLOATS) or (kind == FLOATS and width % _FLOAT32.itemsize):
        raise _Irregular
    return kind, data[:position], width


def _entry(data: bytes, position: int) -> tuple[str, int, int]:
    """Key, position and end of the value of the map entry at ``position``."""
    length, position = _field(data, position, _FIELD_1)
    stop = position + length
    length, position = _field(data, position, _FIELD_1)
    key = data[position : position + length]
    length, position = _field(data, position + length, _FIELD_2)
    # Equality also bounds every length before it, because each moved the position forward. Keys must be UTF-8.
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


def _protobuf(name: str, data: bytes) -> Any:
    from google.protobuf.message import DecodeError
    from tfrecord import example_pb2  # imports torch, and is rarely needed

    try:
        return getattr(example_pb2, name).FromString(data)
    except DecodeError as error:
        raise ExampleError(f"expected a tf.train.{name}, found a malformed message") from error


def _protobuf_values(features: Any, keys: Sequence[str]) -> list[Value]:
    values = []
    for key in keys:
        kind = features.feature[key].WhichOneof("kind") if key in features.feature else None
        value = kind and list(getattr(features.feature[key], kind).value)
        values.append(np.array(value, np.float32) if kind == "float_list" else value)
    return values


def _protobuf_frames(name: str, features: Any, kind: int) -> np.ndarray:
    rows: list[Any] = []
    for number, feature in enumerate(features):
        if kind == FLOATS:
            good = feature.WhichOneof("kind") == "float_list"
            row, form = np.array(feature.float_list.value, np.float32), "lists of floats"
            found = f"{feature.WhichOneof('kind')} of {len(row)} floats"
        else:
            values, form = feature.bytes_list.value, "single byte strings"
            good, row = len(values) == 1, values[0] if len(values) else b""
            found = f"{len(values)} values of {[len(value) for value in values]} bytes"
        if not good or len(row) != len(rows[0] if rows else row):
            raise ExampleError(
                f"expected frames of {name} to be {form} of one size, found {found} in frame {number}"
            )
        rows.append(row)
    if kind == FLOATS:
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1 if rows else 0)
