"""The order of an epoch: a pure function of (seed, epoch), split equally between ranks, resumable at any record."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from yt8m.errors import ConfigError

POOL = 32  # global batches that are sorted together: enough lengths to choose from, few enough to keep reads local


class BatchSampler(Sampler[list[int]]):
    """Lists of global record numbers, one list per batch of this rank.

    Training shuffles in two steps, so that reads stay local: the shards are shuffled, then the records
    within each window of `window` consecutive shards. The number of workers does not matter.

    The order is cut into global batches of `batch_size × world_size` records, each of which is split between the
    ranks. So every rank has the same number of batches, which DDP needs, and every record occurs exactly once. The
    last global batch is split as evenly as possible; if it is too small for one record per rank, it joins the batch
    before it.

    With `lengths`, training batches hold videos of similar length, which cuts padding: within each pool of
    `POOL` global batches the records are sorted by length, and the pool's batches are then shuffled.

    An epoch can be resumed after any number of its records, by any number of ranks with any batch size. The batches are
    then those of an uninterrupted epoch of these ranks, apart from the optimizer step that the place lies in: what is
    left of its records makes up its batches.

    Args:
        shard_sizes: records per shard, int64 `[S]`; records are numbered shard after shard.
        batch_size: records per batch of one rank.
        shuffle: False gives the records in their stored order (evaluation).
        seed: seed of all epochs' orders.
        window: number of shards whose records are mixed with each other.
        lengths: of each record, `[R]` in any unit, to batch similar ones together; None does not.
        rank, world_size: which share this process gets, and of how many.
        accumulate: batches per optimizer step.

    Raises:
        ConfigError: there are fewer records than ranks, or an argument is out of range.
    """

    def __init__(
        self,
        shard_sizes: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        window: int = 8,
        lengths: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ):
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.num_records = int(self.shard_sizes.sum())
        self._ends = np.cumsum(self.shard_sizes)
        for key, value in (("batch_size", batch_size), ("shuffle_window", window)):
            if value < 1:
                raise ConfigError(f"dataset.{key}: expected 1 or more, found {value}")
        if self.num_records < world_size:
            raise ConfigError(
                f"trainer.devices: expected at most one rank per record, found {world_size} ranks "
                f"for {self.num_records} records; use fewer devices"
            )
        self.batch_size, self.shuffle, self.seed, self.window = batch_size, shuffle, seed, window
        self.lengths, self.rank, self.world_size = lengths, rank, world_size
        self.accumulate = accumulate
        self.epoch = 0
        self._start = (0, 0)  # epoch and records
        self._earlier: list[list[int]] = []

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration uses (Lightning calls this)."""
        self.epoch = epoch

    @property
    def sampler(self) -> "BatchSampler":
        """Where Lightning looks for `set_epoch` in a loader's batch sampler."""
        return self

    def start_at(self, epoch: int, records: int, sections: Sequence[Sequence[int]] = ()) -> None:
        """Start `epoch` after its first `records` records; other epochs are complete.

        Args:
            sections: `sections` of the sampler that drew those records.
        """
        self._start = (epoch, records)
        self._earlier = [list(section) for section in sections]

    @property
    def first_batch(self) -> int:
        """How many batches of this rank the place of `start_at` stands for."""
        return self._batches(self._start[0])[0]

    def place(self, batches: int) -> int:
        """How many records of this epoch are used after this many batches."""
        return int(self._batches(self.epoch)[1][batches])

    @property
    def sections(self) -> list[list[int]]:
        """What the order by length depends on: `[first record, records per global batch]` of this epoch's parts."""
        size = self.batch_size * self.world_size
        if self.epoch != self._start[0] or not self._start[1] or not self._earlier:
            return [[0, size]]
        if self._earlier[-1][1] == size:
            return self._earlier
        first, bounds = self._batches(self.epoch)
        # Not the batches of the interrupted step, which are of other sizes.
        regular = first if self._grid()[first] == bounds[first] else first + self.accumulate
        return [*self._earlier, [int(bounds[min(regular, len(bounds) - 1)]), size]]

    def __len__(self) -> int:
        """Batches of this rank in a complete epoch, wherever the iteration starts."""
        return len(self._grid()) - 1

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        first, bounds = self._batches(self.epoch)
        for begin, end in zip(bounds[first:-1], bounds[first + 1 :], strict=True):
            share = np.array_split(order[begin:end], self.world_size)[self.rank]
            yield share.tolist()

    def order(self) -> np.ndarray:
        """Record numbers of the whole epoch over all ranks, int64 `[R]`."""
        if not self.shuffle:
            return np.arange(self.num_records)
        rng = self._generator()
        order = np.concatenate([*self._windows(rng)])
        if self.lengths is not None:
            for begin, size in self.sections:
                order = self._bucketed(order, begin, size, rng)
                rng = self._generator(size)
        return order

    def shard_order(self) -> np.ndarray:
        """The shards in the order in which the epoch needs them, int64 `[S]`."""
        return self._shard_order(self._generator())

    def _shard_order(self, rng: np.random.Generator) -> np.ndarray:
        number = len(self.shard_sizes)
        return rng.permutation(number) if self.shuffle else np.arange(number)

    def _windows(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The epoch's record numbers, a window of shards at a time."""
        shards = self._shard_order(rng).tolist()
        step = self.window if self.shuffle else 1
        for begin in range(0, len(shards), step):
            window = np.concatenate([np.arange(*self._span(shard)) for shard in shards[begin : begin + step]])
            yield rng.permutation(window) if self.shuffle else window

    def _span(self, shard: int) -> tuple[int, int]:
        """Number of a shard's first record, and of the one after its last."""
        return int(self._ends[shard] - self.shard_sizes[shard]), int(self._ends[shard])

    def _generator(self, *more: int) -> np.random.Generator:
        """The epoch's source of chance; its first draw orders the shards."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, self.epoch, *more))))

    def _bucketed(self, order: np.ndarray, start: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """`order` with each pool of whole global batches from `start` on sorted into batches of similar length."""
        assert self.lengths is not None
        whole = start + (len(order) - start) // size * size  # the rest stays the last batch
        pools = [order[:start]]
        for begin in range(start, whole, POOL * size):
            pool = order[begin : min(begin + POOL * size, whole)]
            batches = pool[np.argsort(self.lengths[pool], kind="stable")].reshape(-1, size)
            # Shuffle within a batch, too: its halves go to different ranks, which wait for each other.
            pools.append(rng.permuted(rng.permutation(batches), axis=1).ravel())
        return np.concatenate([*pools, order[whole:]])

    def _grid(self) -> np.ndarray:
        """Boundaries of the global batches of a complete epoch, int64 `[batches + 1]`."""
        bounds = np.arange(0, self.num_records, self.batch_size * self.world_size)
        if self.num_records - bounds[-1] < self.world_size and len(bounds) > 1:
            bounds = bounds[:-1]
        return np.append(bounds, self.num_records)

    def _batches(self, epoch: int) -> tuple[int, np.ndarray]:
        """Number of the first batch to draw, and the boundaries of all: of those before it, where it begins."""
        bounds = self._grid()
        place = self._start[1] if epoch == self._start[0] else 0
        last = len(bounds) - 1
        step = int(np.searchsorted(bounds[: -1 : self.accumulate], place, "right")) - 1
        first, end = step * self.accumulate, min((step + 1) * self.accumulate, last)
        if bounds[first] < place:
            # What is left of this step; if it is too little for all ranks, it joins the next one.
            if bounds[end] - place < self.world_size * (end - first) and end < last:
                first, end = end, min(end + self.accumulate, last)
            parts = np.arange(end - first + 1)
            bounds[first : end + 1] = place + (bounds[end] - place) * parts // (end - first)
        bounds[:first] = place
        return first, bounds
