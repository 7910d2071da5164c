"""Maps of features, many at once: ``tf.train.Example``, and the context of a ``tf.train.SequenceExample``.

Such a message is so small that a handful of Python calls costs more than its bytes do. Messages differ little in
layout, so the layout of each is guessed, verified in every byte around the values, and the values of all messages are
extracted by position, in a few vectorized passes. Messages that hold anything unusual are left out, without a reason:
the careful reader finds it.
"""

from typing import NamedTuple

import numpy as np

from yt8m.datamodules.parse.wire import BYTES, FLOATS, INT64S, map_layout

_WORD = np.dtype("<u8")  # layouts are compared word by word
_MAX_LAYOUTS = 1 << 10  # real shards have tens
_VALUE_BYTES = 3  # of a varint that is decoded, enough for two million classes
_SPREAD = 0x9E3779B97F4A7C15  # odd, so that multiplying maps different lengths to different words


class Integers(NamedTuple):
    """Integers of one key: ``rows`` and ``values`` are int64 [M], the values in the records' order."""

    rows: np.ndarray
    values: np.ndarray


class Values(NamedTuple):
    """Values of the usual ones among B maps.

    ``places`` is int64 [U], the positions of these maps, ascending. Rows below count only these.
    ``present`` is bool [U, K], whether a map has each of the optional keys. ``integers`` has an entry per integer key.
    ``floats`` has int64 [U, 2] per float key: where its values begin and end in the data.
    """

    places: np.ndarray
    ids: list[str]
    present: np.ndarray
    integers: list[Integers]
    floats: list[np.ndarray]


