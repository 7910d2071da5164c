"""Maps of features read many at once: ``tf.train.Example``, and the context of a ``tf.train.SequenceExample``.

Such a message is so small that a handful of Python calls costs more than its bytes do. Messages differ little in
layout, so the layout of each is guessed, checked in every byte around the values, and the values of all messages
are taken out by position, in a few passes. Messages that hold anything unusual are refused together and without a
reason, which reading them one by one then finds.
"""

from typing import NamedTuple

import numpy as np

from yt8m.datamodules.parse.wire import BYTES, FLOATS, INT64S, map_layout

_WORD = np.dtype("<u8")  # what layouts are compared in
_MAX_LAYOUTS = 1 << 10  # real shards have tens
_LABEL_BYTES = 3  # of a varint, enough for two million classes
_SPREAD = 0x9E3779B97F4A7C15  # odd, so that no two lengths do the same to a word


class Values(NamedTuple):
    """Values of B maps.

    ``rows`` and ``labels`` are int64 [M], the labels in the records' order with the row of each, or None;
    ``floats`` has int64 [B] for each float feature, where its values begin.
    """

    ids: list[str]
    rows: np.ndarray | None
    labels: np.ndarray | None
    floats: list[np.ndarray]


class FeatureMaps:
    """Reads the usual maps of features; layouts that it met are kept.

    ``floats`` maps float feature to number of values. Labels, int64s in ``labels``, are 0 to ``num_classes - 1``.
    """

    def __init__(self, id_key: str, num_classes: int, floats: dict[str, int]):
        self._id_key = id_key
        self._num_classes = num_classes
        self._sizes = floats
        self._forget()

    def read(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Values | None:
        """Values of the B > 0 messages at ``starts`` of ``data``, uint8; None where one is damaged or unusual."""
        layouts = self._find(data, starts, lengths)
        if layouts is None:
            return None
        first_id, last_id, first_label, last_label, *floats = (self._spans[layouts] + starts[:, None]).T
        ids = _strings(data, first_id, last_id)
        labelled = self._labelled[layouts]
        if ids is None or labelled.any() != labelled.all():
            return None
        if not labelled[0]:
            return Values(ids, None, None, floats)
        found = _varints(data, first_label, last_label)
        if found is None or (found[1] >= self._num_classes).any():
            return None
        return Values(ids, *found, floats)

    def _find(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """Number of each message's layout, checked byte by byte; None where one has none that can be used."""
        if lengths.min() < _WORD.itemsize:
            return None
        if len(self._spans) > _MAX_LAYOUTS:
            self._forget()
        words = byte_windows(data, _WORD)
        # Its length and beginning nearly always tell a message's layout.
        keys = (words[starts] ^ lengths.astype(_WORD) * np.uint64(_SPREAD)).tolist()
        guess = self._guesses.get
        layouts = np.array([guess(key, 0) for key in keys])
        layouts[self._lengths[layouts] != lengths] = 0
        found = words[self._places[layouts] + starts[:, None]]
        unknown = ((found ^ self._contents[layouts]) & self._masks[layouts]).any(1) | (layouts == 0)
        for row in np.flatnonzero(unknown).tolist():
            start, length = starts[row], lengths[row]
            number = self._learn(data[start : start + length].tobytes())
            if number is None:
                return None
            self._guesses[keys[row]] = layouts[row] = number
        return layouts

    def _forget(self) -> None:
        """Know no layout but number 0, which stands for those that are not known."""
        self._guesses: dict[int, int] = {}
        self._known: dict[tuple, int] = {}  # by length and structure
        self._lengths = np.zeros(1, np.int64)
        self._places = np.zeros((1, 1), np.int64)  # of the words with the bytes around the values
        self._contents, self._masks = np.zeros((2, 1, 1), _WORD)  # of those words; which of their bits count
        self._spans = np.zeros((1, 4 + len(self._sizes)), np.int64)  # the values, as `read` takes them apart
        self._labelled = np.zeros(1, bool)

    def _learn(self, message: bytes) -> int | None:
        """Number of the layout of ``message``; None where it is for another reader."""
        layout = map_layout(message)
        if layout is None:
            return None
        key = len(message), *layout.structure
        if key in self._known:
            return self._known[key]
        values = {name: (kind, start, end) for name, kind, start, end in layout.values}
        nothing = None, 0, 0
        kind, *spans = values.pop(self._id_key, nothing)
        label_kind, *label_span = values.pop("labels", nothing)
        if kind != BYTES or label_kind not in (INT64S, None):
            return None
        spans += label_span
        for name, size in self._sizes.items():
            kind, start, end = values.pop(name, nothing)
            if kind != FLOATS or end - start != 4 * size:
                return None
            spans.append(start)
        if any(kind == INT64S for kind, _, _ in values.values()):
            return None  # which may be malformed
        places, contents, masks = zip(*_words(layout.structure), strict=True)
        self._places = _append(self._places, np.array(places))
        self._contents = _append(self._contents, np.frombuffer(b"".join(contents), _WORD))
        self._masks = _append(self._masks, np.frombuffer(b"".join(masks), _WORD))
        self._lengths = np.append(self._lengths, len(message))
        self._spans = _append(self._spans, np.array(spans))
        self._labelled = np.append(self._labelled, label_kind is not None)
        self._known[key] = len(self._known) + 1
        return self._known[key]


def byte_windows(data: np.ndarray, item: np.dtype) -> np.ndarray:
    """The items that begin at each byte of ``data``; to be indexed."""
    return np.ndarray(max(len(data) - item.itemsize + 1, 0), item, data, strides=(1,))


def _words(structure: list[tuple[int, int, bytes]]) -> list[tuple[int, bytes, bytes]]:
    """RecordLocation, content and mask of words that cover the structure, none reaching beyond the message."""
    words = []
    for start, stop, content in structure:
        while stop > start:
            place = max(stop - _WORD.itemsize, 0)
            first = max(place, start)
            before, after = bytes(first - place), bytes(place + _WORD.itemsize - stop)
            part = content[first - start : stop - start]
            words.append((place, before + part + after, before + b"\xff" * len(part) + after))
            stop = first
    return words


def _append(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    """``table`` with one more row; the shorter are filled with their last item, which for a check is harmless."""
    width = max(table.shape[1], len(row))
    wide = np.pad(table, ((0, 1), (0, width - table.shape[1])), "edge")
    wide[-1] = np.pad(row, (0, width - len(row)), "edge")
    return wide


def _expand_ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All positions from each start to its end (excluded), one after another."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _strings(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[str] | None:
    """The UTF-8 strings at these places; None where one is something else."""
    joined = data[_expand_ranges(starts, ends)].tobytes()
    stops = np.cumsum(ends - starts).tolist()
    places = zip([0, *stops], stops, strict=False)
    if joined.isascii():
        text = joined.decode("ascii")
        return [text[start:stop] for start, stop in places]
    try:
        return [joined[start:stop].decode() for start, stop in places]
    except UnicodeDecodeError:
        return None


def _varints(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and value, int64, of each varint of the packed runs at these places; None where one is long or unfinished."""
    lengths = ends - starts
    packed = data[_expand_ranges(starts, ends)]
    closes = packed < 0x80
    if not closes[np.cumsum(lengths)[lengths > 0] - 1].all():
        return None
    lasts = np.flatnonzero(closes)
    firsts = np.concatenate([[0], lasts + 1])[:-1]
    index = np.arange(len(packed)) - np.repeat(firsts, lasts - firsts + 1)  # of a byte in its varint
    if (index >= _LABEL_BYTES).any():
        return None
    values = np.add.reduceat((packed & 0x7F).astype(np.int64) << 7 * index, firsts)
    return np.repeat(np.arange(len(starts)), lengths)[lasts], values
