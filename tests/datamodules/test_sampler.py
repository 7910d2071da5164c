"""The epoch's order: every record once, the same for all, entered anywhere."""

import numpy as np
import pytest

from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import ConfigError

SIZES = np.array([7, 1, 13, 5, 9, 11])


def batches(sampler: BatchSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [SIZES, np.array([11]), np.array([3, 0, 9]), np.array([5, 16])])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 100])
def test_every_record_once_and_equal_batches(sizes, batch_size, world_size, shuffle):
    ranks = [
        BatchSampler(sizes, batch_size, shuffle=shuffle, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    drawn = [batches(rank) for rank in ranks]
    assert sorted(n for rank in drawn for batch in rank for n in batch) == list(range(sizes.sum()))
    assert {len(rank) for rank in drawn} == {len(ranks[0])}
    assert all(batch for rank in drawn for batch in rank)
    assert max(len(batch) for rank in drawn for batch in rank) <= batch_size + 1


def test_ranks_together_draw_what_one_process_draws():
    whole = batches(BatchSampler(SIZES, 8, shuffle=True, seed=3), epoch=2)
    halves = [
        batches(BatchSampler(SIZES, 4, shuffle=True, seed=3, rank=r, world_size=2), epoch=2) for r in (0, 1)
    ]
    for one, first, second in zip(whole, *halves, strict=True):
        assert one == first + second


def test_order_is_a_function_of_seed_and_epoch():
    def sampler(seed):
        return BatchSampler(SIZES, 4, shuffle=True, seed=seed)

    assert batches(sampler(0), epoch=3) == batches(sampler(0), epoch=3)
    assert batches(sampler(0), epoch=3) != batches(sampler(0), epoch=4)
    assert batches(sampler(0), epoch=3) != batches(sampler(1), epoch=3)


def test_windows_mix_shards_but_only_within_a_window():
    sampler = BatchSampler(np.full(12, 50), 10, shuffle=True, window=4)
    shard_of = sampler.order() // 50
    for begin in range(0, 600, 200):
        inside = shard_of[begin : begin + 200]
        assert len(set(inside)) == 4
        # Mixed: the first quarter of a window already holds records of all of its shards.
        assert len(set(inside[:50])) == 4
    assert len(set(shard_of)) == 12


def test_start_skips_only_in_its_own_epoch():
    whole = BatchSampler(SIZES, 4, shuffle=True)
    resumed = BatchSampler(SIZES, 4, shuffle=True)
    resumed.start_at(1, 5 * 4)
    assert batches(resumed, epoch=1) == batches(whole, epoch=1)[5:]
    assert batches(resumed, epoch=2) == batches(whole, epoch=2)
    assert len(resumed) == len(whole)


@pytest.mark.parametrize(("batch_size", "window"), [(0, 1), (1, 0)])
def test_arguments_out_of_range(batch_size, window):
    with pytest.raises(ConfigError, match="expected 1 or more, found 0"):
        BatchSampler(SIZES, batch_size, shuffle=True, window=window)


def test_more_ranks_than_records():
    with pytest.raises(ConfigError, match="4 ranks for 3 records"):
        BatchSampler(np.array([3]), 1, shuffle=True, world_size=4)


def test_buckets_hold_like_lengths_and_every_record_once():
    rng = np.random.default_rng(0)
    lengths = rng.integers(120, 301, 4000)
    sizes = np.full(10, 400)
    plain = BatchSampler(sizes, 32, shuffle=True)
    bucketed = BatchSampler(sizes, 32, shuffle=True, lengths=lengths)

    def padded(sampler):
        drawn = batches(sampler, epoch=1)
        assert sorted(n for batch in drawn for n in batch) == list(range(4000))
        return sum(len(batch) * lengths[batch].max() for batch in drawn) / lengths.sum() - 1

    # 120 to 300 frames at random: a batch of 32 pads to almost 300, 40 % more than there is.
    assert padded(plain) > 0.35
    assert padded(bucketed) < 0.05
    assert batches(bucketed, 1) == batches(BatchSampler(sizes, 32, shuffle=True, lengths=lengths), 1)
    assert batches(bucketed, 1) != batches(bucketed, 2)


def test_bucketed_batches_come_in_no_order_of_length():
    lengths = np.arange(3200) % 181
    sampler = BatchSampler(np.full(8, 400), 32, shuffle=True, lengths=lengths)
    longest = [lengths[batch].max() for batch in batches(sampler)]
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.4


@pytest.mark.parametrize("world_size", [2, 3])
def test_buckets_are_cut_between_ranks_like_any_order(world_size):
    lengths = np.arange(int(SIZES.sum()))
    ranks = [
        batches(BatchSampler(SIZES, 3, shuffle=True, lengths=lengths, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    assert sorted(n for rank in ranks for batch in rank for n in batch) == list(range(SIZES.sum()))
    assert len({len(rank) for rank in ranks}) == 1
