"""Video-level records read a batch at a time, in a few passes over all of its bytes.

A video-level record is so small that a handful of Python calls costs more than its bytes do. Records differ
little in layout, so the layout of each is looked up, checked in every byte around the values, and the values of
the whole batch are taken out by position. A batch that holds anything damaged or unusual is refused as a whole
and without a reason, which reading its records one by one then finds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np

from yt8m.datamodules.example import BYTES, FLOATS, INT64S, example_layout
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import FOOTER, FRAMING, HEADER, DataError, header, mask

_PREFIX = np.dtype("<u8")  # the start of a payload, which with its length nearly always tells the layout
_MAX_LAYOUTS = 1 << 10  # real shards have tens
_CHUNK = 256  # records at a time, so that their bytes stay in the processor's cache
_LABEL_BYTES = 3  # of a varint, enough for two million classes


class Videos(NamedTuple):
    """Ids of B videos, and their labels in the records' order with the row of each, int64 [M], or None."""

    ids: list[str]
    rows: np.ndarray | None
    labels: np.ndarray | None


class VideoReader:
    """Reads batches of the usual video-level records; layouts that it met are kept between batches.

    ``features`` maps name to number of floats, in the order of their columns.
    """

    def __init__(self, shards: Shards, features: dict[str, int], num_classes: int, id_key: str):
        self._shards = shards
        self._features = features
        self._num_classes = num_classes
        self._id_key = id_key
        self._forget()

    def read(self, numbers: Sequence[int], out: np.ndarray) -> Videos | None:
        """Write the features of the records ``numbers`` to ``out``, float32 [B, D] with B > 0; return the rest.

        None, with ``out`` undefined, where a record is damaged, unusual or does not fit. Features may be NaN.
        Raises IndexError for a number that is not there.
        """
        ids, rows, labels = [], [], []
        for first in range(0, len(numbers), _CHUNK):
            found = self._read(numbers[first : first + _CHUNK], out[first : first + _CHUNK])
            if found is None:
                return None
            ids += found.ids
            if found.labels is not None:
                rows.append(found.rows + first)
                labels.append(found.labels)
        if not labels:
            return Videos(ids, None, None)
        if len(labels) * _CHUNK < len(numbers):
            return None  # labels in some chunks only
        return Videos(ids, np.concatenate(rows), np.concatenate(labels))

    def _read(self, numbers: Sequence[int], out: np.ndarray) -> Videos | None:
        shards, offsets, sizes = self._shards.lookup(numbers)
        data = self._gather(shards, offsets, sizes)
        if data is None:
            return None
        starts = np.cumsum(sizes) - sizes + HEADER
        layouts = self._find_layouts(data, starts, sizes - FRAMING)
        if layouts is None:
            return None
        spans = self._spans[layouts] + starts[:, None]
        first_id, last_id, first_label, last_label, *floats = spans.T
        column = 0
        for size, first in zip(self._features.values(), floats, strict=True):
            # Rows as items: one copy each, whatever the alignment.
            items = _anywhere(data, np.dtype((np.void, 4 * size)))
            rows = np.ndarray(len(out), items.dtype, out, 4 * column, (out.strides[0],))
            rows[:] = items[first]
            column += size
        ids = _strings(data, first_id, last_id)
        labelled = self._labelled[layouts]
        if ids is None or labelled.any() != labelled.all():
            return None
        if not labelled[0]:
            return Videos(ids, None, None)
        found = _varints(data, first_label, last_label)
        if found is None or (found[1] >= self._num_classes).any():
            return None
        return Videos(ids, *found)

    def _gather(self, shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
        """Records one after another, uint8; None where one is not there or a CRC is not right."""
        shards = shards.tolist()
        try:
            maps = {shard: self._shards.mapped(shard) for shard in set(shards)}
        except (OSError, DataError):
            return None
        if None in maps.values():
            return None
        maps = {shard: memoryview(mapped) for shard, mapped in maps.items()}
        places = zip(shards, offsets.tolist(), (offsets + sizes).tolist(), strict=True)
        data = np.frombuffer(b"".join([maps[shard][start:end] for shard, start, end in places]), np.uint8)
        ends = np.cumsum(sizes)
        if len(data) < ends[-1]:
            return None
        lengths = sizes - FRAMING
        payloads = zip((ends - FOOTER - lengths).tolist(), (ends - FOOTER).tolist(), strict=True)
        crcs = np.array([google_crc32c.value(data[start:end]) for start, end in payloads], np.uint64)
        heads = _anywhere(data, np.dtype((np.void, HEADER)))[ends - sizes].tobytes()
        sound = (_anywhere(data, np.dtype("<u4"))[ends - FOOTER] == mask(crcs)).all()
        return data if sound and heads == b"".join(map(header, lengths.tolist())) else None

    def _find_layouts(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """Number of each payload's layout, checked byte by byte; None where one has none that can be used."""
        if lengths.min() < _PREFIX.itemsize:
            return None
        if len(self._spans) > _MAX_LAYOUTS:
            self._forget()
        prefixes = _anywhere(data, _PREFIX)[starts]
        keys = list(zip(lengths.tolist(), prefixes.tolist(), strict=True))
        layouts = np.array([self._guesses.get(key, 0) for key in keys])
        found = data[self._positions[layouts] + starts[:, None]]
        unknown = (found != self._contents[layouts]).any(1) | (layouts == 0)
        for row in np.flatnonzero(unknown).tolist():
            start, length = starts[row], lengths[row]
            number = self._learn(data[start : start + length].tobytes())
            if number is None:
                return None
            self._guesses[keys[row]] = layouts[row] = number
        return layouts

    def _forget(self) -> None:
        """Know no layout but number 0, which stands for those that are not known."""
        self._guesses: dict[tuple[int, int], int] = {}  # by length and prefix
        self._known: dict[tuple, int] = {}  # by length and structure
        self._positions = np.zeros((1, 1), np.int64)  # of the bytes around the values, by layout
        self._contents = np.zeros((1, 1), np.uint8)  # those bytes
        self._spans = np.zeros((1, 4 + len(self._features)), np.int64)  # the values, as `_learn` has them
        self._labelled = np.zeros(1, bool)

    def _learn(self, payload: bytes) -> int | None:
        """Number of the layout of ``payload``; None where it is for another reader."""
        layout = example_layout(payload)
        if layout is None:
            return None
        key = len(payload), *layout.structure
        if key in self._known:
            return self._known[key]
        values = {name: (kind, start, end) for name, kind, start, end in layout.values}
        nothing = None, 0, 0
        kind, *spans = values.pop(self._id_key, nothing)
        label_kind, *label_span = values.pop("labels", nothing)
        if kind != BYTES or label_kind not in (INT64S, None):
            return None
        spans += label_span
        for name, size in self._features.items():
            kind, start, end = values.pop(name, nothing)
            if kind != FLOATS or end - start != 4 * size:
                return None
            spans.append(start)
        if any(kind == INT64S for kind, _, _ in values.values()):
            return None  # which may be malformed
        positions = np.concatenate([np.arange(start, end) for start, end, _ in layout.structure])
        contents = np.frombuffer(b"".join(content for _, _, content in layout.structure), np.uint8)
        self._positions = _append(self._positions, positions)
        self._contents = _append(self._contents, contents)
        self._spans = _append(self._spans, np.array(spans))
        self._labelled = np.append(self._labelled, label_kind is not None)
        self._known[key] = len(self._known) + 1
        return self._known[key]


def _anywhere(data: np.ndarray, item: np.dtype) -> np.ndarray:
    """The items that begin at each byte of ``data``; to be indexed."""
    return np.ndarray(max(len(data) - item.itemsize + 1, 0), item, data, strides=(1,))


def _append(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    """``table`` with one more row; the shorter are filled with their last item, which for a check is harmless."""
    width = max(table.shape[1], len(row))
    wide = np.pad(table, ((0, 1), (0, width - table.shape[1])), "edge")
    wide[-1] = np.pad(row, (0, width - len(row)), "edge")
    return wide


def _inside(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All positions from each start to its end (excluded), one after another."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _strings(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[str] | None:
    """The UTF-8 strings at these places; None where one is something else."""
    joined = data[_inside(starts, ends)].tobytes()
    stops = np.cumsum(ends - starts).tolist()
    try:
        return [joined[start:stop].decode() for start, stop in zip([0, *stops], stops, strict=False)]
    except UnicodeDecodeError:
        return None


def _varints(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and value, int64, of each varint of the packed runs at these places; None where one is long or unfinished."""
    lengths = ends - starts
    packed = data[_inside(starts, ends)]
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
