"""The order of an epoch: a pure function of (seed, epoch), split equally between ranks, resumable at any batch."""

from collections.abc import Iterator

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

    Args:
        shard_sizes: records per shard, int64 `[S]`; records are numbered shard after shard.
        batch_size: records per batch of one rank.
        shuffle: False gives the records in their stored order (evaluation).
        seed: seed of all epochs' orders.
        window: number of shards whose records are mixed with each other.
        lengths: of each record, `[R]` in any unit, to batch similar ones together; None does not.
        rank, world_size: which share this process gets, and of how many.

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
    ):
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.num_records = int(self.shard_sizes.sum())
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
        self.epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration uses (Lightning calls this)."""
        self.epoch = epoch

    @property
    def sampler(self) -> "BatchSampler":
        """Where Lightning looks for `set_epoch` in a loader's batch sampler."""
        return self

    def start_at(self, epoch: int, batch: int) -> None:
        """Start `epoch` at its batch number `batch`; other epochs are complete."""
        self._start = (epoch, batch)

    def __len__(self) -> int:
        """Batches of this rank in a complete epoch, wherever the iteration starts."""
        return len(self._bounds()) - 1

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        bounds = self._bounds()
        first = self._start[1] if self.epoch == self._start[0] else 0
        for begin, end in zip(bounds[first:-1], bounds[first + 1 :], strict=True):
            share = np.array_split(order[begin:end], self.world_size)[self.rank]
            yield share.tolist()

    def order(self) -> np.ndarray:
        """Record numbers of the whole epoch over all ranks, int64 `[R]`."""
        if not self.shuffle:
            return np.arange(self.num_records)
        rng = self._generator()
        starts = np.cumsum(self.shard_sizes) - self.shard_sizes
        shards = rng.permutation(len(self.shard_sizes))
        windows = []
        for begin in range(0, len(shards), self.window):
            chosen = shards[begin : begin + self.window]
            records = [np.arange(starts[s], starts[s] + self.shard_sizes[s]) for s in chosen]
            windows.append(rng.permutation(np.concatenate(records)))
        order = np.concatenate(windows)
        return order if self.lengths is None else self._bucketed(order, rng)

    def shard_order(self) -> np.ndarray:
        """The shards in the order in which the epoch needs them, int64 `[S]`."""
        number = len(self.shard_sizes)
        return self._generator().permutation(number) if self.shuffle else np.arange(number)

    def _generator(self) -> np.random.Generator:
        """The epoch's source of chance; its first draw orders the shards."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, self.epoch))))

    def _bucketed(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`order` with each pool of whole global batches sorted into batches of similar length."""
        assert self.lengths is not None
        size = self.batch_size * self.world_size
        whole = len(order) // size * size  # the rest stays the last batch
        pools = []
        for begin in range(0, whole, POOL * size):
            pool = order[begin : min(begin + POOL * size, whole)]
            batches = pool[np.argsort(self.lengths[pool], kind="stable")].reshape(-1, size)
            # Shuffle within a batch, too: its halves go to different ranks, which wait for each other.
            pools.append(rng.permuted(rng.permutation(batches), axis=1).ravel())
        return np.concatenate([*pools, order[whole:]])

    def _bounds(self) -> np.ndarray:
        """Boundaries of the global batches in the order, int64 `[batches + 1]`."""
        bounds = np.arange(0, self.num_records, self.batch_size * self.world_size)
        if self.num_records - bounds[-1] < self.world_size and len(bounds) > 1:
            bounds = bounds[:-1]
        return np.append(bounds, self.num_records)
