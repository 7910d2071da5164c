"""Video-level records, a batch at a time."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import google_crc32c
import numpy as np

from yt8m.datamodules.parse.fast import CarefulRead, FastRows, sound
from yt8m.datamodules.parse.layouts import FeatureMaps, byte_windows
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import FOOTER, FRAMING, HEADER

_ROWS = 64  # copied at a time, so that the data stays in the processor's cache


class VideoReader:
    """Reads batches of the usual video-level records.

    Args:
        shards: the records.
        features: name to number of floats, in the order of their columns.
        num_classes: labels are below it.
        id_key: key of the id.
    """

    def __init__(self, shards: Shards, features: dict[str, int], num_classes: int, id_key: str):
        self._arguments = shards, features, num_classes, id_key
        self._shards = shards
        self._features = features
        self._maps = FeatureMaps(id_key, {"labels": num_classes}, dict(features))
        self._records = np.empty(0, np.uint8)  # of a batch, one after another, in memory that is reused
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoReader, self._arguments

    def read(self, numbers: Sequence[int], out: np.ndarray, careful: CarefulRead) -> FastRows:
        """Read the records ``numbers``, B > 0, into ``out``, float32 [B or more, D].

        A record that is damaged, unusual, does not fit, or has a value that is not finite is read by ``careful``
        instead. Raises what that raises, and IndexError for a number that is not in the dataset.
        """
        with self._lock:
            return self._read(numbers, out[: len(numbers)], careful)

    def _read(self, numbers: Sequence[int], out: np.ndarray, careful: CarefulRead) -> FastRows:
        shards, offsets, sizes = self._shards.lookup(numbers)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        data, good = self._gather(shards, offsets, sizes, starts, ends)
        places = np.flatnonzero(good)
        while True:
            values = self._maps.read(data, starts[places] + HEADER, sizes[places] - FRAMING)
            usual = places[values.places]
            self._copy(data, values.floats, usual, out)
            # NaN passes through both. NumPy's functions: torch's use several threads, which hangs in a process
            # forked from one that used them.
            if np.isfinite(out.max()) and np.isfinite(out.min()):
                break
            places = places[np.isfinite(out[places]).all(1)]
        if len(usual) < len(out):
            kept = np.ones(len(out), bool)
            for place in np.setdiff1d(np.arange(len(out)), usual).tolist():
                features = careful(place)
                kept[place] = len(features)
                out[place : place + len(features)] = features
            count = int(kept.sum())
            if count < len(out):
                out[:count] = out[kept]
                out = out[:count]
        labeled = values.present[:, 0]
        return FastRows(
            out,
            usual,
            values.ids,
            np.ones(len(usual), np.int64),
            values.integers[0] if labeled.any() else None,
            mixed=bool(labeled.any() != labeled.all()),
        )

    def _copy(self, data: np.ndarray, spans: list[np.ndarray], usual: np.ndarray, out: np.ndarray) -> None:
        """Fill the rows ``usual`` of ``out`` with the features at ``spans``, and the others with zeros."""
        if len(usual) < len(out):
            out[:] = 0
        column = 0
        for size, span in zip(self._features.values(), spans, strict=True):
            # Whole rows as items: one copy each, whatever the alignment.
            items = byte_windows(data, np.dtype((np.void, 4 * size)))
            rows = np.ndarray(len(out), items.dtype, out, 4 * column, (out.strides[0],))
            column += size
            if len(usual) < len(out):
                rows[usual] = items[span[:, 0]]
                continue
            for row in range(0, len(rows), _ROWS):
                rows[row : row + _ROWS] = items[span[row : row + _ROWS, 0]]

    def _gather(
        self, shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The records one after another, uint8, and which of them, bool [B], have the right header and CRCs."""
        maps = self._shards.mapped(set(shards.tolist()))
        if maps is None:
            return np.zeros(0, np.uint8), np.zeros(len(sizes), bool)
        if len(self._records) < ends[-1]:
            self._records = np.empty(ends[-1], np.uint8)
        data = self._records[: ends[-1]]
        records, sources = memoryview(data), {shard: memoryview(mapped) for shard, mapped in maps.items()}
        checksum, stops = google_crc32c.value, offsets + sizes
        follows = (np.diff(shards) == 0) & (offsets[1:] == stops[:-1])
        if 2 * follows.sum() > len(sizes):
            # Records that are adjacent in their shard, as in evaluation, are copied together.
            firsts, lasts = (
                np.flatnonzero(np.append(True, ~follows)),
                np.flatnonzero(np.append(~follows, True)),
            )
            runs = shards[firsts], offsets[firsts], stops[lasts], starts[firsts], ends[lasts]
            for shard, begin, stop, start, end in zip(*(column.tolist() for column in runs), strict=True):
                records[start:end] = sources[shard][begin:stop]
            payloads = zip((starts + HEADER).tolist(), (ends - FOOTER).tolist(), strict=True)
            crcs = [checksum(data[start:end]) for start, end in payloads]
        else:
            crcs = []
            places = shards, offsets, stops, starts, ends
            for shard, begin, stop, start, end in zip(*(column.tolist() for column in places), strict=True):
                records[start:end] = sources[shard][begin:stop]
                crcs.append(checksum(data[start + HEADER : end - FOOTER]))
        headers = byte_windows(data, np.dtype((np.void, HEADER)))[starts].tobytes()
        return data, sound(
            (sizes - FRAMING).tolist(), headers, byte_windows(data, np.dtype("<u4"))[ends - FOOTER], crcs
        )
