"""Multi-label losses on logits, computed in float32 even under autocast.

Every loss maps logits `[B, C]`, labels `[B, C]` (bool or float, 1 where true), and an optional mask `[B, C]` (above 0
where a label was rated, as in segments) to a scalar: the mean over the B videos of a loss per video. Only rated classes
contribute to it.

In the formulas, x is a logit, y its label, and σ the sigmoid. `BCE`, `Hinge` and `Softmax` come from the YouTube-8M
starter code (`losses.py`), which passes probabilities to the latter two; here they take logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Loss(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar float32 loss of a batch; ValueError when the shapes differ."""
        for name, other in (("labels", labels), ("mask", mask)):
            if other is not None and other.shape != logits.shape:
                raise ValueError(
                    f"{name} must have the logits' shape {list(logits.shape)}, found {list(other.shape)}"
                )
        rated = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask > 0
        return self.per_video(logits.float(), labels.float(), rated).mean()

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        """Loss of each video, `[B]`, from float32 logits and labels and bool `rated`, all `[B, C]`."""
        raise NotImplementedError


class BCE(_Loss):
    """Cross-entropy Σ_c −[y·log(p + ε) + (1 − y)·log(1 − p + ε)], p = σ(x), ε = 1e-5.

    Origin: `CrossEntropyLoss` of the YouTube-8M starter code. The ε bounds the loss of a class by 11.5.
    """

    epsilon = 1e-5

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        true, false = logits.sigmoid(), (-logits).sigmoid()  # 1 - p without cancellation
        loss = -labels * (true + self.epsilon).log() - (1 - labels) * (false + self.epsilon).log()
        return loss.where(rated, 0).sum(1)


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
    """Hinge loss Σ_c max(0, b − (2y − 1)·x).

    Origin: `HingeLoss` of the YouTube-8M starter code, b = 1.

    Args:
        margin: b, in logits.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        loss = (self.margin - (2 * labels - 1) * logits).relu()
        return loss.where(rated, 0).sum(1)


class SoftMargin(_Loss):
    """Soft margin loss: mean over rated classes of −[y·log σ(x) + (1 − y)·log σ(−x)].

    Origin: `torch.nn.MultiLabelSoftMarginLoss`, which it equals when every class is rated.
    """

    def per_video(self, logits: Tensor, labels: Tensor, rated: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return loss.where(rated, 0).sum(1) / rated.sum(1).clamp(min=1)
