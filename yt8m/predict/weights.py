"""Weights of an ensemble, fitted on a partition with labels: `weights=fit`."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from yt8m.datamodules.batch import Batch
from yt8m.metric_table import TOP_K
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import Ensemble
from yt8m.ranking import top_classes
from yt8m.restore import restore_data
from yt8m.train.session import make_trainer

log = logging.getLogger(__name__)

FIT_VIDEOS = 100_000  # far more than a weight per network needs
_EPSILON = 1e-7  # a probability of 0 or 1 must not cost an infinite loss


class CrossEntropyOfMean(Metric):
    """The cross-entropy of a weighted mean of K classifiers' probabilities, as a function of the weights.

    Of each video it keeps the pairs that matter: the true labels, and the top 20 classes of the equal mean. All others
    are false with a small probability p, of which -log(1 - p) = p + p²/2 + O(p³): their sums over all videos are K +
    K² numbers. So a video takes at most (20 + its labels) · (4K + 1) bytes, whatever the number of classes.

    `update(scores [K, B, C], labels [B, C], mask [B, C] or None)`; `compute()` is `(weights [K], {"equal": …,
    "fitted": …})`, float64: the weights that minimize it, not negative and with sum 1, and the cross-entropy per video
    with equal weights and with these.
    """

    full_state_update = False
    scores: list[Tensor]
    hits: list[Tensor]
    linear: Tensor
    quadratic: Tensor
    videos: Tensor

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count
        self.add_state("scores", [], dist_reduce_fx="cat")  # float32 [n, K]
        self.add_state("hits", [], dist_reduce_fx="cat")  # bool [n]
        self.add_state("linear", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("quadratic", torch.zeros(count, count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None) -> None:
        rated = torch.ones_like(labels) if mask is None else mask
        best = top_classes(scores.mean(0), min(TOP_K, labels.shape[1]))
        kept = (labels | torch.zeros_like(labels).scatter(1, best, True)) & rated
        self.scores.append(scores[:, kept].T)
        self.hits.append(labels[kept])
        rest = scores.masked_fill(~(rated & ~kept), 0).flatten(1).double()
        self.linear = self.linear + rest.sum(1)
        self.quadratic = self.quadratic + rest @ rest.T
        self.videos = self.videos + len(labels)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        if not self.scores:  # a rank without batches, which would send another type and shape
            self.scores.append(torch.empty(0, self.count, device=self.device))
            self.hits.append(torch.empty(0, dtype=torch.bool, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> tuple[Tensor, dict[str, float]]:
        # Outside of inference mode, in which Lightning predicts: the copies can have gradients.
        with torch.inference_mode(False), torch.enable_grad():
            scores, hits = dim_zero_cat(self.scores).double(), dim_zero_cat(self.hits).clone()
            linear, quadratic = self.linear.clone(), self.quadratic.clone()
            videos = max(int(self.videos), 1)

            def loss_of(weights: Tensor) -> Tensor:
                mean = (scores @ weights).clamp(_EPSILON, 1 - _EPSILON)
                pairs = -torch.where(hits, mean, 1 - mean).log().sum()
                return (pairs + weights @ linear + weights @ quadratic @ weights / 2) / videos

            logits = torch.zeros(self.count, dtype=torch.float64, device=scores.device, requires_grad=True)
            optimizer = torch.optim.LBFGS(
                [logits],
                max_iter=200,
                tolerance_grad=1e-9,
                tolerance_change=1e-12,
                line_search_fn="strong_wolfe",
            )

            def step() -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(logits.softmax(0))
                loss.backward()
                return loss

            optimizer.step(step)
            equal, fitted = torch.full_like(logits, 1 / self.count), logits.detach().softmax(0)
            return fitted, {"equal": float(loss_of(equal)), "fitted": float(loss_of(fitted))}


class WeightFit(Ensemble):
    """An ensemble whose prediction of a partition with labels fits its weights."""

    def __init__(self, classifiers: list[VideoClassifier], weights: list[float]):
        super().__init__(classifiers, weights)
        self.cross_entropy = CrossEntropyOfMean(len(classifiers))
        self.record: dict[str, Any] = {}

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if not len(batch):
            return None
        scores = torch.stack([*self.scores(batch)])
        self.cross_entropy.update(scores, self.first.labels(batch), self.first.mask(batch))
        return self.mean(scores)

    def on_predict_epoch_end(self) -> None:
        weights, losses = self.cross_entropy.compute()
        self.weights = weights.tolist()
        self.record = {f"fit_loss_{name}": loss for name, loss in losses.items()}


def fit_weights(
    config: dict[str, Any], paths: list[Path], classifiers: list[VideoClassifier]
) -> dict[str, Any]:
    """Fit an ensemble's weights on the partition `fit_on`: at most its first 100,000 videos.

    Args:
        config: the command's, with `fit_on`, `dataset`, `trainer` and `trusted_packages`.
        paths: the checkpoints; the data are those of the first, but for what `dataset` says.
        classifiers: theirs.

    Returns:
        For a JSON file: `weights` by checkpoint, `fit_on`, and the cross-entropy per video, `fit_loss_equal` and
        `fit_loss_fitted`.
    """
    limit = min(config["dataset"]["limit_videos"] or FIT_VIDEOS, FIT_VIDEOS)
    dataset = config["dataset"] | {"predict_partition": config["fit_on"], "limit_videos": limit}
    if classifiers[0].hparams.level == "segment":
        dataset["segments"] = "rated"  # the others have no labels
    datamodule = restore_data(paths[0], dataset, config["trusted_packages"])
    fit = WeightFit(classifiers, [1 / len(paths)] * len(paths))
    make_trainer(config, [], []).predict(fit, datamodule, return_predictions=False)
    listed = ", ".join(f"{weight:.4f} {path}" for weight, path in zip(fit.weights, paths, strict=True))
    log.info(
        "weights fitted on %s: %s; cross-entropy per video %.4f, with equal weights %.4f",
        *(config["fit_on"], listed, fit.record["fit_loss_fitted"], fit.record["fit_loss_equal"]),
    )
    return {"weights": fit.weights, "fit_on": config["fit_on"], **fit.record}
