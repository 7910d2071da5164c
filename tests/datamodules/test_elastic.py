"""An epoch that goes on with other ranks, batch sizes, and accumulation: every record once, wherever it stopped."""

from itertools import chain, product

import numpy as np
import pytest

from yt8m.datamodules.sampler import BatchSampler

SIZES = np.array([7, 1, 9, 0, 5, 9])
RECORDS = int(SIZES.sum())
LAYOUTS = [  # ranks, batch size, batches per step
    *product((1, 2, 3, 4), (3,), (1,)),
    *((4, 1, 1), (1, 2, 2), (2, 3, 2), (3, 2, 3), (2, 50, 1)),
]


def joined(lists):
    return list(chain.from_iterable(lists))


def ranks_of(layout, start=(0, 0), sections=(), **options):
    world_size, batch_size, accumulate = layout
    ranks = [
        BatchSampler(
            SIZES,
            batch_size,
            shuffle=True,
            seed=3,
            window=2,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
            **options,
        )
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start_at(*start, sections)
        rank.set_epoch(1)
    return ranks


def drawn(ranks):
    """The global batches, each the ranks' shares one after another."""
    batches = [list(rank) for rank in ranks]
    assert len({len(shares) for shares in batches}) == 1
    return [joined(shares) for shares in zip(*batches, strict=True)]


@pytest.mark.parametrize("lengths", [None, np.arange(RECORDS) * 7 % 23], ids=["plain", "by length"])
def test_every_record_once_whatever_changes_wherever_it_stops(lengths):
    order = ranks_of((1, 1, 1))[0].order().tolist()
    complete = {layout: drawn(ranks_of(layout, lengths=lengths)) for layout in LAYOUTS}
    for old, new in product(LAYOUTS, LAYOUTS):
        first = ranks_of(old, lengths=lengths)
        before, whole = complete[old], complete[new]
        assert joined(before) == first[0].order().tolist()
        for stop in range(old[2], len(before), old[2]):
            place = first[0].place(stop)
            second = ranks_of(new, (1, place), first[0].sections, lengths=lengths)
            after = drawn(second)
            used = joined(before[:stop])
            assert len(used) == place
            assert sorted(used + joined(after)) == list(range(RECORDS)), (old, new, stop)
            # Batches end where those of an uninterrupted epoch do, so counters and schedules agree with the place.
            done = second[0].first_batch
            assert done + len(after) == len(whole)
            assert done % new[2] == 0
            step = new[0] * new[1] * new[2]
            assert abs(done // new[2] - place / step) < 2  # the last batches may be one
            # A rank is without a record only where fewer than it needs are left of the epoch.
            if RECORDS - place >= new[0] * new[2]:
                assert all(share for rank in second for share in rank)
            if lengths is None:
                assert used + joined(after) == order
                assert after[new[2] :] == whole[done + new[2] :]
                if place == sum(map(len, whole[:done])):
                    assert after == whole[done:]


def test_an_epoch_that_changes_again_and_again():
    rng = np.random.default_rng(0)
    for lengths in (None, rng.integers(1, 300, RECORDS)):
        for _ in range(50):
            used, place, sections = [], 0, [[0, 8]]
            while place < RECORDS:
                layout = LAYOUTS[rng.integers(len(LAYOUTS))]
                ranks = ranks_of(layout, (1, place), sections, lengths=lengths)
                batches = drawn(ranks)
                last = ranks[0].first_batch + int(rng.integers(1, len(batches) + 1))
                last = min(-(-last // layout[2]) * layout[2], ranks[0].first_batch + len(batches))
                used += joined(batches[: last - ranks[0].first_batch])
                place, sections = ranks[0].place(last), ranks[0].sections
                assert place == len(used)
            assert sorted(used) == list(range(RECORDS))


def test_the_rest_of_an_epoch_by_length_is_batched_by_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(120, 301, 40_000)

    def sampler(batch_size, **options):
        return BatchSampler(np.full(10, 4_000), batch_size, shuffle=True, lengths=lengths, **options)

    def padded(batches):
        frames = sum(lengths[batch].sum() for batch in batches)
        return sum(len(batch) * lengths[batch].max() for batch in batches) / frames - 1

    first = sampler(32)
    second = sampler(100)
    second.start_at(0, first.place(77), first.sections)
    after = list(second)
    assert sum(map(len, after)) == 40_000 - 77 * 32
    assert padded(after) < 0.05
    third = sampler(100, world_size=2)  # from where the second one stops
    third.start_at(0, second.place(100), second.sections)
    assert third.sections == [[0, 32], [2500, 100], [10_000, 200]]
