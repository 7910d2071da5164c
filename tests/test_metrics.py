"""Metrics against plain loops written from the definitions of the reference evaluator."""

import itertools
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from yt8m.average_precision import average_precision
from yt8m.metrics import GAP, MAP, PERR, HitAtOne

METRICS = {"gap": GAP, "map": MAP, "hit1": HitAtOne, "perr": PERR}


# ---- Oracles: lists of floats and bools, one video or one pair at a time ----


def ranking(row):
    return sorted(range(len(row)), key=lambda c: (-row[c], c))


def expected_precision_sum(pairs):
    """Σ precision@i · hit_i over (score, hit) pairs by falling score, mean over the orders inside ties.

    Draws the pairs of a tie one by one and follows the distribution of the hits drawn so far.
    """
    total, above, hits_above = 0.0, 0, 0
    for score in sorted({score for score, _ in pairs}, reverse=True):
        hits = [hit for other, hit in pairs if other == score]
        drawn = {0: 1.0}
        for i in range(len(hits)):
            following = {}
            for j, probability in drawn.items():
                hit = probability * (sum(hits) - j) / (len(hits) - i)
                total += hit * (hits_above + j + 1) / (above + i + 1)
                following[j + 1] = following.get(j + 1, 0.0) + hit
                following[j] = following.get(j, 0.0) + probability - hit
            drawn = following
        above, hits_above = above + len(hits), hits_above + sum(hits)
    return total


def oracle(scores, labels, mask=None, top_k=20):
    if mask is not None:
        scores, labels = scores * mask, labels & mask
    scores, labels = scores.tolist(), labels.tolist()
    hit1 = [y[ranking(s)[0]] for s, y in zip(scores, labels, strict=True)]
    perr = []
    for s, y in zip(scores, labels, strict=True):
        top = ranking(s)[: sum(y)]
        perr.append(sum(y[c] for c in top if s[c] > 0) / max(len(top), 1))
    pool = [(c, s[c], y[c]) for s, y in zip(scores, labels, strict=True) for c in ranking(s)[:top_k]]
    positives = [sum(y[c] for y in labels) for c in range(len(labels[0]))]
    gap = expected_precision_sum([pair[1:] for pair in pool]) / max(sum(positives), 1)
    aps = [
        expected_precision_sum([pair[1:] for pair in pool if pair[0] == c]) / p
        for c, p in enumerate(positives)
        if p
    ]
    map_ = sum(aps) / max(len(aps), 1)
    return {"gap": gap, "map": map_, "hit1": sum(hit1) / len(hit1), "perr": sum(perr) / len(perr)}


def random_case(rng):
    """Few videos, 1 to 40 classes, few distinct scores, zeros, rows without labels, absent classes."""
    videos, classes = int(rng.integers(1, 9)), int(rng.integers(1, 41))
    levels = int(rng.choice([1, 2, 5, 20, 10**6]))
    scores = rng.integers(0, levels + 1, (videos, classes)).astype(np.float32) / levels
    labels = rng.random((videos, classes)) < rng.choice([0.0, 0.05, 0.3, 0.9])
    mask = rng.random((videos, classes)) < 0.5 if rng.random() < 0.3 else None
    return (
        torch.from_numpy(scores),
        torch.from_numpy(labels),
        None if mask is None else torch.from_numpy(mask),
    )


def evaluate(scores, labels, mask=None, cuts=(), **kwargs):
    """Values of the four metrics, updated in batches that end before the rows in `cuts`."""
    values = {}
    for name, kind in METRICS.items():
        metric = kind(**kwargs) if issubclass(kind, GAP | MAP) else kind()
        bounds = [0, *cuts, len(scores)]
        for a, b in itertools.pairwise(bounds):
            metric.update(scores[a:b], labels[a:b], None if mask is None else mask[a:b])
        values[name] = metric.compute().item()
    return values


# ---- Values ----


