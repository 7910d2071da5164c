"""The order made window by window is the order made at once."""

from itertools import product

import numpy as np
import pytest

from yt8m.datamodules.sampler import BatchSampler
from yt8m.datamodules.streaming import StreamingSampler

SIZES = [np.array([7, 1, 13, 5, 9, 11]), np.array([11]), np.array([3, 0, 9]), np.array([5, 16])]


def test_the_batches_are_those_of_the_other_sampler_for_all_sizes_ranks_and_places():
    combinations = product(SIZES, (1, 2, 3, 5), (1, 2, 4, 5, 100), (True, False), (1, 2, 8), (0, 3))
    for sizes, world, batch_size, shuffle, window, first in combinations:
        starts = np.cumsum(sizes) - sizes
        for rank in range(world):
            arguments = {"shuffle": shuffle, "seed": 5, "window": window, "rank": rank, "world_size": world}
            plain = BatchSampler(sizes, batch_size, **arguments)
            streaming = StreamingSampler(sizes, batch_size, starts=starts, count=pytest.fail, **arguments)
            for sampler in (plain, streaming):
                sampler.set_epoch(2)
                sampler.start_at(2, first)
            assert list(streaming) == list(plain)
            assert len(streaming) == len(plain)


def test_unknown_sizes_are_asked_for_a_window_at_a_time_and_change_nothing():
    sizes, asked = SIZES[0], []
    starts = np.arange(len(sizes)) << 32

    def count(shard: int) -> int:
        asked.append(shard)
        return int(sizes[shard])

    sampler = StreamingSampler(np.full(6, -1), 4, starts=starts, count=count, shuffle=True, seed=1, window=2)
    with pytest.raises(TypeError, match="unknown"):
        len(sampler)
    batches = iter(sampler)
    found = [next(batches)]
    assert asked == sampler.shard_order()[:2].tolist()
    found += batches
    expected = BatchSampler(sizes, 4, shuffle=True, seed=1, window=2)
    plain_starts = np.cumsum(sizes) - sizes
    assert [[int(plain_starts[n >> 32] + (n & 0xFFFFFFFF)) for n in b] for b in found] == list(expected)
