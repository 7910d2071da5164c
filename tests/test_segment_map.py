"""MAP@100,000 from scores: equal to the oracle, whatever the batches, the cut, and the number of ranks."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.segment_oracle import mean_average_precision
from yt8m.metrics import make_metrics
from yt8m.segment_map import SegmentMAP

CLASSES = 7


def made_up(rng, rows):
    """Scores without ties, labels, and which of them were rated; classes 5 and 6 have no positives, 6 no ratings."""
    scores = rng.permutation(rows * CLASSES).reshape(rows, CLASSES).astype(np.float32) / (rows * CLASSES)
    rated = rng.random((rows, CLASSES)) < 0.3
    rated[:, 6] = False
    labels = (rng.random((rows, CLASSES)) < 0.4) & rated
    labels[:, 5] = False
    return scores, labels, rated


def expected(scores, labels, rated, k, ranked=range(CLASSES)):
    ratings = {(str(row), c): bool(labels[row, c]) for row, c in zip(*np.nonzero(rated), strict=True)}
    lists = {c: [str(row) for row in np.argsort(-scores[:, c])] for c in ranked}
    return mean_average_precision(lists, ratings, k)


def batches(*arrays, size):
    return zip(*(torch.from_numpy(array).split(size) for array in arrays), strict=True)


def test_equals_the_oracle_whatever_the_cut_and_the_batches():
    rng = np.random.default_rng(0)
    values = set()
    for rows in (1, 30, 300):
        data = made_up(rng, rows)
        for k in (3, 40, 299, 100_000):
            for size in (7, 300):
                for ranked in (None, [0, 2, 4, 6]):
                    metric = SegmentMAP(ranked, k)
                    for batch in batches(*data, size=size):
                        metric.update(*batch)
                    value = metric.compute().item()
                    assert value == pytest.approx(expected(*data, k, ranked or range(CLASSES)), abs=1e-6)
                    values.add(round(value, 6))
    assert len(values) > 8  # the cut and the classes matter


def test_memory_is_bounded_by_the_pairs_that_can_count():
    rng = np.random.default_rng(1)
    metric, k = SegmentMAP(k=50), 50
    for batch in batches(*made_up(rng, 5000), size=10):
        metric.update(*batch)
        kept = sum(len(scores) for scores, _ in metric._pending)
        kept += 0 if metric._best is None else metric._best.shape[1]
        assert kept <= 1.25 * k + 10
        assert sum(map(len, metric.scores)) <= (1.25 * k + 10) * CLASSES


def test_ties_at_the_cut_all_count_and_others_take_the_mean_of_all_orders():
    scores = torch.tensor([[0.9], [0.5], [0.5], [0.1]])
    labels = torch.tensor([[False], [True], [False], [True]])
    for k, value in ((1, 0.0), (2, (1 / 2 + 1 / 3) / 2 / 2), (4, ((1 / 2 + 1 / 3) / 2 + 2 / 4) / 2)):
        metric = SegmentMAP(k=k)
        metric.update(scores, labels)
        assert metric.compute().item() == pytest.approx(value)


def test_nothing_no_positives_nan_and_reset():
    metric = SegmentMAP()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    metric.update(torch.rand(3, 2), torch.zeros(3, 2, dtype=torch.bool))
    assert metric.compute() == 0
    metric.reset()
    metric.update(torch.full((3, 2), torch.nan), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="found NaN"):
        metric.compute()
    negative = SegmentMAP(k=2)  # logits
    negative.update(torch.tensor([[-3.0], [-1.0], [-2.0]]), torch.tensor([[True], [True], [False]]))
    assert negative.compute() == 0.5


def test_names_at_segment_level_cannot_be_confused():
    assert type(make_metrics("val/", "segment")["map"]) is SegmentMAP
    assert {*make_metrics("val/", "segment").keys()} - {*make_metrics("val/", "frame").keys()} == {
        "val/map_top20"
    }


RANK = """
import sys, torch
import torch.distributed as dist
from yt8m.segment_map import SegmentMAP

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
values, shares = {}, torch.load(f"{folder}/shares.pt")
for k, ranked in ((60, None), (200, [1, 2, 3]), (1000, None)):
    metric = SegmentMAP(ranked, k)
    for when in ("first", "after a reset"):
        metric.reset()
        for batch in zip(*(part.split(16) for part in shares[rank])):
            if len(batch[0]):
                metric.update(*batch)
        values[k, when] = metric.compute().item()
torch.save(values, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_find_what_one_process_does(tmp_path):
    data = made_up(np.random.default_rng(2), 300)
    cuts = [slice(0, 90), slice(90, 90), slice(90, 300)]  # the second rank has no batch at all
    torch.save(
        [tuple(torch.from_numpy(array[cut]) for array in data) for cut in cuts], tmp_path / "shares.pt"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(i), str(tmp_path)], env=env) for i in range(3)]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0, 0]
    finally:
        for process in ranks:
            process.kill()
    for rank in range(3):
        values = torch.load(tmp_path / f"rank{rank}.pt")
        assert len(values) == 6
        for (k, when), value in values.items():
            alone = expected(*data, k, [1, 2, 3] if k == 200 else range(CLASSES))
            assert value == pytest.approx(alone, abs=1e-6), (rank, k, when)
