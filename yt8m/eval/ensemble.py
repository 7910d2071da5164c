"""Evaluation of several classifiers as one, of each alone, and of their equal mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torchmetrics import MetricCollection

from yt8m.datamodules.batch import Batch
from yt8m.metrics import GAP, make_metrics
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import Ensemble
from yt8m.train.results import make_console


class ScoredEnsemble(Ensemble):
    """An ensemble with the metrics of its weighted mean; and GAP of each classifier, and of their equal mean.

    Args:
        classifiers, weights: see `Ensemble`.
        prefix: of the partition's metrics: `val` or `test`.
    """

    def __init__(self, classifiers: list[VideoClassifier], weights: list[float], prefix: str):
        super().__init__(classifiers, weights)
        self.prefix, hparams = prefix, self.first.hparams
        self.metrics = torch.nn.ModuleDict(
            {prefix: make_metrics(f"{prefix}/", hparams.level, hparams.segment_classes)}
        )
        self.gap_of_members = torch.nn.ModuleList(GAP() for _ in classifiers)
        self.gap_of_equal = GAP()
        self.gaps: list[float] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Probabilities, float32 `[B, C]`, for callbacks; None for an empty batch."""
        if not len(batch):
            return None
        scores = [*self.scores(batch)]
        mean, labels, mask = self.mean(scores), self.first.labels(batch), self.first.mask(batch)
        self._all.update(mean, labels, mask)
        for metric, one in zip(self.gap_of_members, scores, strict=True):
            cast(GAP, metric).update(one, labels, mask)
        self.gap_of_equal.update(torch.stack(scores).mean(0), labels, mask)
        return mean

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self.log_dict({**self._all.compute(), f"equal/{self.prefix}/gap": self.gap_of_equal.compute()})
        self.gaps = [float(cast(GAP, metric).compute()) for metric in self.gap_of_members]

    on_test_epoch_end = on_validation_epoch_end

    @property
    def _all(self) -> MetricCollection:
        return cast(MetricCollection, self.metrics[self.prefix])

    def record(self, paths: list[Path]) -> dict[str, Any]:
        """For `metrics.json`: `members`, each a checkpoint with its weight and its GAP alone."""
        members = zip(paths, self.weights, self.gaps, strict=True)
        key = f"{self.prefix}/gap"
        return {
            "members": [{"ckpt_path": str(path), "weight": weight, key: gap} for path, weight, gap in members]
        }

    def classes(self) -> Any:
        return self.first.classes()

    def genre_scores(self, scores: Tensor) -> Tensor:
        return self.first.genre_scores(scores)

    def genre_labels(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return self.first.genre_labels(batch)


def print_members(members: list[dict[str, Any]], values: Mapping[str, float], prefix: str) -> None:
    """Print GAP of each classifier with its weight, of the equal mean, and of the weighted one."""
    table = Table(box=None, pad_edge=False)
    table.add_column("ensemble of", overflow="fold")
    for heading in ("weight", "GAP"):
        table.add_column(heading, justify="right")
    for one in members:
        table.add_row(Text(one["ckpt_path"]), f"{one['weight']:.4f}", f"{one[f'{prefix}/gap']:.4f}")
    table.add_row("equal weights", "", f"{values[f'equal/{prefix}/gap']:.4f}")
    table.add_row("these weights", "", f"{values[f'{prefix}/gap']:.4f}")
    make_console().print(table)
