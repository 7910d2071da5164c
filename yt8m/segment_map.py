"""MAP@100,000, the metric of the segment challenge of 2019, from scores as they come.

A submission ranks all segments for each class, and the first K = 100,000 count. Of these, the segments that were not
rated for the class are dropped, and over what is left AP = Σ_i precision@i · hit_i / min(P, K), with P all rated
positives of the class. The value is the mean over the classes with positives. (Starter code:
`segment_eval_inference.py`.)

The K-th best segment of a class is often an unrated one, so the scores of all segments compete for the K places, and
only those of K are kept per class. Equal scores have no order, as in `yt8m.metrics`: the value is the mean over all
orders of rated pairs, and pairs that equal the K-th score all count.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from yt8m.average_precision import average_precision
from yt8m.metric_table import MAX_SEGMENTS

_STATES = {"scores": torch.float32, "classes": torch.int32, "hits": torch.bool}
_TRUE = 2  # state of a pair: 0 unrated, 1 rated false
_INFINITY = 0x7F800000  # the bits of the largest float32


class SegmentMAP(Metric):
    """Mean over classes of the average precision of the rated pairs among a class's K best segments.

    `update(scores [B, C], labels [B, C], mask=None)` waits for the GPU only once every K/4 segments; `compute()` is a
    float32 scalar, NaN before any segment, else 0 without positives. All ranks have to compute.

    It keeps at most 1¼·K scores per class, 4 bytes each, and the rated pairs among them, 9 bytes each.

    Args:
        classes: those that are ranked, as in `segment_label_ids.csv`; None for all. Another one with positives counts
            as 0.
        k: K.
    """

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    classes: list[Tensor]
    hits: list[Tensor]
    positives: list[Tensor]
    num_classes: Tensor
    rows: Tensor

    def __init__(self, classes: Sequence[int] | None = None, k: int = MAX_SEGMENTS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ranked, self.k = classes, k
        for name in _STATES:
            self.add_state(name, [], dist_reduce_fx="cat")
        # Not a sum: a rank without batches does not know C.
        self.add_state("positives", [], dist_reduce_fx="cat")
        self.add_state("num_classes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self._clear()

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        rated = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask > 0
        hits = (labels > 0) & rated
        positives = hits.sum(0)
        if self.positives and len(self.positives[-1]):
            positives = self.positives[-1] + positives
        self.positives[:] = [positives]
        self.num_classes = torch.full_like(self.num_classes, scores.shape[1])
        self.rows = self.rows + len(scores)
        state = rated.to(torch.int8) + hits
        scores = scores.detach().float()
        if self.ranked is not None:
            index = self._index(scores.device)
            scores, state = scores[:, index], state[:, index]
        self._pending.append((scores, state))
        self._num_pending += len(scores)
        if self._num_pending >= max(self.k // 4, 1):
            self._compact()

    def sync(self, *args: Any, **kwargs: Any) -> None:
        self._compact()
        for name, dtype in (*_STATES.items(), ("positives", torch.int64)):
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(torch.empty(0, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        super().reset()
        self._clear()

    def pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rated pairs that count, and each class's min(P, K): the arguments of `average_precision`."""
        scores, classes, hits, positives = (
            dim_zero_cat(getattr(self, name)) for name in (*_STATES, "positives")
        )
        positives = positives.view(-1, max(int(self.num_classes), 1)).sum(0)
        if int(self.rows) > self.k:
            floor = torch.full((len(positives),), torch.nan, device=scores.device)
            ranked = slice(None) if self.ranked is None else self._index(scores.device)
            floor[ranked] = self._kth_scores(len(floor[ranked]))
            counts = ~(scores < floor[classes.long()])  # NaN stays, for `average_precision` to reject
            scores, classes, hits = scores[counts], classes[counts], hits[counts]
        return scores, classes, hits, positives.clamp(max=self.k)

    def compute(self) -> Tensor:
        if not int(self.rows):
            return torch.full((), torch.nan)
        return average_precision(*self.pairs()).nanmean().nan_to_num(0.0).float()

    def _clear(self) -> None:
        self._pending: list[tuple[Tensor, Tensor]] = []  # float32 and int8 [n, ranked]
        self._num_pending = 0
        # The best scores of each ranked class, float32 [ranked, n], in no order.
        self._best: Tensor | None = None

    def _index(self, device: torch.device) -> Tensor:
        return torch.tensor(self.ranked, device=device)

    def _compact(self) -> None:
        """Add the pending rows to the K best scores of each class, and to the rated pairs."""
        if not self._pending:
            return
        scores, state = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._num_pending = [], 0
        rows, columns = state.nonzero(as_tuple=True)  # waits for the GPU
        numbers = columns if self.ranked is None else self._index(scores.device)[columns]
        self.scores.append(scores[rows, columns])
        self.classes.append(numbers.int())
        self.hits.append(state[rows, columns] == _TRUE)
        parts = [scores.T] if self._best is None else [self._best, scores.T]
        kept = min(sum(part.shape[1] for part in parts), self.k)
        best = scores.new_empty(scores.shape[1], kept)
        for begin in range(0, len(best), 64):  # a few classes at a time, for the copies that this makes
            block = torch.cat([part[begin : begin + 64] for part in parts], dim=1)
            best[begin : begin + 64] = (
                block if block.shape[1] == kept else block.topk(kept, sorted=False).values
            )
        self._best = best
        if kept == self.k:
            self._prune(best.amin(1))

    def _prune(self, floor: Tensor) -> None:
        """Drop the rated pairs below the K-th score of their class on this rank."""
        of_class = floor
        if self.ranked is not None:
            index = self._index(floor.device)
            of_class = floor.new_zeros(int(self.num_classes))
            of_class[index] = floor
        scores, classes, hits = (dim_zero_cat(getattr(self, name)) for name in _STATES)
        stays = ~(scores < of_class[classes.long()])
        self.scores[:], self.classes[:], self.hits[:] = [scores[stays]], [classes[stays]], [hits[stays]]

    def _kth_scores(self, number: int) -> Tensor:
        """The K-th best score of each ranked class over all ranks, float32 [ranked].

        By bisection of the scores' bits: ranks exchange counts, not scores.
        """
        best = self._best if self._best is not None else torch.empty(number, 0, device=self.device)
        low = torch.full((number,), -_INFINITY - 1, dtype=torch.int64, device=best.device)
        high = torch.full_like(low, _INFINITY)
        while bool((low < high).any()):  # `low` always has K scores at or above it
            middle = (low + high + 1).div(2, rounding_mode="floor")
            count = (best >= _from_rank(middle)[:, None]).sum(1)
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(count)
            enough = count >= self.k
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle - 1)
        return _from_rank(low)


def _from_rank(rank: Tensor) -> Tensor:
    """The float32 of each int64 that sorts as floats do: negative ones in reverse."""
    bits = rank.int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)
