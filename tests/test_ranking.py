"""The ranking of classes, against a sort in plain Python, and its one use for all metrics."""

import math

import numpy as np
import torch

from yt8m.metrics import GAP, MAP, PERR, HitAtOne, make_metrics
from yt8m.ranking import rank, top_classes

METRICS = {"gap": GAP, "map": MAP, "hit1": HitAtOne, "perr": PERR}


def ranking(row):
    return sorted(range(len(row)), key=lambda c: (-row[c], c))


def test_many_classes_rank_as_one_by_one():
    """Enough classes that blocks of them are ranked first; few distinct scores, so ties everywhere."""
    rng = np.random.default_rng(3)
    for classes, levels, k in ((3862, 3, 20), (3862, 1000, 20), (1985, 2, 31), (3862, 50, 300), (641, 4, 10)):
        scores = torch.from_numpy(rng.integers(0, levels, (12, classes)).astype(np.float32)) - 1
        scores[3, rng.integers(0, classes, 5)] = torch.nan
        row = scores.nan_to_num(nan=torch.inf).tolist()
        assert top_classes(scores, k).tolist() == [ranking(video)[:k] for video in row]
        assert top_classes(scores.t().contiguous().t(), k).tolist() == [ranking(video)[:k] for video in row]


def test_scores_of_any_sign_and_size_rank_as_numbers():
    row = [-0.0, 0.0, -1e-45, 1e-45, math.inf, -math.inf, 3.4e38, -3.4e38, -0.5, 0.5]
    assert rank(torch.tensor([row]), torch.zeros(1, 10)).classes.tolist() == [ranking(row)]


def test_scores_of_many_videos_rank_as_numbers_whatever_their_bits():
    """More videos than are ranked at once, with few finite scores, both zeros, both NaNs, and neighbors at the top."""
    rng = np.random.default_rng(4)
    scores = torch.from_numpy(rng.normal(size=(300, 3862)).astype(np.float32))
    scores[:, :40] += 9
    scores[rng.integers(0, 2, scores.shape) == 1] = -math.inf
    for value in (-0.0, 0.0, math.inf, 1e-45, -1e-45):
        scores[rng.integers(0, 300, 99), rng.integers(0, 3862, 99)] = value
    scores[[0, 127, 128, 255, 299], 15:] = -math.inf
    nans = torch.tensor([0x7FC00000, -0x400000], dtype=torch.int32).view(torch.float32)
    scores[torch.arange(200), torch.from_numpy(rng.integers(0, 3862, 200))] = nans.repeat(100)
    numbers = scores.double().nan_to_num(nan=math.inf, posinf=1e300, neginf=-1e300)
    expected = numbers.sort(dim=1, descending=True, stable=True).indices[:, :20]
    assert top_classes(scores, 20).equal(expected)


def test_no_videos_have_no_rank():
    found = rank(torch.empty(0, 3862), torch.empty(0, 3862))
    assert [list(part.shape) for part in found] == [[0, 20], [0, 20], [0, 20], [0], [3862]]
    assert not found.positives.any()


def test_no_classes_have_no_best_one():
    """As the genres of a dataset whose genres are unknown."""
    assert top_classes(torch.empty(3, 0), 0).shape == (3, 0)
    assert top_classes(torch.rand(3, 4000), 0).shape == (3, 0)


def test_one_ranking_serves_all_metrics():
    torch.manual_seed(0)
    scores, labels = torch.rand(600, 900).round(decimals=2), torch.rand(600, 900) < 0.03
    labels[7, :60] = True  # more labels than the top 20
    mask = torch.rand(600, 900) < 0.7
    metrics = make_metrics("")
    for part in (slice(0, 590), slice(590, 600)):
        metrics.update(scores[part], labels[part], mask[part])
    found = {name: value.item() for name, value in metrics.compute().items()}
    for name, kind in METRICS.items():
        alone = kind()
        alone.update(scores, labels, mask)
        assert found[name] == alone.compute().item()


def test_updates_read_nothing_from_a_device():
    """A tensor without data shows it: whatever made a host wait for a GPU would fail."""
    metrics = make_metrics("").to("meta")
    for _ in range(2):
        metrics.update(torch.empty(30, 3862, device="meta"), torch.empty(30, 3862, device="meta"))
    assert metrics["gap"].scores[0].shape == (600,)
