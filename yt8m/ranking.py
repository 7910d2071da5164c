"""The best classes of each video, with ties in the order of the classes: one ranking of a batch for all metrics."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yt8m.metric_table import TOP_K

BLOCK = 32  # classes whose maximum stands for them in the first pass
LANES = 32  # columns that a CPU's vector instructions reduce at once
ROWS = 256  # videos ranked at once on a CPU, a byte of a sort's key
_CLASSES = 1 << 24  # classes that fit into three bytes of it


def _checked(scores: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores as float32 and labels as bool, both `[B, C]`, with the mask applied."""
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            "scores and labels must share one shape [videos, classes], "
            f"found {list(scores.shape)} and {list(labels.shape)}"
        )
    scores, labels = scores.detach().float(), _true(labels)
    if mask is not None:
        if mask.shape != scores.shape:
            raise ValueError(
                f"mask must have the shape of the scores {list(scores.shape)}, found {list(mask.shape)}"
            )
        rated = _true(mask)
        scores, labels = scores.masked_fill(~rated, 0), labels & rated
    return scores, labels


def _true(flags: Tensor) -> Tensor:
    return flags if flags.dtype == torch.bool else flags > 0


def sortable(scores: Tensor) -> Tensor:
    """int64 of any shape, in [0, 2³²), that sorts as the float32 scores do: -0 equals 0, NaN above all."""
    bits = (scores + 0.0).view(torch.int32)  # turns -0 into 0
    bits ^= (bits >> 31) & 0x7FFFFFFF  # the bits of a negative float grow with its magnitude
    # -inf becomes 0; the bits of a negative NaN, below it, wrap around to the top.
    return bits.long().add_(0x7F800001).bitwise_and_(0xFFFFFFFF)


def _falling(scores: np.ndarray) -> np.ndarray:
    """uint32 in the opposite order of `sortable`, in the same steps: NumPy is faster for few."""
    bits = (scores + 0.0).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return ~(bits.view(np.uint32) + 0x7F800001)


def _top(scores: Tensor, k: int) -> Tensor:
    """Positions of the k highest scores, best first, int64 `[B, k]`; equal scores by position.

    `torch.topk` promises no order among equal values, so the position is made part of the value.
    """
    last = scores.shape[1] - 1
    from_end = last - torch.arange(last + 1, device=scores.device)
    key = sortable(scores).bitwise_left_shift_(31).bitwise_or_(from_end)
    return last - (key.topk(k, dim=1).values & 0x7FFFFFFF)


def top_classes(scores: Tensor, k: int) -> Tensor:
    """The k classes of highest score, best first, int64 `[B, k]`; equal scores by class."""
    if scores.device.type != "cpu":
        return _top_of_blocks(scores, k)
    # Few rows at a time: larger temporary arrays would be new memory each time, at the price of page faults.
    parts = [scores[at : at + ROWS] for at in range(0, len(scores) or 1, ROWS)]
    return torch.cat([_top_on_cpu(part, k) for part in parts])


