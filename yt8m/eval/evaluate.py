"""Evaluation of one or more checkpoints: metrics, results per class and per genre, precision-recall curves."""

import logging
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torchmetrics import MetricCollection, SumMetric

from yt8m.datamodules.batch import Batch
from yt8m.errors import is_installed
from yt8m.eval.ensemble import ScoredEnsemble, print_members
from yt8m.eval.per_class import TopKPredictions, draw_curves, write_classes, write_genres
from yt8m.files import write_json
from yt8m.metric_table import PREFIX
from yt8m.metrics import MAP, make_metrics
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import normalized_weights, restore_all
from yt8m.predict.weights import fit_weights
from yt8m.train.results import print_results, provenance
from yt8m.train.session import lightning_session, make_trainer

log = logging.getLogger(__name__)


@lightning_session()
def evaluate(config: dict[str, Any]) -> float:
    """Evaluate checkpoints on the partition `split`; settings that are null come from the first one.

    Writes `metrics.json`, `classes.csv`, `precision_recall_*.png` and, if the genres of the classes are known,
    `genres.csv` to the output folder. Returns GAP.
    """
    folder, prefix = Path(config["output_dir"]), PREFIX[config["split"]]
    paths, classifiers, datamodule = restore_all(config, folder, config["dataset"])
    weights = normalized_weights(config["weights"], len(paths))
    module: VideoClassifier | ScoredEnsemble = classifiers[0]
    about: dict[str, Any] = {"ckpt_path": str(paths[0])}
    if len(paths) > 1:
        about = {"ckpt_path": [*map(str, paths)], "weights": weights}
        if config["weights"] == "fit":
            about |= fit_weights(config, paths, classifiers)
            if config["fit_on"] == config["split"]:
                log.warning(
                    "the weights were fitted on the partition that is scored, so the scores are optimistic; set "
                    "fit_on or split"
                )
        module = ScoredEnsemble(classifiers, about["weights"], prefix)
    per_class = PairsOfAllRanks(prefix)
    genres = GenreMetrics(prefix) if len(classifiers[0].genres) else None
    trainer = make_trainer(config, [per_class, genres] if genres else [per_class], [])
    run = trainer.validate if config["split"] == "validate" else trainer.test
    values = run(module, datamodule, verbose=False)[0]
    if trainer.is_global_zero:
        classes = classifiers[0].classes()
        write_classes(folder / "classes.csv", classes, per_class.pairs)
        if genres:
            values |= genres.values
            write_genres(folder / "genres.csv", classes, per_class.pairs, genres.pairs)
        if is_installed("matplotlib"):
            draw_curves(folder, classes, per_class.pairs)
        else:
            log.warning("no precision-recall curves: they need matplotlib; pip install 'yt8m[plots]'")
        if isinstance(module, ScoredEnsemble):
            about |= module.record(paths)
            print_members(about["members"], values, prefix)
        record = {**values, **about, "split": config["split"], "level": datamodule.level, **provenance()}
        write_json(folder / "metrics.json", record)
        print_results(record, folder)
    return values[f"{prefix}/gap"]


class PairsOfAllRanks(Callback):
    """Keeps the pairs that the classifier's mAP has gathered, before it is reset."""

    def __init__(self, prefix: str):
        self.prefix = prefix

    def on_validation_epoch_end(
        self, trainer: pl.Trainer, pl_module: VideoClassifier | ScoredEnsemble
    ) -> None:
        self.pairs = _pairs(cast(MetricCollection, pl_module.metrics[self.prefix]))

    on_test_epoch_end = on_validation_epoch_end


class GenreMetrics(Callback):
    """The metrics of a video's genres, for outputs that are genres or labels (see `yt8m.labels`).

    A video without a genre counts as a video without a true class.
    """

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.metrics = make_metrics(f"{prefix}/genre_")
        self.without_genre = SumMetric()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: VideoClassifier | ScoredEnsemble) -> None:
        self.metrics.to(pl_module.device)
        self.without_genre.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VideoClassifier | ScoredEnsemble,
        outputs: Tensor | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None:  # all records of the batch were damaged and skipped
            return
        truth, mask = pl_module.genre_labels(batch)
        self.metrics.update(pl_module.genre_scores(outputs), truth, mask)
        self.without_genre.update((~truth.any(dim=1)).sum())

    def on_validation_epoch_end(
        self, trainer: pl.Trainer, pl_module: VideoClassifier | ScoredEnsemble
    ) -> None:
        self.pairs = _pairs(self.metrics)
        self.values = {name: float(value) for name, value in self.metrics.compute().items()}
        self.values[f"{self.prefix}/videos_without_genre"] = int(self.without_genre.compute())

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def _pairs(metrics: MetricCollection) -> TopKPredictions:
    """The pairs behind `metrics`, of all ranks."""
    metric = metrics["map"]
    with metric.sync_context(dist_sync_fn=metric.dist_sync_fn):
        return TopKPredictions.of(cast(MAP, metric))
