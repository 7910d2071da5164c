"""GAP, Hit@1, PERR and mAP as the YouTube-8M reference evaluator defines them (starter code `eval_util.py`,
`average_precision_calculator.py`, `mean_average_precision_calculator.py`).

Scores are probabilities `[B, C]` of any floating dtype and are ranked as float32. Labels are `[B, C]`, true
where greater than 0. The optional mask `[B, C]` is greater than 0 where a label was rated (segments);
elsewhere the score counts as 0 and the label as false.

Equal scores inside one video rank by class, lowest index first. Equal scores of different videos have no
order, so GAP and mAP take the mean over all orders, where the reference takes one random order: the value
does not depend on the order of videos, batches or ranks.

Updates never wait for a CUDA device. That is why NaN scores, which cannot be ranked, raise `ValueError` in
`compute()` and not in `update()`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from yt8m.metric_table import METRICS

TOP_K = 20  # the reference pools this many pairs of each video
_NAN_SCORES = "scores must be numbers that can be ranked, found NaN; look for a diverged loss or bad features"


def _checked(scores: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores as float32 and labels as bool, both `[B, C]`, with the mask applied."""
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            "scores and labels must share one shape [videos, classes], "
            f"found {list(scores.shape)} and {list(labels.shape)}"
        )
    scores, labels = scores.detach().float(), labels > 0
    if mask is not None:
        if mask.shape != scores.shape:
            raise ValueError(
                f"mask must have the shape of the scores {list(scores.shape)}, found {list(mask.shape)}"
            )
        rated = mask > 0
        scores, labels = scores.masked_fill(~rated, 0), labels & rated
    return scores, labels


def _rank(scores: Tensor) -> Tensor:
    """int64 of any shape, within 32 bits, that sorts as the float32 scores do: -0 equals 0, NaN above all."""
    bits = scores.masked_fill(scores == 0, 0.0).masked_fill(scores.isnan(), torch.nan).view(torch.int32)
    # The bits of a negative float grow with its magnitude.
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()


def top_classes(scores: Tensor, k: int) -> Tensor:
    """The k classes of highest score, best first, int64 `[B, k]`; equal scores by class.

    `torch.topk` promises no order among equal values, so the class is made part of the value.
    """
    last = scores.shape[1] - 1
    from_end = last - torch.arange(last + 1, device=scores.device)
    key = _rank(scores) << 32 | from_end
    return last - (key.topk(k, dim=1).values & 0xFFFFFFFF)