@pytest.mark.parametrize("seed", range(10))
def test_all_metrics_match_the_definitions(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        scores, labels, mask = random_case(rng)
        top_k = int(rng.choice([1, 3, 20]))
        cuts = sorted(rng.integers(0, len(scores) + 1, 2).tolist())  # batches of no videos occur
        found = evaluate(scores, labels, mask, cuts=cuts, top_k=top_k)
        assert found == pytest.approx(oracle(scores, labels, mask, top_k), rel=1e-6, abs=1e-7)


def test_ties_are_the_mean_of_all_shuffles():
    """The reference shuffles the pool, then sorts it stably: the mean over all n! shuffles."""
    rng = np.random.default_rng(1)
    for _ in range(150):
        n = int(rng.integers(1, 7))
        pairs = list(zip(rng.integers(0, 3, n).tolist(), (rng.random(n) < 0.5).tolist(), strict=True))
        sums = []
        for shuffled in itertools.permutations(pairs):
            ranked = sorted(shuffled, key=lambda pair: -pair[0])
            hits = list(itertools.accumulate(hit for _, hit in ranked))
            sums.append(sum(hits[i] / (i + 1) for i in range(n) if ranked[i][1]))
        scores, hits = zip(*pairs, strict=True)
        (found,) = average_precision(
            torch.tensor(scores, dtype=torch.float32), torch.zeros(n), torch.tensor(hits), torch.tensor([4])
        )
        assert found.item() == pytest.approx(np.mean(sums) / 4, rel=1e-12)


def test_values_by_hand():
    scores = torch.tensor([[0.9, 0.6, 0.1], [0.2, 0.7, 0.5]])
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    # Pool by score: 0.9 hit, 0.7 miss, 0.6 miss, 0.5 hit, 0.2 miss, 0.1 hit; three positives.
    # Class 0: 0.9 hit. Class 1: no positives. Class 2: 0.5 hit, 0.1 hit.
    assert evaluate(scores, labels) == pytest.approx(
        {"gap": (1 / 1 + 2 / 4 + 3 / 6) / 3, "map": (1 + 1) / 2, "hit1": 0.5, "perr": (1 / 2 + 0) / 2}
    )
    # The top 1 leaves 0.9 hit of class 0, 0.7 miss of class 1, and no pair for the positives of class 2.
    values = evaluate(scores, labels, top_k=1)
    assert (values["gap"], values["map"]) == pytest.approx((1 / 3, (1 + 0) / 2))


def test_gap_is_not_a_mean_of_batches():
    scores = torch.tensor([[0.9, 0.8], [0.3, 0.2]])
    labels = torch.tensor([[False, False], [True, False]])
    assert evaluate(scores, labels, cuts=[1])["gap"] == pytest.approx(1 / 3)


def test_equal_scores_of_a_video_rank_by_class():
    scores, labels = torch.full((2, 500), 0.5), torch.zeros(2, 500)
    labels[0, 0] = labels[1, 1] = 1
    assert evaluate(scores, labels)["hit1"] == 0.5


def test_perr_counts_only_scores_above_zero_and_more_than_twenty_labels():
    labels = torch.zeros(3, 50, dtype=torch.bool)
    labels[:2, :30] = True
    scores = torch.zeros(3, 50)
    scores[0, 5:] = 0.5  # the top 30 are classes 5 to 34, 25 of them true
    scores[1, :10] = 0.5  # 10 retrieved, 20 labels have score 0
    assert evaluate(scores, labels)["perr"] == pytest.approx((25 / 30 + 10 / 30 + 0) / 3)


def test_unrated_classes_cannot_win():
    scores = torch.tensor([[0.9, 0.4, 0.3]])
    labels = torch.tensor([[1, 1, 0]])
    assert evaluate(scores, labels, mask=torch.tensor([[0, 1, 1]])) == dict.fromkeys(METRICS, 1.0)


# ---- Inputs ----


@pytest.mark.parametrize("score_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("label_dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_any_dtype(score_dtype, label_dtype):
    torch.manual_seed(0)
    scores, labels = torch.rand(20, 30).to(score_dtype), torch.rand(20, 30) < 0.1
    found = evaluate(scores, labels.to(label_dtype), labels.to(label_dtype))
    assert found == pytest.approx(oracle(scores.float(), labels, labels), rel=1e-6)


@pytest.mark.parametrize("kind", METRICS.values())
def test_values_are_float32_scalars_without_history(kind):
    metric = kind()
    for value in (metric(torch.rand(3, 5, requires_grad=True), torch.ones(3, 5)), metric.compute()):
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert not value.requires_grad
    assert not any(part.requires_grad for part in getattr(metric, "scores", []))


@pytest.mark.parametrize("kind", METRICS.values())
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_scores_are_an_error(kind, sign):
    scores = torch.rand(4, 30)
    scores[2, 29] = math.copysign(math.nan, sign)
    metric = kind()
    metric.update(torch.rand(4, 30), torch.ones(4, 30))
    metric.update(scores, torch.ones(4, 30))
    with pytest.raises(ValueError, match="NaN"):
        metric.compute()


@pytest.mark.parametrize("kind", METRICS.values())
def test_shapes_must_agree(kind):
    with pytest.raises(ValueError, match=r"\[4, 7\] and \[4, 6\]"):
        kind().update(torch.rand(4, 7), torch.ones(4, 6))
    with pytest.raises(ValueError, match=r"\[7\] and \[7\]"):
        kind().update(torch.rand(7), torch.ones(7))
    with pytest.raises(ValueError, match=r"mask .*\[4, 7\], found \[4, 1\]"):
        kind().update(torch.rand(4, 7), torch.ones(4, 7), torch.ones(4, 1))


@pytest.mark.parametrize("kind", [GAP, MAP])
def test_class_count_and_top_k_are_checked(kind):
    metric = kind()
    metric.update(torch.rand(4, 7), torch.ones(4, 7))
    with pytest.raises(ValueError, match="found 8 after 7"):
        metric.update(torch.rand(4, 8), torch.ones(4, 8))
    with pytest.raises(ValueError, match="at least 1, found 0"):
        kind(top_k=0)


@pytest.mark.parametrize("kind", METRICS.values())
def test_no_videos_is_nan_and_no_positives_is_zero(kind):
    metric = kind()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    metric.update(torch.empty(0, 7), torch.empty(0, 7))
    assert metric.compute().isnan()
    metric.update(torch.rand(4, 7), torch.zeros(4, 7))
    assert metric.compute() == 0
    metric.update(torch.ones(4, 7), torch.ones(4, 7))
    assert metric.compute() > 0


# ---- State ----


def test_order_and_batches_do_not_matter():
    torch.manual_seed(0)
    scores, labels = torch.rand(200, 60).round(decimals=2), torch.rand(200, 60) < 0.05
    whole = evaluate(scores, labels)
    for seed in range(5):
        torch.manual_seed(seed)
        order = torch.randperm(200)
        cuts = sorted(torch.randint(0, 200, (7,)).tolist())
        assert evaluate(scores[order], labels[order], cuts=cuts) == pytest.approx(whole, rel=1e-7)


@pytest.mark.parametrize("kind", [GAP, MAP])
def test_memory_is_the_top_pairs(kind):
    metric = kind()
    for _ in range(10):
        metric.update(torch.rand(100, 3862), torch.rand(100, 3862) < 0.001)
    kept = sum(
        part.untyped_storage().nbytes()
        for name in ("scores", "classes", "hits", "positives")
        for part in getattr(metric, name)
    )
    assert kept == 1000 * 20 * (4 + 4 + 1) + 3862 * 8


@pytest.mark.parametrize("kind", METRICS.values())
def test_reset_pickle_forward_and_merge(kind):
    torch.manual_seed(0)
    scores, labels = torch.rand(20, 30).round(decimals=1), torch.rand(20, 30) < 0.1
    whole = kind()
    whole.update(scores, labels)
    expected = whole.compute()

    used = kind()
    used.update(torch.rand(5, 40), torch.ones(5, 40))
    used.compute()
    used.reset()
    used.update(scores, labels)
    assert used.compute() == expected

    assert pickle.loads(pickle.dumps(used)).compute() == expected
    kept = kind()
    kept.persistent(True)
    kept.update(scores, labels)
    restored = kind()
    restored.load_state_dict(kept.state_dict())
    restored.update(scores[:0], labels[:0])
    assert restored.compute() == expected

    forward = kind()
    first = kind()
    first.update(scores[:7], labels[:7])
    assert forward(scores[:7], labels[:7]) == first.compute()
    forward(scores[7:15], labels[7:15])
    forward.update(scores[15:], labels[15:])
    assert forward.compute() == expected

    start, rest = kind(), kind()
    start.update(scores[:7], labels[:7])
    rest.update(scores[7:], labels[7:])
    start.merge_state(rest)
    assert start.compute() == expected


def test_inference_mode_and_training_updates_mix():
    for kind in METRICS.values():
        metric = kind()
        with torch.inference_mode():
            metric.reset()
            metric.update(torch.rand(4, 7), torch.ones(4, 7))
        metric.update(torch.rand(4, 7), torch.ones(4, 7))
        assert metric.compute() == 1


def test_collection_shares_what_two_metrics_keep():
    torch.manual_seed(0)
    scores, labels = torch.rand(30, 40), torch.rand(30, 40) < 0.1
    collection = MetricCollection({name: kind() for name, kind in METRICS.items()})
    collection.update(scores[:1], torch.zeros(1, 40))  # all values are 0, as at the start of a training
    groups = [sorted(group) for group in collection.compute_groups.values()]
    assert sorted(groups) == [["gap", "map"], ["hit1", "perr"]]
    collection.update(scores[1:], labels[1:])
    labels[0] = False
    values = {name: value.item() for name, value in collection.compute().items()}
    assert values == pytest.approx(evaluate(scores, labels), rel=1e-7)


RANK = """
import sys, torch
import torch.distributed as dist
from torchmetrics import MetricCollection
from yt8m.metrics import GAP, MAP, PERR, HitAtOne

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
values = {}
for case, (batches, late) in torch.load(f"{folder}/cases.pt").items():
    alone = {"gap": GAP(), "map": MAP(), "hit1": HitAtOne(), "perr": PERR()}
    metrics = MetricCollection({name: metric.clone() for name, metric in alone.items()})
    for when, part in (("first", batches), ("then", late)):
        for batch in part[rank]:
            metrics.update(*batch)
            for metric in alone.values():
                metric.update(*batch)
        values[case, when, "collection"] = metrics.compute()
        values[case, when, "alone"] = {name: metric.compute() for name, metric in alone.items()}
torch.save(values, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_value_of_one(tmp_path):
    """Uneven numbers of batches, ranks without any, and more updates after a first value."""
    torch.manual_seed(0)
    batches = [(torch.rand(n, 45).round(decimals=2), torch.rand(n, 45) < 0.1) for n in (5, 3, 8, 1, 4, 6)]
    then = batches[4:5], batches[5:]
    cases = {
        "uneven": ((batches[:3], batches[3:4]), then),
        "rank 0 empty": (([], batches[:4]), then),
        "rank 1 empty": ((batches[:4], []), then),
    }
    torch.save(cases, tmp_path / "cases.pt")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(i), str(tmp_path)], env=env) for i in range(2)]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()

    scores, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = {"first": evaluate(scores[:17], labels[:17]), "then": evaluate(scores, labels)}
    for rank in range(2):
        values = torch.load(tmp_path / f"rank{rank}.pt")
        assert len(values) == 2 * 2 * len(cases)
        for (case, when, how), found in values.items():
            assert {name: value.item() for name, value in found.items()} == expected[when], (case, when, how)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_update_never_waits_and_agrees_with_the_cpu():
    torch.manual_seed(0)
    scores, labels = torch.rand(64, 3862).round(decimals=3), torch.rand(64, 3862) < 0.01
    on_device = {name: kind().cuda() for name, kind in METRICS.items()}
    batch = scores.cuda(), labels.cuda(), labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for metric in on_device.values():
            metric.update(*batch)
            metric.update(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = {name: metric.compute().item() for name, metric in on_device.items()}
    twice = evaluate(*(torch.cat([part, part]) for part in (scores, labels, labels)))
    assert found == pytest.approx(twice, rel=1e-6)