def _top_on_cpu(scores: Tensor, k: int) -> Tensor:
    """`top_classes` of at most `ROWS` videos: a sort of the few scores that may be among the k best.

    A video's classes are dealt out to columns. The k-th best maximum of a column is a lower bound of the k-th best
    score, and a close one even where the best classes are neighbors, as the frequent classes of YouTube-8M are. What
    is not below it is sorted by one key of row, falling score, and class.
    """
    videos, classes = scores.shape
    # With fewer columns, more of the k best would share one, and the bound would be lower.
    columns = -(-3 * k // LANES) * LANES
    dealt = classes // max(columns, 1) * columns
    if not videos or not k or dealt < 2 * columns or classes > _CLASSES:
        return _top_of_blocks(scores, k)
    maxima = scores[:, :dealt].view(videos, -1, columns).amax(1).numpy()
    values = scores.numpy()
    below = _less(values, np.partition(maxima, -k)[:, -k, None])  # NaN is not
    at = np.flatnonzero(np.logical_not(below, out=below))
    if len(at) > scores.numel() / 8:  # most scores are equal
        return _top_of_blocks(scores, k)
    rows, class_of = np.divmod(at, classes)
    key = (((rows - ROWS // 2) << 32) + _falling(values.ravel()[at]) << 24) | class_of
    key.sort()
    starts = np.searchsorted(rows, np.arange(videos))
    return torch.from_numpy(key[starts[:, None] + np.arange(k)] & (_CLASSES - 1))


def _less(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """`values < bounds`, bool `[B, C]`, for bounds `[B, 1]`.

    Two rows of YouTube-8M's classes fit into NumPy's buffer of 8,192 elements, which makes it compare them at once,
    with 3,862 copies of each bound: half the speed.
    """
    usual = np.setbufsize(16)
    try:
        return values < bounds
    finally:
        np.setbufsize(usual)


def _top_of_blocks(scores: Tensor, k: int) -> Tensor:
    """`top_classes` by way of the best blocks of classes.

    The k best classes are among the k blocks of highest maximum (of equal ones, the first blocks): each of these
    has a class that ranks before all of any other block. So only their classes are compared one by one.
    """
    videos, classes = scores.shape
    whole = classes // BLOCK * BLOCK
    if k * BLOCK > whole / 2:
        return _top(scores, k)
    maxima = scores[:, :whole].view(videos, whole // BLOCK, BLOCK).amax(2)
    blocks = _top(maxima, k).sort(1).values  # in the order of the classes
    within = torch.arange(BLOCK, device=scores.device)
    candidates = (blocks[:, :, None] * BLOCK + within).flatten(1)
    rest = torch.arange(whole, classes, device=scores.device).expand(videos, -1)
    candidates = torch.cat([candidates, rest], 1)
    return candidates.gather(1, _top(scores.gather(1, candidates), k))


class Ranking(NamedTuple):
    """What the metrics need of a batch, ranked once for all of them; see `rank`.

    Attributes:
        scores: of each video's k best classes, best first, float32 `[B, k]`.
        classes: those classes, int64 `[B, k]`.
        hits: whether each is a true label, bool `[B, k]`.
        labels: number of true labels of each video, int64 `[B]`.
        positives: number of videos that have each label, int64 `[C]`.
    """

    scores: Tensor
    classes: Tensor
    hits: Tensor
    labels: Tensor
    positives: Tensor


def _counts(labels: Tensor) -> tuple[Tensor, Tensor]:
    """True labels of each video, int64 `[B]`, and of each class, int64 `[C]`, from bool `[B, C]`."""
    videos, classes = labels.shape
    if labels.device.type == "cpu":  # few are true, and they are found faster than all are added
        rows, columns = np.divmod(np.flatnonzero(labels.numpy()), max(classes, 1))
        counts = np.bincount(rows, minlength=videos), np.bincount(columns, minlength=classes)
        return torch.from_numpy(counts[0]), torch.from_numpy(counts[1])
    ones = labels.view(torch.uint8)
    # A byte holds the sum of 255 rows: several times as fast as sums of int64.
    sums = [ones[at : at + 255].sum(0, dtype=torch.uint8) for at in range(0, videos or 1, 255)]
    return ones.sum(1, dtype=torch.int32).long(), torch.stack(sums).sum(0)


def rank(scores: Tensor, labels: Tensor, mask: Tensor | None = None, k: int = TOP_K) -> Ranking:
    """The k best classes of each video, and more where PERR needs more. Never waits for a CUDA device."""
    scores, labels = _checked(scores, labels, mask)
    per_video, positives = _counts(labels)
    # Reading the largest number of labels would make the host wait for a GPU; ranking all classes there is cheaper.
    most = max(per_video.tolist(), default=0) if scores.device.type == "cpu" else scores.shape[1]
    top = top_classes(scores, min(max(k, most), scores.shape[1]))
    return Ranking(scores.gather(1, top), top, labels.gather(1, top), per_video, positives)
