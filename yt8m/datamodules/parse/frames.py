"""Frame-level records, a batch at a time.

Framing and context occur once per record and are checked for all records of the batch together. Frames are copied
right after their CRC was computed, while they are in the processor's cache.
"""

import mmap
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from yt8m.datamodules.parse.fast import CarefulRead, FastRows, sound
from yt8m.datamodules.parse.layouts import FeatureMaps, Integers, Values
from yt8m.datamodules.parse.wire import BYTES, FLOATS, lists_layout
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import FOOTER, FRAMING, HEADER

_MAX_LAYOUTS = 1 << 12  # by length in bytes, of which there are a few hundred


class _List(NamedTuple):
    """One feature list; ``start`` counts from the beginning of the lists."""

    item: np.dtype  # of a frame
    count: int
    start: int
    headers: bytes  # of all frames
    column: int | None  # number of the feature; None for one that is not used


class Lists(NamedTuple):
    """Feature lists of one length in bytes, as they were met last; positions count from their beginning."""

    frames: int  # to keep
    structure: list[tuple[int, int, bytes]]  # start, end, and content of the bytes around the lists
    lists: list[_List]


class FrameReader:
    """Reads batches of the usual frame-level records.

    Args:
        shards: the records.
        features: name to values per frame, in the order of their columns.
        num_classes: labels are below it.
        id_key: key of the id.
        max_frames: frames kept of a video.
        dtype: of the frames, uint8 or float32.
    """

    def __init__(
        self,
        shards: Shards,
        features: dict[str, int],
        num_classes: int,
        id_key: str,
        max_frames: int,
        dtype: np.dtype,
    ):
        self._arguments = shards, features, num_classes, id_key, max_frames, dtype
        self._shards = shards
        self._features = features
        self._max_frames = max_frames
        self._dtype = dtype
        self._kind = BYTES if dtype == np.uint8 else FLOATS
        self._contexts = self._make_contexts(id_key, num_classes)
        self._layouts: dict[int, Lists] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def read(self, numbers: Sequence[int], out: np.ndarray, careful: CarefulRead) -> FastRows:
        """Read the records ``numbers``, B > 0, into ``out``, [rows, D].

        A record that is damaged, unusual, or does not fit is read by ``careful`` instead. Raises what that raises,
        and IndexError for a number that is not in the dataset.
        """
        with self._lock:
            return self._read(numbers, out, careful)

    def _make_contexts(self, id_key: str, num_classes: int) -> FeatureMaps:
        return FeatureMaps(id_key, {"labels": num_classes}, {})

    def _read(self, numbers: Sequence[int], out: np.ndarray, careful: CarefulRead) -> FastRows:
        columns, floats = self._columns(out), self._kind == FLOATS
        starts, counts = [0] * len(numbers), [0] * len(numbers)
        row = 0

        def copy(position: int, data: mmap.mmap, lists: int, layout: Lists) -> bool:
            nonlocal row
            kept, _, parts = layout
            stop = row + kept
            for item, count, start, headers, column in parts:
                frames = np.ndarray(count, item, data, lists + start)
                # As whole items, headers compare in a third of the time that a matrix of bytes takes.
                if frames["header"].tobytes() != headers:
                    return False
                if column is not None:
                    columns[column][row:stop] = frames["content"][:kept]
            if floats and not np.isfinite(out[row:stop]).all():
                return False
            starts[position] = row
            counts[position] = kept
            row = stop
            return True

        def read_carefully(position: int) -> None:
            nonlocal row
            features = careful(position)
            starts[position], counts[position] = row, len(features)
            row += len(features)
            out[row - len(features) : row] = features

        positions, values, _ = self._scan(numbers, copy, read_carefully)
        usual = positions[values.places]
        if len(usual) < len(positions):  # found to be damaged or unusual after their frames were copied
            unusual = {position: careful(position) for position in np.setdiff1d(positions, usual).tolist()}
            parts = [
                unusual[p] if p in unusual else out[starts[p] : starts[p] + counts[p]].copy()
                for p in range(len(numbers))
            ]
            row = sum(map(len, parts))
            np.concatenate(parts, out=out[:row])
        labels, mixed = self._labels(values)
        return FastRows(out[:row], usual, values.ids, np.array(counts)[usual], labels, mixed=mixed)

    def _labels(self, values: Values) -> tuple[Integers | None, bool]:
        """Labels of the records, None if none has any; and whether only some of them have."""
        labeled = values.present[:, 0]
        return values.integers[0] if labeled.any() else None, bool(labeled.any() != labeled.all())

    def _scan(
        self,
        numbers: Sequence[int],
        visit: Callable[[int, mmap.mmap, int, Lists], bool],
        careful: Callable[[int], Any],
    ) -> tuple[np.ndarray, Values, np.ndarray]:
        """Go through the records ``numbers`` in order.

        ``visit(position, data, lists, layout)`` is called for each whose feature lists have a usual structure, while
        it is in the cache; nothing about its bytes has been verified. If it returns False, and for all others,
        ``careful(position)`` is called.

        Returns:
            positions of the visited records, int64 [V]; the values of their contexts, without the records that are
            damaged or have an unusual context; and the bytes of all contexts, in which float values lie.
        """
        shards, offsets, sizes = (column.tolist() for column in self._shards.lookup(numbers))
        maps = self._shards.mapped(set(shards)) or {}
        arrays = {shard: np.frombuffer(mapped, np.uint8) for shard, mapped in maps.items()}
        positions, crcs, headers, footers, contexts = [], [], [], [], []
        checksum, layouts = google_crc32c.value, self._layouts
        for position, (shard, offset, size) in enumerate(zip(shards, offsets, sizes, strict=True)):
            data, start, end = maps.get(shard), offset + HEADER, offset + size - FOOTER
            if data is None:
                careful(position)
                continue
            crc = checksum(arrays[shard][start:end])
            # CRCs are compared for all records at the end, so no byte here can be trusted.
            lists = _end_of_context(data, start)
            layout = layouts.get(end - lists)
            if layout is None or not _has_layout(data, lists, layout):
                layout = self._learn(data, lists, end) if lists < end else None
            if layout is None or not visit(position, data, lists, layout):
                careful(position)
                continue
            positions.append(position)
            crcs.append(crc)
            headers.append(data[offset:start])
            footers.append(data[end : end + FOOTER])
            contexts.append(data[start:lists])
        visited = np.array(positions, np.int64)
        stored = np.frombuffer(b"".join(footers), "<u4")
        good = np.flatnonzero(sound([sizes[p] - FRAMING for p in positions], b"".join(headers), stored, crcs))
        lengths = np.array([len(context) for context in contexts], np.int64)
        begins = np.cumsum(lengths) - lengths
        joined = np.frombuffer(b"".join(contexts), np.uint8)
        values = self._contexts.read(joined, begins[good], lengths[good])
        return visited, values._replace(places=good[values.places]), joined

    def _columns(self, out: np.ndarray) -> list[np.ndarray]:
        """The columns of each feature in ``out``, one item per frame."""
        columns, column, data = [], 0, out.view(np.uint8)
        for size in self._features.values():
            width = size * self._dtype.itemsize
            columns.append(data[:, column : column + width].view(f"V{width}")[:, 0])
            column += width
        return columns

    def _learn(self, data: mmap.mmap, start: int, end: int) -> Lists | None:
        """Layout of the feature lists ``data[start:end]``; None if the careful reader has to read them."""
        layout = lists_layout(data, start, end)
        if layout is None or not layout.lists.keys() >= self._features.keys():
            return None
        first, *others = (layout.lists[name] for name in self._features)
        frames = min(first.count, self._max_frames)
        if frames == 0 or any(other.count < frames for other in others):
            return None
        lists, columns = [], {name: column for column, name in enumerate(self._features)}
        for name, found in layout.lists.items():
            if name in columns and (found.kind, found.width) != (
                self._kind,
                self._features[name] * self._dtype.itemsize,
            ):
                return None
            headers = found.header * found.count
            lists.append(_List(found.item(), found.count, found.start - start, headers, columns.get(name)))
        structure = [(first - start, last - start, content) for first, last, content in layout.structure]
        if len(self._layouts) == _MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[end - start] = Lists(frames, structure, lists)
        return self._layouts[end - start]


def _end_of_context(data: mmap.mmap, start: int) -> int:
    """End of the context at the beginning of a record's payload, if its length takes one byte or two."""
    length = data[start + 1]
    if length < 0x80:
        return start + 2 + length
    return start + 3 + (length & 0x7F | data[start + 2] << 7)


def _has_layout(data: mmap.mmap, start: int, layout: Lists) -> bool:
    # This runs for every record, and a plain loop takes half the time of all().
    for first, last, content in layout.structure:  # noqa: SIM110
        if data[start + first : start + last] != content:
            return False
    return True
