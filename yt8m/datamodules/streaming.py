"""The sampler of shards that lie elsewhere: `BatchSampler`'s order, made window by window."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from yt8m.datamodules.sampler import BatchSampler


class StreamingSampler(BatchSampler):
    """`BatchSampler` that holds one window of the order at a time; its batches are the same, bit for bit.

    Its memory does not grow with the dataset. An epoch over shards that nobody has counted starts when those of its
    first window have arrived; such a sampler has no length.

    Args:
        shard_sizes: records to use of each shard, int64 `[S]`, negative where unknown.
        batch_size: records per batch of one rank.
        starts: number of each shard's first record, int64 `[S]`.
        count: the number of records of a shard whose size is unknown; may wait for the shard.
        arguments: as for `BatchSampler`, without `lengths`.
    """

    def __init__(
        self,
        shard_sizes: np.ndarray,
        batch_size: int,
        *,
        starts: np.ndarray,
        count: Callable[[int], int],
        **arguments: Any,
    ):
        self.counted = bool((shard_sizes >= 0).all())
        # One of unknown size has a record for every rank.
        assumed = np.where(shard_sizes < 0, arguments.get("world_size", 1), shard_sizes)
        super().__init__(assumed, batch_size, **arguments)
        self._starts, self._sizes, self._count = starts, shard_sizes, count

    def __len__(self) -> int:
        if not self.counted:
            raise TypeError("the number of records is unknown")
        return super().__len__()

    def __bool__(self) -> bool:
        return True  # also without a length

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._global_batches():
            yield np.array_split(batch, self.world_size)[self.rank].tolist()

    def place(self, batches: int) -> int:
        if self.counted:
            return super().place(batches)
        start = self._start[1] if self.epoch == self._start[0] else 0
        return max(start, batches * self.batch_size * self.world_size)

    @property
    def first_batch(self) -> int:
        return super().first_batch if self.counted else self._start[1] // (self.batch_size * self.world_size)

    def _global_batches(self) -> Iterator[np.ndarray]:
        size = self.batch_size * self.world_size
        place = self._start[1] if self.epoch == self._start[0] else 0
        sizes: Iterator[int] = iter(())
        if place and self.counted:
            first, bounds = self._batches(self.epoch)
            # The interrupted step; from there on the batches are those of any epoch.
            sizes = iter(np.diff(bounds[first : first + self.accumulate + 1]).tolist())
        elif place % size:
            sizes = iter([size - place % size])
        rest, wanted = np.zeros(0, np.int64), next(sizes, None)
        for window in self._windows(self._generator()):
            skipped = min(place, len(window))
            place -= skipped
            rest = np.concatenate([rest, window[skipped:]])
            while wanted is not None and len(rest) >= wanted:
                yield rest[:wanted]
                rest, wanted = rest[wanted:], next(sizes, None)
            if wanted is not None:
                continue
            # A rest too small for one record per rank joins the batch before it.
            whole = max(len(rest) - self.world_size, 0) // size
            yield from rest[: whole * size].reshape(-1, size)
            rest = rest[whole * size :]
        if wanted is None and len(rest) > size and len(rest) - size >= self.world_size:
            yield rest[:size]
            rest = rest[size:]
        if len(rest):
            yield rest

    def _span(self, shard: int) -> tuple[int, int]:
        start, size = int(self._starts[shard]), int(self._sizes[shard])
        return start, start + (size if size >= 0 else self._count(shard))
