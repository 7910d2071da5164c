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

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from yt8m.average_precision import NAN_SCORES, average_precision
from yt8m.metric_table import METRICS, TOP_K
from yt8m.ranking import Ranking, rank
from yt8m.segment_map import SegmentMAP


def hit_at_one(ranking: Ranking) -> Tensor:
    """Whether each video's best class is a true label: float64 `[B]`.

    NaN where a score is NaN. A video without labels is a miss. The mean over videos is Hit@1.
    """
    return _unless_nan(ranking.hits[:, 0].double(), ranking)


def perr(ranking: Ranking) -> Tensor:
    """Precision of each video's top n classes, n its number of labels: float64 `[B]`.

    NaN where a score is NaN. Only scores above 0 count as retrieved; a video without labels has precision 0.
    The mean over videos is PERR, the precision at equal recall rate.
    """
    n = ranking.labels
    within_n = torch.arange(ranking.hits.shape[1], device=n.device) < n[:, None]
    retrieved = ranking.hits & within_n & (ranking.scores > 0)
    return _unless_nan(retrieved.sum(1) / n.clamp(min=1).double(), ranking)


def _unless_nan(values: Tensor, ranking: Ranking) -> Tensor:
    return values.masked_fill(ranking.scores[:, 0].isnan(), torch.nan)  # NaN ranks above all numbers


def top_pairs(ranking: Ranking, k: int = TOP_K) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The top min(k, C) classes of each video, pooled, and the positives: all that GAP and mAP need.

    Returns:
        the arguments of `average_precision`: scores float32 `[n]`, classes int32 `[n]` and hits bool `[n]`,
        n = B · min(k, C); positives int64 `[C]`, the true labels of each class, also outside the top k.
    """
    best, top, hits = (part[:, :k].flatten() for part in ranking[:3])
    return best, top.int(), hits, ranking.positives


def gap(scores: Tensor, hits: Tensor, positives: Tensor) -> Tensor:
    """Global average precision: `average_precision` of all pairs and positives as one class.

    float64 scalar: NaN without pairs, else 0 without positives.
    """
    if not len(scores):
        return torch.full((), torch.nan, dtype=torch.float64, device=scores.device)
    one_class = hits.new_zeros(1, dtype=torch.int64).expand(len(hits))
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


class _OfRanking(Metric):
    """A metric that needs a batch's ranking only."""

    full_state_update = False
    higher_is_better = True
    top_k = 1  # classes of each video that the metric needs at least

    def update(
        self,
        scores: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        ranking: Ranking | None = None,
    ) -> None:
        if ranking is None:
            if scores is None or labels is None:
                raise ValueError("update: expected scores and labels, or a ranking, found neither")
            ranking = rank(scores, labels, mask, self.top_k)
        self.add(ranking)

    def add(self, ranking: Ranking) -> None:
        """Add a batch to the states."""
        raise NotImplementedError


class _PerVideo(_OfRanking):
    """Keeps the sums of what each video adds to Hit@1 and PERR.

    Both have the same states, so a MetricCollection updates and stores them once.
    """

    hits: Tensor
    precision: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("precision", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, ranking: Ranking) -> None:
        self.hits = self.hits + hit_at_one(ranking).sum()
        self.precision = self.precision + perr(ranking).sum()
        self.videos = self.videos + len(ranking.labels)


class HitAtOne(_PerVideo):
    """Hit@1: share of videos whose arg-max class (first on ties) is a true label.

    `update(scores [B, C], labels [B, C], mask=None)` or `update(ranking=RANKING)`; `compute()` is a float32 scalar, NaN
    before any video.
    """

    def compute(self) -> Tensor:
        return _mean(self.hits, self.videos)


class PERR(_PerVideo):
    """Precision at equal recall rate: the precision of a video's top n, n its number of labels, on average.

    `update(scores [B, C], labels [B, C], mask=None)` or `update(ranking=RANKING)`; `compute()` is a float32 scalar, NaN
    before any video.
    """

    def compute(self) -> Tensor:
        return _mean(self.precision, self.videos)


def _mean(total: Tensor, videos: Tensor) -> Tensor:
    if total.isnan():
        raise ValueError(NAN_SCORES)
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


class _TopPairs(_OfRanking):
    """Keeps the top pairs of every video, 9 bytes a pair, and the positives of every class.

    GAP and MAP have the same states, so a MetricCollection updates and stores them once.
    """

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

    def add(self, ranking: Ranking) -> None:
        top_scores, classes, hits, positives = top_pairs(ranking, self.top_k)
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
        scores, classes, hits, positives = map(self._joined, _LIST_STATES)
        return scores, classes, hits, positives.view(-1, max(int(self.num_classes), 1)).sum(0)

    def _joined(self, name: str) -> Tensor:
        state = getattr(self, name)
        joined: Tensor = dim_zero_cat(state)
        if isinstance(state, list):  # in place: another metric, which needs the same, may share the list
            state[:] = [joined]
        return joined


class GAP(_TopPairs):
    """Global average precision: the top pairs of all videos pooled and ranked by score (GAP@20).

    `update(scores [B, C], labels [B, C], mask=None)` or `update(ranking=RANKING)`; `compute()` is a float32 scalar, NaN
    before any video, else 0 without positives.

    Args:
        top_k: pairs pooled per video.
    """

    def compute(self) -> Tensor:
        scores, _, hits, positives = self.pairs()
        return gap(scores, hits, positives).float()


class MAP(_TopPairs):
    """Mean over classes of the average precision of the pairs in their videos' top `top_k`.

    Classes without positives are left out; classes with positives but no surviving pair count as 0.
    `update(scores [B, C], labels [B, C], mask=None)` or `update(ranking=RANKING)`; `compute()` is a float32 scalar, NaN
    before any video, else 0 without positives.

    Args:
        top_k: pairs kept per video, of all classes together.
    """

    def compute(self) -> Tensor:
        return mean_average_precision(*self.pairs()).float()


class RankedMetrics(MetricCollection):
    """Metrics that share one ranking of each batch: `update(scores [B, C], labels [B, C], mask=None)`.

    Each gets those of these three and of `ranking` that its own `update` has as arguments.
    """

    def update(  # type: ignore[override]  # of a module's dictionary
        self, scores: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> None:
        super().update(scores=scores, labels=labels, mask=mask, ranking=rank(scores, labels, mask))


def make_metrics(
    prefix: str, level: str = "video", segment_classes: Sequence[int] | None = None
) -> RankedMetrics:
    """All metrics of `yt8m.metric_table` at a `dataset.level`, under `prefix` + key.

    At `segment`, `map` is the challenge's MAP@100,000, with the candidates `segment_classes` (None: all classes).
    """
    metrics: dict[str, Metric | MetricCollection] = {
        key: globals()[row.class_name]()
        for key, row in METRICS.items()
        if row.class_name and row.level in (None, level)
    }
    if level == "segment":
        metrics["map"] = SegmentMAP(segment_classes)
    # Metrics that add the same share their states. Left to find that out, a MetricCollection reads the states.
    groups: dict[Any, list[str]] = {}
    for key, metric in metrics.items():
        same: Any = key
        if isinstance(metric, _OfRanking):
            same = type(metric).update, type(metric).add, metric.top_k
        groups.setdefault(same, []).append(key)
    return RankedMetrics(metrics, prefix=prefix, compute_groups=list(groups.values()))
