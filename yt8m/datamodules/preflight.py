"""Records that are read before training, so that what does not fit is reported now and not hours later."""

import os
from collections.abc import Callable, Sequence

import numpy as np

from yt8m.datamodules.dataset import ShardDataset
from yt8m.errors import ConfigError

# Partitions up to this size are read completely; of larger ones, each shard's first record.
_WHOLE_BYTES = 256 << 20
_AT_ONCE = 64


def read_sample(dataset: ShardDataset, partition: str, progress: Callable[[], None]) -> None:
    """Read a partition's records, or some of each shard; of a remote one, records of a single shard.

    Args:
        partition: its name, for errors.
        progress: called after every few records.

    Raises:
        DataError: a record is damaged, or is not what the dataset's settings say.
        ConfigError: segments are wanted, and no video has a rated one.
    """
    numbers: Sequence[int]
    everything = not dataset.remote and sum(os.path.getsize(path) for path in dataset.paths) <= _WHOLE_BYTES
    if dataset.remote:  # one shard, because each has to come here
        numbers = dataset.remote.first_records(0, _AT_ONCE)
    elif everything:
        numbers = range(len(dataset))
    else:
        first = np.cumsum(dataset.shard_sizes) - dataset.shard_sizes
        numbers = first[dataset.shard_sizes > 0].tolist()
    rows = 0
    for begin in range(0, len(numbers), _AT_ONCE):
        rows += len(dataset.__getitems__(list(numbers[begin : begin + _AT_ONCE])))
        progress()
    dataset.release()
    if not rows and everything:
        raise ConfigError(
            f"dataset.{partition}: expected videos with rated segments, found none among {len(dataset):,}; choose "
            "other shards, or dataset.level=frame"
        )
