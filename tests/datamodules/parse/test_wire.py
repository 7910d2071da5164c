"""The fast parse against protobuf: same acceptance and same values on every input."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tfrecord import example_pb2

from tests.datamodules import records
from tests.datamodules.records import field, varint
from yt8m.datamodules.parse import wire
from yt8m.datamodules.parse.wire import ExampleError, available, parse_example, parse_sequence

KEYS = ("id", "labels", "mean", "missing")
LISTS = ("rgb", "audio")


def oracle_values(message, keys):
    values = []
    for key in keys:
        kind = message.feature[key].WhichOneof("kind") if key in message.feature else None
        value = None if kind is None else list(getattr(message.feature[key], kind).value)
        values.append(np.array(value, np.float32) if kind == "float_list" else value)
    return values


def oracle_example(data):
    return oracle_values(example_pb2.Example.FromString(data).features, KEYS)


def oracle_sequence(data):
    message = example_pb2.SequenceExample.FromString(data)
    lists = []
    for key in LISTS:
        frames = None
        if key in message.feature_lists.feature_list:
            frames = [list(item.bytes_list.value) for item in message.feature_lists.feature_list[key].feature]
            if any(len(frame) != 1 or len(frame[0]) != len(frames[0][0]) for frame in frames):
                raise DecodeError("ragged")
            frames = [list(frame[0]) for frame in frames]
        lists.append(frames)
    return oracle_values(message.context, KEYS), lists


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        if isinstance(one, np.ndarray):
            assert one.dtype == np.float32
            # Bits, but for NaN, whose payload protobuf's Python numbers do not keep.
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def assert_agrees(parse, oracle, data):
    """Parse ``data`` as protobuf does; whether it was accepted."""
    try:
        expected = oracle(data)
    except DecodeError:
        with pytest.raises(ExampleError):
            parse(data)
        return False
    found = parse(data)
    if oracle is oracle_sequence:
        assert_equal(found[0], expected[0])
        assert [None if part is None else part.tolist() for part in found[1]] == expected[1]
    else:
        assert_equal(found, expected)
    return True


def check_example(data):
    return assert_agrees(lambda data: parse_example(data, KEYS), oracle_example, data)


def check_sequence(data):
    return assert_agrees(lambda data: parse_sequence(data, KEYS, LISTS), oracle_sequence, data)


def random_context(rng, frames=0):
    values = {
        "id": rng.bytes(rng.integers(1, 140)),
        "labels": rng.integers(0, 2 ** rng.integers(1, 62), rng.integers(1, 9)),
        "mean": rng.standard_normal(rng.integers(1, 60)).astype(np.float32),
        "unknown": rng.integers(0, 9, 3),
        "start_time_seconds": rng.standard_normal(1).astype(np.float32),
        "note": "text",
    }
    for key in rng.choice(["labels", "mean", "unknown", "note", ""], 2):
        values.pop(key, None)
    return records.shuffled(rng, values)


def random_lists(rng):
    frames = rng.integers(1, 40)
    lists = {
        "rgb": rng.integers(0, 256, (frames, rng.integers(1, 300)), np.uint8),
        "audio": rng.integers(0, 256, (frames, 128), np.uint8),
        "other": rng.integers(0, 256, (3, 7), np.uint8),
    }
    for key in rng.choice(["audio", "other", ""], 1):
        lists.pop(key, None)
    return records.shuffled(rng, lists)


@pytest.fixture
def no_protobuf(monkeypatch):
    """Fail where the parse under test falls back to protobuf."""
    monkeypatch.setattr(wire, "_protobuf", lambda *args: pytest.fail("fell back to protobuf"))


@pytest.mark.parametrize("seed", range(200))
def test_usual_records_are_read_without_protobuf(seed, no_protobuf):
    rng = np.random.default_rng(seed)
    assert check_example(records.example(random_context(rng)) + b"\x12\x00" * (seed % 2))
    assert check_sequence(records.sequence_example(random_context(rng), random_lists(rng)))


@pytest.mark.parametrize("seed", range(20))
def test_records_written_by_protobuf(seed, no_protobuf):
    rng = np.random.default_rng(seed)
    data = records.sequence_example(random_context(rng), random_lists(rng))
    assert check_sequence(example_pb2.SequenceExample.FromString(data).SerializeToString())
    data = records.example(random_context(rng))
    assert check_example(example_pb2.Example.FromString(data).SerializeToString())


def test_real_records_are_read_without_protobuf(shared_data, no_protobuf):
    from tfrecord.reader import tfrecord_iterator

    def payloads(pattern):
        for path in sorted(shared_data.glob(pattern)):
            yield from map(bytes, tfrecord_iterator(str(path)))

    for data in payloads("yt8m/2/video/train/train000[0-3].tfrecord"):
        keys = ("id", "labels", "mean_rgb", "mean_audio")
        expected = oracle_values(example_pb2.Example.FromString(data).features, keys)
        assert_equal(parse_example(data, keys), expected)
    for data in payloads("audioset/eval/shard-00-of-02.tfrecord"):
        keys = ("video_id", "labels", "start_time_seconds")
        message = example_pb2.SequenceExample.FromString(data)
        found, (frames,) = parse_sequence(data, keys, ("audio_embedding",))
        assert_equal(found, oracle_values(message.context, keys))
        rows = message.feature_lists.feature_list["audio_embedding"].feature
        assert frames.tobytes() == b"".join(row.bytes_list.value[0] for row in rows)


def test_frames_are_views():
    data = records.sequence_example({"id": "x"}, {"rgb": np.ones((3, 8), np.uint8)})
    _, (rgb, audio) = parse_sequence(data, KEYS, LISTS)
    assert np.shares_memory(rgb, np.frombuffer(data, np.uint8))
    assert rgb.shape == (3, 8)
    assert audio is None


INT, FLOAT, BYTES = 3, 2, 1
NEGATIVE = b"\xff" * 9 + b"\x01"


def entry(key, value, kind=INT):
    return field(1, field(1, key) + field(2, field(kind, value)))


#: Features messages out of the ordinary, each valid or not as protobuf says.
FEATURES = {
    "empty": b"",
    "unpacked integers": entry(b"labels", b"\x08\x05\x08\x80\x01"),
    "packed and unpacked": entry(b"labels", field(1, b"\x05") + b"\x08\x07"),
    "two packed runs": entry(b"labels", field(1, b"\x05") + field(1, b"\x06\x07")),
    "unpacked floats": entry(b"mean", b"\x0d\x00\x00\x80\x3f", FLOAT),
    "empty list": entry(b"labels", b""),
    "empty packed run": entry(b"labels", field(1, b"")),
    "negative": entry(b"labels", field(1, NEGATIVE + b"\x05")),
    "eleven bytes": entry(b"labels", field(1, b"\xff" * 10 + b"\x01")),
    "ten bytes, high bits": entry(b"labels", field(1, b"\xff" * 9 + b"\x7f")),
    "overlong": entry(b"labels", field(1, b"\x85\x80\x80\x00\x06")),
    "2**63 - 1": entry(b"labels", field(1, b"\xff" * 8 + b"\x7f")),
    "unfinished varint": entry(b"labels", field(1, b"\x05\x80")),
    "unfinished varint of an unknown key": entry(b"other", field(1, b"\x80")),
    "ragged floats": entry(b"mean", field(1, b"\x00" * 7), FLOAT),
    "ragged floats of an unknown key": entry(b"other", field(1, b"\x00" * 7), FLOAT),
    "several byte strings": entry(b"id", field(1, b"a") + field(1, b"bc"), BYTES),
    "no byte string": entry(b"id", b"", BYTES),
    "repeated key": entry(b"id", field(1, b"a"), BYTES) + entry(b"id", field(1, b"b"), BYTES),
    "repeated key, the first malformed": entry(b"labels", field(1, b"\x80"))
    + entry(b"labels", field(1, b"\x01")),
    "repeated unknown key": entry(b"x", field(1, b"a"), BYTES) * 2,
    "two values in an entry": field(
        1,
        field(1, b"labels")
        + field(2, field(INT, field(1, b"\x01")))
        + field(2, field(INT, field(1, b"\x02"))),
    ),
    "two keys in an entry": field(
        1, field(1, b"id") + field(1, b"labels") + field(2, field(INT, field(1, b"\x01")))
    ),
    "value before key": field(1, field(2, field(INT, field(1, b"\x01"))) + field(1, b"labels")),
    "no value": field(1, field(1, b"labels")),
    "no key": field(1, field(2, field(INT, field(1, b"\x01")))),
    "no kind": field(1, field(1, b"labels") + field(2, b"")),
    "unknown kind": field(1, field(1, b"labels") + field(2, field(4, field(1, b"\x01")))),
    "two kinds": field(
        1, field(1, b"labels") + field(2, field(BYTES, field(1, b"a")) + field(INT, field(1, b"\x01")))
    ),
    "unknown field in a Feature": field(
        1, field(1, b"labels") + field(2, field(INT, field(1, b"\x01")) + field(9, b"?"))
    ),
    "key that is no UTF-8": entry(b"\xff\xfe", field(1, b"\x01")),
    "key in UTF-8": entry("größe".encode(), field(1, b"\x01")),
    "id that is no UTF-8": entry(b"id", field(1, b"\xff\xfe"), BYTES),
    "unknown field": field(7, b"anything") + entry(b"labels", field(1, b"\x01")),
    "length in more bytes than needed": b"\x0a\x92\x80\x00"
    + field(1, b"labels")
    + field(2, field(INT, field(1, b"\x01\x02\x03\x04"))),
    "tag in more bytes than needed": b"\x8a\x00" + entry(b"labels", field(1, b"\x01"))[1:],
    "value beyond the end": entry(b"labels", field(1, b"\x01"))[:-1],
    "inner length beyond the end": field(1, field(1, b"labels") + b"\x12\x7f\x1a\x03\x0a\x01\x01"),
    "group": b"\x0b\x0c" + entry(b"labels", field(1, b"\x01")),
    "unfinished group": b"\x0b" + entry(b"labels", field(1, b"\x01")),
    "field number 0": b"\x02\x00",
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_unusual_features(features):
    lists = records.sequence_example({}, {"rgb": np.ones((2, 3), np.uint8)})[2:]
    rest = entry(b"mean", field(1, b"\x00\x00\x80\x3f"), FLOAT)
    for data in (features, features + rest, rest + features):
        check_example(field(1, data))
        check_sequence(field(1, data) + lists)


def rows(*values):
    return b"".join(field(1, value) for value in values)


def one(value):
    return field(BYTES, field(1, value))


CONTEXT = field(1, records.features({"id": "x", "labels": [1, 2]}))
RGB = field(1, field(1, b"rgb") + field(2, rows(one(b"abc"), one(b"def"))))

#: What follows or stands in for the context and feature lists of a SequenceExample.
SEQUENCES = {
    "usual": CONTEXT + field(2, RGB),
    "no context": field(2, RGB),
    "no lists": CONTEXT,
    "empty lists": CONTEXT + field(2, b""),
    "lists first": field(2, RGB) + CONTEXT,
    "two contexts": CONTEXT + field(1, records.features({"id": "y"})) + field(2, RGB),
    "lists in two parts": CONTEXT + field(2, RGB) + field(2, RGB.replace(b"rgb", b"wav")),
    "repeated list": CONTEXT + field(2, RGB + RGB.replace(b"def", b"xyz")),
    "unknown field behind": CONTEXT + field(2, RGB) + field(3, b"?"),
    "garbage behind": CONTEXT + field(2, RGB) + b"?",
    "no frames": CONTEXT + field(2, field(1, field(1, b"rgb") + field(2, b""))),
    "no list": CONTEXT + field(2, field(1, field(1, b"rgb"))),
    **{
        name: CONTEXT + field(2, field(1, field(1, b"rgb") + field(2, content)))
        for name, content in {
            "frames of two sizes": rows(one(b"abc"), one(b"de"), one(b"fghi")),
            "frame of two strings": rows(one(b"abc"), field(BYTES, field(1, b"a") + field(1, b"b"))),
            "frame of no string": rows(one(b"abc"), field(BYTES, b"")),
            "frame of another kind": rows(one(b"abc"), field(INT, field(1, b"\x01"))),
            "frames of another kind": rows(field(INT, field(1, b"\x01")), field(INT, field(1, b"\x01"))),
            "frames without a kind": rows(b"", b""),
            "frames of nothing": rows(one(b""), one(b"")),
            "unknown field in a frame": rows(one(b"abc"), one(b"abc") + field(9, b"?")),
            "unknown fields, same size": rows(one(b"abc") + b"\x48\x01", one(b"abc") + b"\x48\x01"),
            "other field between": rows(one(b"abc")) + field(2, one(b"abc")) + rows(one(b"def")),
            "last frame cut": rows(one(b"abc"), one(b"def"))[:-1],
        }.items()
    },
    "unwanted list malformed": CONTEXT + field(2, RGB + field(1, field(1, b"x") + field(2, b"\x0a\x05\x0a"))),
    "unwanted list of two sizes": CONTEXT
    + field(2, RGB + field(1, field(1, b"x") + field(2, rows(one(b"a"), one(b"bc"))))),
    "frames in long lengths": CONTEXT
    + field(2, field(1, field(1, b"rgb") + field(2, b"\x0a\x88\x00\x0a\x86\x00\x0a\x84\x00abcd" * 3))),
    "nothing": b"",
}


@pytest.mark.parametrize("data", SEQUENCES.values(), ids=SEQUENCES)
def test_unusual_sequences(data):
    check_sequence(data)
    check_example(data)


def test_malformed_message_names_its_type():
    with pytest.raises(ExampleError, match=r"expected a tf\.train\.Example, found a malformed message"):
        parse_example(b"\x0a\x05abc", KEYS)
    with pytest.raises(
        ExampleError, match=r"expected frames of rgb .* one size, found 1 .* \[2\] bytes in frame 1"
    ):
        parse_sequence(SEQUENCES["frames of two sizes"], KEYS, LISTS)


def test_available_keys():
    assert available(SEQUENCES["usual"]) == ["id", "labels", "rgb"]
    assert available(records.example({"mean": np.ones(2, np.float32), "id": "x"})) == ["id", "mean"]


def mutations(data):
    """Strategy of edits of ``data``: bytes changed, cut out, repeated, moved, cut short."""
    place = st.integers(0, len(data) - 1)
    edit = st.tuples(st.sampled_from("=x+-<"), place, place, st.integers(0, 255))

    def apply(edits):
        out = bytearray(data)
        for kind, first, second, byte in edits:
            first, second = sorted((first % max(len(out), 1), second % max(len(out), 1)))
            if kind == "=":
                out[first : first + 1] = bytes([byte])
            elif kind == "x":
                del out[first : first + byte % 12]
            elif kind == "+":
                out[second:second] = out[first : first + byte % 40]
            elif kind == "-":
                out[first : first + 1] = bytes([(out[first] - 1) % 256]) if out else b""
            elif byte < 16:
                del out[second:]
        return bytes(out)

    return st.lists(edit, min_size=1, max_size=4).map(apply)


EXAMPLE = records.example(
    {"id": "abcd", "labels": [1, 300], "mean": np.arange(3, dtype=np.float32), "unknown": [5], "labels2": [7]}
)
SEQUENCE = records.sequence_example(
    {"labels": [1, 300], "time": np.ones(1, np.float32), "id": "abcd"},
    {
        "audio": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "rgb": np.arange(30, dtype=np.uint8).reshape(3, 10),
    },
)


@settings(max_examples=1500, deadline=None)
@given(mutations(EXAMPLE))
def test_mutated_examples(data):
    check_example(data)


@settings(max_examples=1500, deadline=None)
@given(mutations(SEQUENCE))
def test_mutated_sequences(data):
    check_sequence(data)


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data):
    for message in (data, field(1, data), field(1, field(1, data)), SEQUENCE[:2] + data):
        check_example(message)
        check_sequence(message)


@pytest.mark.parametrize("check", [check_example, check_sequence])
def test_every_single_byte_changed(check):
    data = EXAMPLE if check is check_example else SEQUENCE
    accepted = 0
    for position in range(len(data)):
        for change in (1, 2, 3, 8, 0x10, 0x80, 0xFF):
            accepted += check(data[:position] + bytes([data[position] ^ change]) + data[position + 1 :])
    assert 0 < accepted < 7 * len(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_integers_of_any_size(values):
    packed = b"".join(map(varint, values))
    assert check_example(field(1, entry(b"labels", field(1, packed))))
