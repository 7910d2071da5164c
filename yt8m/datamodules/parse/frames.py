"""Frame-level records read a batch at a time.

What there is once in a record, its framing and its context, is read for all records of the batch together. Its
frames are copied while they are in the processor's cache, right after their CRC.
"""

import mmap
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import google_crc32c
import numpy as np

from yt8m.datamodules.parse.layouts import FeatureMaps, Values
from yt8m.datamodules.parse.wire import lists_layout
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import FOOTER, FRAMING, HEADER, header, mask

_MAX_LAYOUTS = 1 << 12  # by length in bytes, of which there are a few hundred


class _Lists(NamedTuple):
    """Feature lists of one length in bytes, as they were met last; positions from the lists' beginning."""

    frames: int  # to keep
    structure: list[tuple[int, int, bytes]]  # start, end and content of the bytes around the lists
    lists: list[tuple]  # of each its item, count, start and headers, and its place in the features or None


class FrameReader:
    """Reads batches of the usual frame-level records.

    ``features`` maps name to bytes per frame, in the order of their columns; ``max_frames`` are kept of a video.
    """

    def __init__(
        self, shards: Shards, features: dict[str, int], num_classes: int, id_key: str, max_frames: int
    ):
        self._arguments = shards, features, num_classes, id_key, max_frames
        self._shards = shards
        self._features = features
        self._max_frames = max_frames
        self._contexts = FeatureMaps(id_key, num_classes, {})
        self._layouts: dict[int, _Lists] = {}
        self._lock = Lock()

    def __reduce__(self):
        return FrameReader, self._arguments

    def read(self, numbers: Sequence[int], out: np.ndarray) -> tuple[Values, np.ndarray] | None:
        """Write the frames of the records ``numbers`` to ``out``, uint8 [rows, D]; return values and frame counts.

        Frame counts are int64 [B], B > 0. None, with ``out`` undefined, where a record is damaged, unusual or does
        not fit. Raises IndexError for a number that is not there.
        """
        with self._lock:
            return self._read(numbers, out)

    def _read(self, numbers: Sequence[int], out: np.ndarray) -> tuple[Values, np.ndarray] | None:
        shards, offsets, sizes = (column.tolist() for column in self._shards.lookup(numbers))
        maps = self._shards.mapped(set(shards))
        if maps is None:
            return None
        arrays = {shard: np.frombuffer(mapped, np.uint8) for shard, mapped in maps.items()}
        columns = self._columns(out)
        crcs, heads, feet, contexts, counts = [], [], [], [], []
        row, checksum = 0, google_crc32c.value
        for shard, offset, size in zip(shards, offsets, sizes, strict=True):
            data, start, end = maps[shard], offset + HEADER, offset + size - FOOTER
            crcs.append(checksum(arrays[shard][start:end]))
            heads.append(data[offset:start])
            feet.append(data[end : end + FOOTER])
            # CRCs are compared for all records at the end, so nothing that stands here may be relied on.
            lists = _end_of_context(data, start)
            if lists >= end:
                return None
            contexts.append(data[start:lists])
            layout = self._layouts.get(end - lists)
            if layout is None or not _has_layout(data, lists, layout):
                layout = self._learn(data, lists, end)
                if layout is None:
                    return None
            stop = row + layout.frames
            for item, count, first, headers, place in layout.lists:
                frames = np.ndarray(count, item, data, lists + first)
                # Gathered as items, headers compare in a third of the time that a matrix of bytes takes.
                if frames["header"].tobytes() != headers:
                    return None
                if place is not None:
                    columns[place][row:stop] = frames["content"][: layout.frames]
            counts.append(layout.frames)
            row = stop
        if b"".join(heads) != b"".join([header(size - FRAMING) for size in sizes]):
            return None
        if (np.frombuffer(b"".join(feet), "<u4") != mask(np.array(crcs, np.uint64))).any():
            return None
        lengths = np.array([len(context) for context in contexts])
        values = self._contexts.read(
            np.frombuffer(b"".join(contexts), np.uint8), np.cumsum(lengths) - lengths, lengths
        )
        return None if values is None else (values, np.array(counts))

    def _columns(self, out: np.ndarray) -> list[np.ndarray]:
        """The columns of each feature, a frame an item."""
        columns, column = [], 0
        for size in self._features.values():
            columns.append(np.ndarray(len(out), f"V{size}", out, column, (out.strides[0],)))
            column += size
        return columns

    def _learn(self, data: mmap.mmap, start: int, end: int) -> _Lists | None:
        """Layout of the feature lists ``data[start:end]``; None where it is for another reader."""
        layout = lists_layout(data, start, end)
        if layout is None or not layout.lists.keys() >= self._features.keys():
            return None
        first, *others = (layout.lists[name] for name in self._features)
        frames = min(first.count, self._max_frames)
        if frames == 0 or any(other.count < frames for other in others):
            return None
        lists, places = [], {name: place for place, name in enumerate(self._features)}
        for name, found in layout.lists.items():
            if found.width != self._features.get(name, found.width):
                return None
            headers = found.header * found.count
            lists.append((found.item(), found.count, found.start - start, headers, places.get(name)))
        structure = [(first - start, last - start, content) for first, last, content in layout.structure]
        if len(self._layouts) == _MAX_LAYOUTS:
            self._layouts.clear()
        found = self._layouts[end - start] = _Lists(frames, structure, lists)
        return found


def _end_of_context(data: mmap.mmap, start: int) -> int:
    """Where the context ends that begins a record's payload, if its length takes one byte or two."""
    length = data[start + 1]
    if length < 0x80:
        return start + 2 + length
    return start + 3 + (length & 0x7F | data[start + 2] << 7)


def _has_layout(data: mmap.mmap, start: int, layout: _Lists) -> bool:
    # Run for every record, and a plain loop takes half the time of all().
    for first, last, content in layout.structure:  # noqa: SIM110
        if data[start + first : start + last] != content:
            return False
    return True