def hit_at_one(scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether each video's best class is a true label: float64 `[B]`.

    NaN where a score is NaN. A video without labels is a miss. The mean over videos is Hit@1.
    """
    scores, labels = _checked(scores, labels, mask)
    hits = labels.gather(1, top_classes(scores, 1)).squeeze(1).double()
    return hits.masked_fill(scores.isnan().any(1), torch.nan)


def perr(scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Precision of each video's top n classes, n its number of labels: float64 `[B]`.

    NaN where a score is NaN. Only scores above 0 count as retrieved; a video without labels has precision 0.
    The mean over videos is PERR, the precision at equal recall rate.
    """
    scores, labels = _checked(scores, labels, mask)
    n = labels.sum(1, keepdim=True)
    # Reading the largest n would make the host wait for a GPU; sorting all classes there is cheaper.
    k = scores.shape[1] if scores.is_cuda else max(n.flatten().tolist(), default=0)
    top = top_classes(scores, k)
    within_n = torch.arange(k, device=scores.device) < n
    retrieved = labels.gather(1, top) & within_n & (scores.gather(1, top) > 0)
    precision = retrieved.sum(1) / n.squeeze(1).clamp(min=1).double()
    return precision.masked_fill(scores.isnan().any(1), torch.nan)


def top_pairs(
    scores: Tensor, labels: Tensor, mask: Tensor | None = None, k: int = TOP_K
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The top min(k, C) classes of each video, pooled, and the positives: all that GAP and mAP need.

    Returns:
        the arguments of `average_precision`: scores float32 `[n]`, classes int32 `[n]` and hits bool `[n]`,
        n = B · min(k, C); positives int64 `[C]`, the true labels of each class, also outside the top k.
    """
    scores, labels = _checked(scores, labels, mask)
    top = top_classes(scores, min(k, scores.shape[1]))
    best, hits = scores.gather(1, top), labels.gather(1, top)
    return best.flatten(), top.int().flatten(), hits.flatten(), labels.sum(0)


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
        raise ValueError(_NAN_SCORES)
    key, order = (classes.long() << 32 | (0x7FFFFFFF - _rank(scores))).sort()
    ties, m = torch.unique_consecutive(key, return_counts=True)
    hits_before = F.pad(hits[order].cumsum(0), (1, 0))  # [n + 1]: among the first so many pairs
    start = m.cumsum(0) - m
    h = hits_before[start + m] - hits_before[start]

    with_hits = h > 0  # few, and the others add nothing
    m, h, start = m[with_hits], h[with_hits], start[with_hits]
    tie_class = ties[with_hits] >> 32
    class_start = torch.searchsorted(key, torch.arange(len(positives), device=key.device) << 32)[tie_class]
    k = start - class_start
    hits_above = hits_before[start] - hits_before[class_start]  # H
    other_hits = (h - 1) / (m - 1).clamp(min=1).double()

    tie = torch.arange(len(m), device=key.device).repeat_interleave(m)
    i = torch.arange(len(tie), device=key.device) - (m.cumsum(0) - m)[tie] + 1
    expected = (h / m.double())[tie] * (hits_above[tie] + 1 + (i - 1) * other_hits[tie]) / (k[tie] + i)
    total: Tensor = expected.new_zeros(len(positives)).index_add_(0, tie_class[tie], expected)
    return total / positives.double().masked_fill(positives == 0, torch.nan)


def gap(scores: Tensor, hits: Tensor, positives: Tensor) -> Tensor:
    """Global average precision: `average_precision` of all pairs and positives as one class.

    float64 scalar: NaN without pairs, else 0 without positives.
    """
    if not len(scores):
        return torch.full((), torch.nan, dtype=torch.float64, device=scores.device)
    one_class = torch.zeros_like(hits, dtype=torch.int64)
    value: Tensor
    (value,) = average_precision(scores, one_class, hits, positives.sum(0, keepdim=True))
    return value.nan_to_num(0.0)


def mean_average_precision(scores: Tensor, classes: Tensor, hits: Tensor, positives: Tensor) -> Tensor:
    """Mean of `average_precision` over the classes with positives.

    float64 scalar: NaN without pairs, else 0 without positives.
    """
    if not len(scores):
        return torch.full((), torch.nan, dtype=torch.float64, device=scores.device)
    return average_precision(scores, classes, hits, positives).nanmean().nan_to_num(0.0)


class HitAtOne(Metric):
    """Hit@1: share of videos whose arg-max class (first on ties) is a true label.

    `update(scores [B, C], labels [B, C], mask=None)`; `compute()` is a float32 scalar, NaN before any video.
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not named as in PERR: a MetricCollection makes one metric of two whose states have equal names and,
        # after the first batch, equal values.
        self.add_state("hits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        self.hits = self.hits + hit_at_one(scores, labels, mask).sum()
        self.videos = self.videos + len(scores)

    def compute(self) -> Tensor:
        return _mean(self.hits, self.videos)


class PERR(Metric):
    """Precision at equal recall rate: the precision of a video's top n, n its number of labels, on average.

    `update(scores [B, C], labels [B, C], mask=None)`; `compute()` is a float32 scalar, NaN before any video.
    """

    full_state_update = False
    higher_is_better = True
    precision: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("precision", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        self.precision = self.precision + perr(scores, labels, mask).sum()
        self.videos = self.videos + len(scores)

    def compute(self) -> Tensor:
        return _mean(self.precision, self.videos)


def _mean(total: Tensor, videos: Tensor) -> Tensor:
    if total.isnan():
        raise ValueError(_NAN_SCORES)
    return (total / videos).float()


_LIST_STATES = {
    "scores": torch.float32,
    "classes": torch.int32,
    "hits": torch.bool,
    "positives": torch.int64,
}


class MeanLoss(Metric):
    """Mean over videos of a loss that each batch gives as its own mean.

    `update(loss, videos)` never waits for the GPU; `compute()` is a float32 scalar over all ranks' videos: NaN before
    any video, else infinite if a loss was NaN or infinite. A mean of the batches' (or the ranks') means would weigh
    the videos of a small batch more.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, videos: int) -> None:
        self.total = self.total + loss.detach().double() * videos
        self.videos = self.videos + videos

    def compute(self) -> Tensor:
        mean = (self.total / self.videos).float()
        return torch.where(mean.isfinite() | (self.videos == 0), mean, torch.inf)


class _TopPairs(Metric):
    """Keeps the top pairs of every video, 9 bytes a pair, and the positives of every class.

    GAP and MAP have the same states, so a MetricCollection updates and stores them once.
    """

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    classes: list[Tensor]
    hits: list[Tensor]
    positives: list[Tensor]
    num_classes: Tensor

    def __init__(self, top_k: int = TOP_K, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, found {top_k}")
        self.top_k = top_k
        for name in _LIST_STATES:
            self.add_state(name, [], dist_reduce_fx="cat")
        # A rank without batches does not know C, and needs it to compute.
        self.add_state("num_classes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        top_scores, classes, hits, positives = top_pairs(scores, labels, mask, self.top_k)
        known = len(self.positives[-1]) if self.positives else 0
        if known not in (0, len(positives)):
            raise ValueError(f"all batches must have the same classes, found {len(positives)} after {known}")
        self.scores.append(top_scores)
        self.classes.append(classes)
        self.hits.append(hits)
        if known:
            self.positives[-1] = self.positives[-1] + positives
        else:
            self.positives.append(positives)
        self.num_classes = torch.full_like(self.num_classes, len(positives))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # For a rank without batches torchmetrics would send float32, whatever dtype the other ranks send.
        for name, dtype in _LIST_STATES.items():
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(torch.empty(0, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `top_pairs` of all videos would return."""
        scores, classes, hits, positives = (dim_zero_cat(getattr(self, name)) for name in _LIST_STATES)
        return scores, classes, hits, positives.view(-1, max(int(self.num_classes), 1)).sum(0)


class GAP(_TopPairs):
    """Global average precision: the top pairs of all videos pooled and ranked by score (GAP@20).

    `update(scores [B, C], labels [B, C], mask=None)`; `compute()` is a float32 scalar, NaN before any video,
    else 0 without positives.

    Args:
        top_k: pairs pooled per video.
    """

    def compute(self) -> Tensor:
        scores, _, hits, positives = self.pairs()
        return gap(scores, hits, positives).float()


class MAP(_TopPairs):
    """Mean over classes of the average precision of the pairs in their videos' top `top_k`.

    Classes without positives are left out; classes with positives but no surviving pair count as 0.
    `update(scores [B, C], labels [B, C], mask=None)`; `compute()` is a float32 scalar, NaN before any video,
    else 0 without positives.

    Args:
        top_k: pairs kept per video, of all classes together.
    """

    def compute(self) -> Tensor:
        return mean_average_precision(*self.pairs()).float()


def make_metrics(prefix: str) -> MetricCollection:
    """All metrics of `yt8m.metric_table`, under `prefix` + key."""
    classes = {key: globals()[row.class_name] for key, row in METRICS.items() if row.class_name}
    return MetricCollection({key: of_class() for key, of_class in classes.items()}, prefix=prefix)
