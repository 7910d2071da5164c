"""Records of shards that lie elsewhere, indexed as they arrive."""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from yt8m.datamodules.sampler import BatchSampler
from yt8m.datamodules.shards import RecordLocation, Shards
from yt8m.datamodules.tfrecord import File, fits, keep_index, kept_index, parse_sidecar, scan
from yt8m.errors import ChangedError, ConfigError, DataError, YT8MError
from yt8m.storage import transport, usage
from yt8m.storage.fetcher import Fetcher
from yt8m.storage.shard import RemoteShard

UNKNOWN = -1  # records of a shard that was never here
NEED_COUNTS = (
    "needs the records of every shard, which only the shards themselves tell, their .tfindex sidecars (yt8m.verify "
    "index=true), or for their number a manifest (yt8m.verify manifest=FILE)"
)

# Bits of a record's number within its shard, where the sizes of the shards before it are unknown.
_SPREAD = 32
_SIDECARS = 32  # fetched at once
_DOWNLOADS = 8  # shards at once, to count them


class RemoteShards(Shards):
    """`Shards` of a bucket. What it holds grows with the number of shards, not of records.

    The number of records of a shard is that of the manifest, else of its index from an earlier run or from a
    `.tfindex` sidecar, else `UNKNOWN` until `count` has seen the shard. If any is unknown at the start, shard s has the
    numbers from s · 2³², so that numbers never change.

    Args:
        sources: the shards.
        on_corrupt: `raise` or `skip`, as for `ShardDataset`.
        window: shards that a process keeps open, and in the cache, at once.
    """

    def __init__(self, sources: Sequence[RemoteShard], on_corrupt: str, window: int):
        self.sources = list(sources)
        self.paths = [source.address for source in sources]
        self.on_corrupt, self.max_open = on_corrupt, max(window, 2)
        #: One message per damaged stretch that the index of an arrived shard left out, until someone takes them.
        self.errors: list[str] = []
        with ThreadPoolExecutor(_SIDECARS) as pool:
            self.sizes = np.array(list(pool.map(_known_size, self.sources)), np.int64)
        self._starts = np.cumsum(self.sizes) - self.sizes
        if not self.is_counted():
            self._starts = np.arange(len(self.sources), dtype=np.int64) << _SPREAD
        self._files: OrderedDict[int, File] = OrderedDict()
        self._indices: OrderedDict[int, np.ndarray] = OrderedDict()
        self._fetched_again: set[int] = set()
        self._fetcher: Fetcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_fetcher": None}

    def __len__(self) -> int:
        if not self.is_counted():
            raise TypeError("the number of records is unknown")
        return int(self.sizes.sum())

    def __bool__(self) -> bool:
        return True

    def is_counted(self) -> bool:
        """Whether the number of records of every shard is known."""
        return bool((self.sizes != UNKNOWN).all())

    def count(self, shard: int) -> int:
        """The number of records of a shard; waits for it to arrive if need be."""
        if self.sizes[shard] == UNKNOWN:
            source = self.sources[shard]
            known = kept_index(source.address, source.stamp)
            if known is None:
                _here = self._open(shard)  # counts the wait; open, so that the cache keeps it
                found = scan(source)
                if found.errors and self.on_corrupt == "raise":
                    raise DataError(found.errors[0])
                known = found.records
            self.sizes[shard] = len(known)
        return int(self.sizes[shard])

    def count_all(self) -> None:
        """Count every shard, which brings all unknown ones here once; before any record has been numbered."""
        if not self.is_counted():
            shards = range(len(self.sources))
            bar = Progress(console=Console(stderr=True), transient=True, disable=len(shards) < 2)
            with ThreadPoolExecutor(_DOWNLOADS) as pool, bar:
                for _ in bar.track(pool.map(self.count, shards), len(shards), description="counting shards"):
                    pass
            self._starts = np.cumsum(self.sizes) - self.sizes

    def first_records(self, shard: int, most: int) -> range:
        """Numbers of up to `most` records at the beginning of a shard; waits for the shard."""
        start = int(self._starts[shard])
        return range(start, start + min(self.count(shard), most))

    def first_sizes(self, records: int) -> np.ndarray:
        """`sizes` with the shards counted that have the first `records` records, and those after them 0 if unknown."""
        sizes = self.sizes.copy()
        for shard in range(len(sizes)):
            sizes[shard] = 0 if records <= 0 and sizes[shard] == UNKNOWN else self.count(shard)
            records -= sizes[shard]
        return sizes

    @property
    def starts(self) -> np.ndarray:
        """The number of each shard's first record, int64 [S]."""
        return self._starts

    def shards_of(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """The shard of each record, int64."""
        return np.searchsorted(self._starts, np.asarray(numbers, np.int64), "right") - 1

    def lookup(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.asarray(numbers, np.int64)
        shards = self.shards_of(rows)
        offsets, sizes = np.empty_like(rows), np.empty_like(rows)
        for shard in np.unique(shards).tolist():
            records = self._index(shard) if shard >= 0 else np.zeros((0, 2), np.int64)
            chosen = np.flatnonzero(shards == shard)
            places = rows[chosen] - self._starts[max(shard, 0)]
            if places.min() < 0 or places.max() >= len(records):
                raise IndexError(f"expected numbers of records, found {rows.min()}..{rows.max()}")
            offsets[chosen], sizes[chosen] = records[places].T
        return shards, offsets, sizes

    def record_sizes(self) -> np.ndarray:
        """Bytes of every record, int64 [R]. Raises ConfigError if that needs shards that are not here."""
        indices = [kept_index(source.address, source.stamp) for source in self.sources]
        if any(index is None for index in indices):
            raise ConfigError(f"dataset.bucket_by_length: {NEED_COUNTS}")
        return np.concatenate([index[:, 1] for index in indices if index is not None])

    def record(self, location: RecordLocation) -> bytes:
        try:
            return super().record(location)
        except ChangedError:
            raise
        except DataError:
            shard = location.shard
            if shard in self._fetched_again:
                raise
            # Is it the shard that is damaged, or the copy?
            self._fetched_again.add(shard)
            self._files.pop(shard, None)
            self.sources[shard].discard()
            return super().record(location)

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Start reading the records that have arrived into the page cache; waits for none."""
        rows = np.asarray(numbers, np.int64)
        shards = self.shards_of(rows)
        here = [s for s in np.unique(shards).tolist() if s in self._files or self.sources[s].is_here()]
        if here:
            with contextlib.suppress(YT8MError):  # reading the record will raise it
                super().prefetch(rows[np.isin(shards, here)].tolist())

    def release(self) -> None:
        """Let the cache remove the shards that this process has open."""
        self._files.clear()

    def follow(self, sampler: BatchSampler) -> Iterator[list[int]]:
        """The batches of a sampler, while a process of its own fetches the shards ahead of them, in their order."""
        if self._fetcher is None:
            self._fetcher = Fetcher(self.sources)
        order = sampler.shard_order()
        order = order[sampler.shard_sizes[order] != 0]
        window = sampler.window if sampler.shuffle else 1
        place = np.zeros(len(self.sources), np.int64)
        place[order] = np.arange(len(order))
        start, front = None, 0
        if not self.is_counted():
            start = 0
            self._fetcher.begin(order, window)  # the sampler waits for the first shards
        try:
            for numbers in sampler:
                if numbers:
                    first = int(place[self.shards_of(numbers)].min()) // window * window
                    if start is None:
                        start = front = first  # of a resumed epoch, in its middle
                        self._fetcher.begin(order[start:], window)
                    if first > front:
                        self._fetcher.advance(first - start)
                    front = max(front, first)
                yield numbers
        except GeneratorExit:  # not at the last batch, whose shards are still needed when it is drawn
            self._fetcher.end()
            raise

    def close(self) -> None:
        """End the fetching process."""
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None

    def changed(self) -> str | None:
        folder = self.sources[0].cache.folder
        return (
            f"dataset.cache_dir: expected that nobody modifies the shards in {folder}, found one cut while it was "
            "read; start again or resume"
        )

    def _has_changed(self, shard: int) -> bool:
        return False  # the copy is of the version that was listed

    def _open(self, shard: int) -> File:
        source = self.sources[shard]
        was_here, began = source.is_here(), time.perf_counter()
        file = File(source)
        if was_here:
            usage.add(cache_hits=1)
        else:
            usage.add(cache_misses=1, cache_wait_seconds=time.perf_counter() - began)
        return file

    def _index(self, shard: int) -> np.ndarray:
        """(offset, size) of a shard's records, int64 [R, 2]."""
        if shard in self._indices:
            self._indices.move_to_end(shard)
            return self._indices[shard]
        records = self._scan(shard)
        if self.sizes[shard] not in (UNKNOWN, len(records)):
            raise ChangedError(
                f"{self.paths[shard]} @ byte 0: expected {self.sizes[shard]:,} records, as the manifest or an earlier "
                f"index says, found {len(records):,}; make a new manifest with yt8m.verify manifest=FILE"
            )
        self._indices[shard] = records
        while len(self._indices) > 4 * self.max_open:
            with contextlib.suppress(KeyError):  # another thread was faster
                self._indices.popitem(last=False)
        return records

    def _scan(self, shard: int) -> np.ndarray:
        source = self.sources[shard]
        known, file = kept_index(source.address, source.stamp), self._file(shard)
        if known is not None and fits(known, file):
            return known
        found = scan(source, cache=known is None)
        if known is not None:
            keep_index(source.address, source.stamp, found.records)
        if found.errors and self.on_corrupt == "raise":
            raise DataError(found.errors[0])
        self.errors += found.errors
        return found.records


def _known_size(source: RemoteShard) -> int:
    if source.records is not None:
        return source.records
    known = kept_index(source.address, source.stamp)
    if known is None and source.sidecar:
        with contextlib.suppress(FileNotFoundError, ValueError, OverflowError):
            known = parse_sidecar(transport.read(source.sidecar), source.size)
        if known is not None:
            keep_index(source.address, source.stamp, known)
    return UNKNOWN if known is None else len(known)
