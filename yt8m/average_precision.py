"""Average precision over scores in which ties have no order: of each class, or of all pairs as one class."""

import torch
from torch import Tensor

from yt8m.ranking import sortable

NAN_SCORES = "scores must be numbers that can be ranked, found NaN; look for a diverged loss or bad features"
_CHUNK = 1 << 20  # pairs that are converted at once


def average_precision(scores: Tensor, classes: Tensor, hits: Tensor, positives: Tensor) -> Tensor:
    """Average precision of each class over pooled pairs.

    Σ_i precision@i · hit_i over the pairs of a class by falling score, divided by all positives of the
    class. For m pairs of equal score with h hits among them, ranked after k pairs with H hits, the sum's
    mean over the m! orders is Σ_{i=1..m} h/m · (H + 1 + (i-1)(h-1)/(m-1)) / (k+i): a pair is a hit with
    probability h/m, and each of the i-1 before it is then another hit with probability (h-1)/(m-1).

    Args:
        scores: float32 `[n]`.
        classes: integer `[n]`, in `[0, C)`.
        hits: bool `[n]`.
        positives: integer `[C]`, the true labels of each class, also those among no pair.

    Returns:
        float64 `[C]`, NaN for classes without positives.

    Raises:
        ValueError: a score is NaN.
    """
    if scores.isnan().any():
        raise ValueError(NAN_SCORES)
    key = _sorted_keys(scores, classes, hits)
    hit_at = (key & 1).nonzero().squeeze(1)
    ties, h = torch.unique_consecutive(key[hit_at], return_counts=True)  # those without hits add nothing
    start = torch.searchsorted(key, ties - 1)
    m = torch.searchsorted(key, ties, right=True) - start
    tie_class = ties >> 33
    class_start = torch.searchsorted(key, torch.arange(len(positives), device=key.device) << 33)
    hits_before = h.cumsum(0) - h
    k = start - class_start[tie_class]
    hits_above = hits_before - hits_before[torch.searchsorted(tie_class, tie_class)]  # H
    r = (h - 1) / (m - 1).clamp(min=1).double()
    # The sum over i in closed form: Σ 1/(k+i) is a difference of harmonic numbers.
    harmonic = torch.where(m == 1, 1 / (k + 1).double(), _digamma(k + m + 1) - _digamma(k + 1))
    expected = h * (r + (hits_above + 1 - r * (k + 1)) * harmonic / m)
    total: Tensor = expected.new_zeros(len(positives)).index_add_(0, tie_class, expected)
    return total / positives.double().masked_fill(positives == 0, torch.nan)


def _digamma(x: Tensor) -> Tensor:
    value: Tensor = torch.special.digamma(x.double())
    return value


def _sorted_keys(scores: Tensor, classes: Tensor, hits: Tensor) -> Tensor:
    """int64 `[n]`, rising: class, then falling score, then hit in the lowest bit.

    With the hit inside the key no permutation has to be kept, and no temporary array is as large as the pool.
    """
    key = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for at in range(0, len(key), _CHUNK):
        part = slice(at, at + _CHUNK)
        below_best = 0xFFFFFFFF - sortable(scores[part])
        key[part] = classes[part].long() << 33 | below_best << 1 | hits[part]
    if key.device.type != "cpu":
        return key.sort().values
    key.numpy().sort()  # in place, unlike torch's
    return key
