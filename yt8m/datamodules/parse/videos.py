"""Video-level records read a batch at a time."""

from collections.abc import Sequence
from threading import Lock

import google_crc32c
import numpy as np

from yt8m.datamodules.parse.layouts import FeatureMaps, Values, byte_windows
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import FOOTER, FRAMING, HEADER, header, mask

_ROWS = 64  # copied at a time, so that what is on its way stays in the processor's cache


class VideoReader:
    """Reads batches of the usual video-level records, ``features`` mapping name to number of floats in their order."""

    def __init__(self, shards: Shards, features: dict[str, int], num_classes: int, id_key: str):
        self._arguments = shards, features, num_classes, id_key
        self._shards = shards
        self._features = features
        self._maps = FeatureMaps(id_key, num_classes, features)
        self._records = np.empty(0, np.uint8)  # of a batch, one after another, in memory that is kept
        self._lock = Lock()

    def __reduce__(self):
        return VideoReader, self._arguments

    def read(self, numbers: Sequence[int], out: np.ndarray) -> tuple[Values, np.ndarray] | None:
        """Write the features of the records ``numbers`` to ``out``, float32 [B, D]; return values and frame counts.

        Frame counts are int64 [B], B > 0, and all 1. None, with ``out`` undefined, where a record is damaged, unusual
        or does not fit, or a feature is not finite. Raises IndexError for a number that is not there.
        """
        with self._lock:
            return self._read(numbers, out)

    def _read(self, numbers: Sequence[int], out: np.ndarray) -> tuple[Values, np.ndarray] | None:
        shards, offsets, sizes = self._shards.lookup(numbers)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        data = self._gather(shards, offsets, sizes, starts, ends)
        if data is None:
            return None
        values = self._maps.read(data, starts + HEADER, sizes - FRAMING)
        if values is None:
            return None
        column = 0
        for size, first in zip(self._features.values(), values.floats, strict=True):
            # Rows as items: one copy each, whatever the alignment.
            items = byte_windows(data, np.dtype((np.void, 4 * size)))
            rows = np.ndarray(len(out), items.dtype, out, 4 * column, (out.strides[0],))
            for row in range(0, len(rows), _ROWS):
                rows[row : row + _ROWS] = items[first[row : row + _ROWS]]
            column += size
        # NaN passes through both; NumPy's, as torch's run in several threads, which hangs in a process that was
        # forked from one where they ran before.
        if not (np.isfinite(out.max()) and np.isfinite(out.min())):
            return None
        return values, np.ones(len(out), np.int64)

    def _gather(
        self, shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> np.ndarray | None:
        """Records one after another, uint8; None where one is not there or a CRC is not right."""
        maps = self._shards.mapped(set(shards.tolist()))
        if maps is None:
            return None
        if len(self._records) < ends[-1]:
            self._records = np.empty(ends[-1], np.uint8)
        data = self._records[: ends[-1]]
        records, sources = memoryview(data), {shard: memoryview(mapped) for shard, mapped in maps.items()}
        checksum, stops = google_crc32c.value, offsets + sizes
        follows = (np.diff(shards) == 0) & (offsets[1:] == stops[:-1])
        if 2 * follows.sum() > len(sizes):
            # Records that follow one another in their shard, as in evaluation, are copied at once.
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
        headers = b"".join(map(header, (sizes - FRAMING).tolist()))
        sound = (byte_windows(data, np.dtype("<u4"))[ends - FOOTER] == mask(np.array(crcs, np.uint64))).all()
        sound &= byte_windows(data, np.dtype((np.void, HEADER)))[starts].tobytes() == headers
        return data if sound else None
