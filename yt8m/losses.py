"""Multi-label losses on logits, computed in float32 even under autocast.

Every loss maps logits `[B, C]`, labels `[B, C]` (bool or float, 1 where true), and an optional mask `[B, C]` (above 0
where a label was rated, as in segments) to a scalar: the mean over the B videos of a loss per video. Only rated classes
contribute to it.

A label between 0 and 1, as from mixup, smoothing or a teacher, is the probability that the class is true: the loss is
its expectation, y times that of a true label plus 1 − y times that of a false one. `Softmax` splits its one unit of
probability in the labels' proportion.

In the formulas, x is a logit, y its label, and σ the sigmoid. `BCE`, `Hinge` and `Softmax` come from the YouTube-8M
starter code (`losses.py`), which passes probabilities to the latter two; here they take logits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from yt8m.errors import ConfigError


class _Loss(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar float32 loss of a batch; ValueError when the shapes differ."""
        for name, other in (("labels", labels), ("mask", mask)):
            if other is not None and other.shape != logits.shape:
                raise ValueError(
                    f"{name} must have the logits' shape {list(logits.shape)}, found {list(other.shape)}"
                )
        return self.of_videos(logits, labels, mask).mean()

    def of_videos(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        """Loss of each video, float32 `[B]`, from what `forward` takes."""
        rated = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask > 0
        return self.per_video(logits.float(), labels.float(), rated)

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        """Loss of each video, `[B]`, from float32 logits and labels and bool `rated`, all `[B, C]`."""
        raise NotImplementedError


class BCE(_Loss):
    """Cross-entropy Σ_c −[y·log(p + ε) + (1 − y)·log(1 − p + ε)], p = σ(x), ε = 1e-5.

    Origin: `CrossEntropyLoss` of the YouTube-8M starter code. The ε bounds the loss of a class by 11.5.
    """

    epsilon = 1e-5

    def of_videos(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        return _one_pass(logits, labels, mask, partial(_cross_entropy, epsilon=self.epsilon))


#: Of logits x, labels, and rated classes (None: all), each `[B, C]`, and whether to return slopes: the loss of each
#: video, `[B]`, and its derivative by x, `[B, C]`, or None.
_OfBlock = Callable[[Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor | None]]


def _one_pass(logits: Tensor, labels: Tensor, mask: Tensor | None, of_block: _OfBlock) -> Tensor:
    """The loss of each video, float32 `[B]`, whose gradient `of_block` computes in the same pass."""
    loss: Tensor = _OnePass.apply(logits, labels, mask, of_block)  # type: ignore[no-untyped-call]
    return loss


class _OnePass(torch.autograd.Function):
    """A loss with its gradient from the same pass: autograd would keep 25 bytes per logit of `BCE`, this keeps 4."""

    # Logits per block on a CPU: what a pass over them needs stays in the cache.
    BLOCK = 1 << 16

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mask: Tensor | None, of_block: _OfBlock) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        losses = logits.new_empty(len(logits), dtype=dtype)
        slopes = torch.empty_like(logits, dtype=dtype) if ctx.needs_input_grad[0] else None
        rows = len(logits)
        if logits.device.type == "cpu":
            rows = max(_OnePass.BLOCK // max(logits.shape[1], 1), 1)
        for start in range(0, len(logits), max(rows, 1)):
            block = slice(start, start + rows)
            rated = None if mask is None else mask[block] > 0
            loss, slope = of_block(logits[block].to(dtype), labels[block], rated, slopes is not None)
            losses[block] = loss
            if slopes is not None and slope is not None:
                slopes[block] = slope
        ctx.save_for_backward(slopes)
        ctx.dtype = logits.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (slopes * gradient[:, None]).to(ctx.dtype), None, None, None


def _cross_entropy(
    x: Tensor, labels: Tensor, rated: Tensor | None, with_slope: bool, epsilon: float
) -> tuple[Tensor, Tensor | None]:
    """`BCE` as an `_OfBlock`: a class is −log(q + ε), q = σ(s·x), with s = 1 where its label is true, else −1."""
    one = x.new_ones(())
    if labels.dtype == torch.bool:  # the other of the two logarithms is multiplied by 0
        cases: list[tuple[Tensor, Tensor | None]] = [(torch.where(labels, one, -one), None)]
    else:
        cases = [(one, labels.to(x.dtype)), (-one, 1 - labels.to(x.dtype))]
    value: Tensor | None = None
    slope: Tensor | None = None
    for sign, weight in cases:
        q = (x * sign).sigmoid_()  # σ(−x) is 1 − p without cancellation
        shifted = q + epsilon
        if with_slope:
            part = torch.ops.aten.sigmoid_backward(-sign / shifted, q)  # −s/(q + ε) · q · (1 − q)
            part = part if weight is None else part.mul_(weight)
            slope = part if slope is None else slope.add_(part)
        logs = shifted.log_() if weight is None else shifted.log_().mul_(weight)
        value = logs if value is None else value.add_(logs)
    assert value is not None
    if rated is not None:
        value.masked_fill_(~rated, 0)
        slope = None if slope is None else slope.masked_fill_(~rated, 0)
    return -value.sum(1), slope


class Softmax(_Loss):
    """Cross-entropy −Σ_c y/|y|₁ · log softmax(x)_c, 0 for a video without true labels.

    With a mask, both the softmax and |y|₁ are over the rated classes.

    Origin: `SoftmaxLoss` of the YouTube-8M starter code.
    """

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        # The least finite number, for with -inf a video without rated classes would give NaN.
        log_p = logits.where(rated, torch.finfo(logits.dtype).min).log_softmax(1)
        share = F.normalize(labels.where(rated, 0), p=1, dim=1)
        return -(share * log_p).sum(1)


class Hinge(_Loss):
    """Hinge loss Σ_c max(0, b − x) where true, max(0, b + x) where false.

    Origin: `HingeLoss` of the YouTube-8M starter code, b = 1.

    Args:
        margin: b, in logits.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        loss = labels * (self.margin - logits).relu() + (1 - labels) * (self.margin + logits).relu()
        return loss.where(rated, 0).sum(1)


class SoftMargin(_Loss):
    """Soft margin loss: mean over rated classes of −[y·log σ(x) + (1 − y)·log σ(−x)].

    Origin: `torch.nn.MultiLabelSoftMarginLoss`, which it equals when every class is rated.
    """

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return loss.where(rated, 0).sum(1) / rated.sum(1).clamp(min=1)


class Focal(_Loss):
    """Focal loss Σ_c −[y·α·(1 − p)^γ·log p + (1 − y)·(1 − α)·p^γ·log(1 − p)], p = σ(x).

    Easy classes, which are most of a video's, add less than in cross-entropy. γ = 0 without α is cross-entropy.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5, without its normalization by the number
    of true labels.

    Args:
        gamma: γ, how much less easy classes add.
        alpha: α, weight of true labels, with 1 − α that of false ones; None weighs both by 1.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__()
        self.gamma = _number("gamma", gamma)
        self.alpha = None if alpha is None else _number("alpha", alpha, most=1)

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        log_true, log_false = F.logsigmoid(logits), F.logsigmoid(-logits)
        true, false = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        # Powers of p as exponentials: the gradient of pow is infinite at p = 0 for γ below 1.
        loss = -labels * true * (self.gamma * log_false).exp() * log_true
        loss = loss - (1 - labels) * false * (self.gamma * log_true).exp() * log_false
        return loss.where(rated, 0).sum(1)


class Asymmetric(_Loss):
    """Asymmetric loss Σ_c −[y·(1 − p)^γ₊·log p + (1 − y)·q^γ₋·log(1 − q)], p = σ(x), q = max(p − m, 0).

    Focuses false labels more than true ones, and leaves out those with p below m, many of which are true but missing.

    Source: Ridnik et al., "Asymmetric Loss for Multi-Label Classification", 2021, eq. 4 to 7; defaults as in the
    authors' code, which sums over the batch, where this is the mean over videos.

    Args:
        gamma_neg: γ₋, focus of false labels.
        gamma_pos: γ₊, focus of true labels.
        clip: m, the margin of probability.
    """

    def __init__(self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05) -> None:
        super().__init__()
        self.gamma_neg, self.gamma_pos = _number("gamma_neg", gamma_neg), _number("gamma_pos", gamma_pos)
        self.clip = _number("clip", clip, most=1)

    def of_videos(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        return _one_pass(logits, labels, mask, self._of_block)

    def _of_block(
        self, x: Tensor, labels: Tensor, rated: Tensor | None, with_slope: bool
    ) -> tuple[Tensor, Tensor | None]:
        p, rest = x.sigmoid(), (-x).sigmoid()  # 1 - p, without cancellation
        log_p, y = F.logsigmoid(x), labels.to(x.dtype)
        beyond = p > self.clip  # where q is above 0
        q = (p - self.clip).where(beyond, 1)  # any number whose power has a finite slope
        log_1_q = (rest + self.clip).log() if self.clip else log_p - x
        true_focus, false_focus = rest.pow(self.gamma_pos), q.pow(self.gamma_neg)
        value = torch.lerp(-(false_focus * log_1_q).where(beyond, 0), -true_focus * log_p, y)
        slope: Tensor | None = None
        if with_slope:
            of_true = true_focus * (self.gamma_pos * p * log_p - rest)
            share = rest / (rest + self.clip) if self.clip else 1.0
            of_false = false_focus * p * (share - self.gamma_neg * rest * log_1_q / q)
            slope = torch.lerp(of_false.where(beyond, 0), of_true, y)
        if rated is not None:
            value.masked_fill_(~rated, 0)
            slope = None if slope is None else slope.masked_fill_(~rated, 0)
        return value.sum(1), slope


def _number(name: str, value: Any, most: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        span = "0 or more" if most == float("inf") else f"from 0 to {most}"
        raise ConfigError(f"loss.{name}: expected a number, {span}, found {value!r}")
    return float(value)