class FeatureMaps:
    """Reads usual maps of features, and remembers the layouts it meets.

    Args:
        id_key: key of the id, one UTF-8 string.
        integers: optional integer keys, and the number that each value must be below.
        floats: float keys and their number of values; None makes a key optional, with any number of values.
    """

    def __init__(self, id_key: str, integers: dict[str, int], floats: dict[str, int | None]):
        self._id_key = id_key
        self._integers = integers
        self._floats = floats
        self._clear()

    def read(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Values:
        """Values of the messages at ``starts`` of ``data``, uint8, without those that are damaged or unusual."""
        layouts = self._find(data, starts, lengths)
        places = np.flatnonzero(layouts)
        while True:
            values, unusual = self._extract(data, starts[places], layouts[places])
            if values is not None:
                return values._replace(places=places)
            places = places[~unusual]

    def _extract(
        self, data: np.ndarray, starts: np.ndarray, layouts: np.ndarray
    ) -> tuple[Values, None] | tuple[None, np.ndarray]:
        """Values of messages of known layouts; or else, which messages, bool [B], hold an unusual value."""
        spans = self._spans[layouts] + starts[:, None, None]  # [B, keys, 2]
        ids, unusual = _strings(data, *spans[:, 0].T)
        if unusual is not None:
            return None, unusual
        integers = []
        for key, limit in enumerate(self._integers.values(), start=1):
            rows, firsts, lasts, packed, unusual = _varints(data, *spans[:, key].T)
            if unusual is not None:
                return None, unusual
            index = np.arange(len(packed)) - np.repeat(firsts, lasts - firsts + 1)  # of a byte in its varint
            values = np.zeros(0, np.int64)
            if len(packed):
                if index.max() >= _VALUE_BYTES:
                    return None, _mark(len(starts), rows[lasts - firsts >= _VALUE_BYTES])
                values = np.add.reduceat((packed & 0x7F).astype(np.int64) << 7 * index, firsts)
                if values.max() >= limit:
                    return None, _mark(len(starts), rows[values >= limit])
            integers.append(Integers(rows, values))
        if self._has_others:
            unusual = self._malformed(data, starts, layouts)
            if unusual is not None:
                return None, unusual
        floats = [spans[:, key] for key in range(1 + len(integers), spans.shape[1])]
        return Values(starts, ids, self._present[layouts], integers, floats), None

    def _malformed(self, data: np.ndarray, starts: np.ndarray, layouts: np.ndarray) -> np.ndarray | None:
        """Which messages, bool [B], are invalid because other integers are malformed; None if all are valid."""
        others = self._others[layouts]  # [B, others, 2]
        number = others.shape[1]
        spans = (others + starts[:, None, None]).reshape(-1, 2)
        runs, firsts, lasts, packed, unusual = _varints(data, *spans.T)
        if unusual is None:
            # A varint has at most nine bytes; a negative number has ten, the last of which is 1.
            long = (lasts - firsts > 8) & ~((lasts - firsts == 9) & (packed[lasts] == 1))
            if not long.any():
                return None
            unusual = _mark(len(spans), runs[long])
        return unusual.reshape(-1, number).any(1)

    def _find(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Number of each message's layout, verified byte by byte; 0 for an unusual one."""
        short = lengths < _WORD.itemsize
        if short.any():
            layouts = np.zeros(len(starts), np.int64)
            if not short.all():
                layouts[~short] = self._find(data, starts[~short], lengths[~short])
            return layouts
        if not len(starts):
            return np.zeros(0, np.int64)
        if len(self._spans) > _MAX_LAYOUTS:
            self._clear()
        words = byte_windows(data, _WORD)
        # Its length and first bytes nearly always identify a message's layout.
        keys = (words[starts] ^ lengths.astype(_WORD) * np.uint64(_SPREAD)).tolist()
        guess = self._guesses.get
        layouts = np.array([guess(key, 0) for key in keys])
        layouts[self._lengths[layouts] != lengths] = 0
        found = words[self._places[layouts] + starts[:, None]]
        unknown = ((found ^ self._contents[layouts]) & self._masks[layouts]).any(1) | (layouts == 0)
        for row in np.flatnonzero(unknown).tolist():
            start, length = starts[row], lengths[row]
            number = self._learn(data[start : start + length].tobytes())
            if number:
                self._guesses[keys[row]] = number
            layouts[row] = number
        return layouts

    def _clear(self) -> None:
        """Forget all layouts; layout 0 means unknown."""
        keys = 1 + len(self._integers) + len(self._floats)
        self._guesses: dict[int, int] = {}
        self._known: dict[tuple, int] = {}  # by length and structure
        self._lengths = np.zeros(1, np.int64)
        self._places = np.zeros((1, 1), np.int64)  # of the words with the bytes around the values
        self._contents, self._masks = np.zeros((2, 1, 1), _WORD)  # of those words; which of their bits count
        self._spans = np.zeros((1, keys, 2), np.int64)  # of the values: id, integers, floats
        self._present = np.zeros((1, keys - 1), bool)
        self._others = np.zeros((1, 1, 2), np.int64)  # spans of the integers of all other keys
        self._has_others = False

    def _learn(self, message: bytes) -> int:
        """Number of the layout of ``message``; 0 for one that the careful reader has to read."""
        layout = map_layout(message)
        if layout is None:
            return 0
        key = len(message), *layout.structure
        if key in self._known:
            return self._known[key]
        values = {name: (kind, start, end) for name, kind, start, end in layout.values}
        absent = None, 0, 0
        kind, *span = values.pop(self._id_key, absent)
        if kind != BYTES:
            return 0
        spans, present = [span], []
        for name in self._integers:
            kind, *span = values.pop(name, absent)
            if kind not in (INT64S, None):
                return 0
            spans.append(span)
            present.append(kind is not None)
        for name, size in self._floats.items():
            kind, *span = values.pop(name, absent)
            if kind not in (FLOATS, None) or (size is not None and span[1] - span[0] != 4 * size):
                return 0
            spans.append(span)
            present.append(kind is not None)
        others = [[start, end] for kind, start, end in values.values() if kind == INT64S and end > start]
        places, contents, masks = zip(*_words(layout.structure), strict=True)
        self._places = _append(self._places, np.array(places))
        self._contents = _append(self._contents, np.frombuffer(b"".join(contents), _WORD))
        self._masks = _append(self._masks, np.frombuffer(b"".join(masks), _WORD))
        self._lengths = np.append(self._lengths, len(message))
        self._spans = np.append(self._spans, [spans], axis=0)
        self._present = np.append(self._present, [present], axis=0)
        self._others = _append(self._others, np.array(others or [[0, 0]]))
        self._has_others |= bool(others)
        self._known[key] = len(self._known) + 1
        return self._known[key]


def byte_windows(data: np.ndarray, item: np.dtype) -> np.ndarray:
    """The items that begin at each byte of ``data``, as a view to be indexed."""
    return np.ndarray(max(len(data) - item.itemsize + 1, 0), item, data, strides=(1,))


def _words(structure: list[tuple[int, int, bytes]]) -> list[tuple[int, bytes, bytes]]:
    """Place, content, and mask of words that cover the structure; none reaches beyond the message."""
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
    """``table`` with one more row; shorter rows repeat their last item, which a check may test twice."""
    width = max(table.shape[1], len(row))
    rest = ((0, 0),) * (table.ndim - 2)
    wide = np.pad(table, ((0, 1), (0, width - table.shape[1]), *rest), "edge")
    wide[-1] = np.pad(row, ((0, width - len(row)), *rest), "edge")
    return wide


def _expand_ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All positions from each start to its end (excluded), one after another."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _mark(count: int, places: np.ndarray) -> np.ndarray:
    """bool [count], true at these places."""
    marks = np.zeros(count, bool)
    marks[places] = True
    return marks


def _strings(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[list[str], np.ndarray | None]:
    """The strings at these places; and which of them, bool [B], are not UTF-8, or None if all are."""
    joined = data[_expand_ranges(starts, ends)].tobytes()
    stops = np.cumsum(ends - starts).tolist()
    places = zip([0, *stops], stops, strict=False)
    if joined.isascii():
        text = joined.decode("ascii")
        return [text[start:stop] for start, stop in places], None
    strings: list[str] = []
    broken: list[int] = []
    for row, (start, stop) in enumerate(places):
        try:
            strings.append(joined[start:stop].decode())
        except UnicodeDecodeError:
            broken.append(row)
    return strings, _mark(len(stops), np.array(broken)) if broken else None


def _varints(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """The varints in packed runs.

    Returns:
        the run of each varint, its first and last byte, int64 [M]; the bytes of all runs; and which runs, bool [B],
        end in the middle of a varint, or None if none does. If any does, the rest is meaningless.
    """
    lengths = ends - starts
    packed = data[_expand_ranges(starts, ends)]
    closes = packed < 0x80
    filled = np.flatnonzero(lengths)
    finished = closes[np.cumsum(lengths)[filled] - 1]
    unfinished = None if finished.all() else _mark(len(lengths), filled[~finished])
    lasts = np.flatnonzero(closes)
    firsts = np.concatenate([[0], lasts + 1])[:-1]
    runs = np.repeat(np.arange(len(starts)), lengths)[lasts]
    return runs, firsts, lasts, packed, unfinished
