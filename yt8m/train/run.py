"""A training run: from a configuration to checkpoints and `metrics.json`."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from yt8m.build import build
from yt8m.checkpoint import check_position, check_resumable, checkpoint_to_resume, read_checkpoint
from yt8m.errors import ConfigError
from yt8m.files import read_json, write_json
from yt8m.module import VideoClassifier
from yt8m.schema import Objective
from yt8m.train.compiled import Compile
from yt8m.train.init_from import init_from
from yt8m.train.launch import refuse_unusable
from yt8m.train.loggers import BestSoFar, RunLogger
from yt8m.train.results import count_parameters, print_results, provenance
from yt8m.train.resume import Checkpoint, RandomState, ResumedEpoch
from yt8m.train.session import lightning_session, make_trainer
from yt8m.train.stats import RunStats
from yt8m.train.stop import StopOnDivergence, requeue, resume_command
from yt8m.train.storage_stats import StorageStats
from yt8m.train.teacher import MissingPredictions, load_teachers

log = logging.getLogger(__name__)

SLOW_ON_A_CPU = 50_000_000  # parameters


def train(config: dict[str, Any]) -> float:
    """Train as `conf/train.yaml` says; the best value of `optimized_metric`.

    Raises:
        KeyboardInterrupt: after Ctrl-C; its message says how to resume.
        SystemExit: after SIGTERM, with code None, because stopping a run is how clusters and sweeps use it.
    """
    try:
        return _train(config)
    except (KeyboardInterrupt, SIGTERMException) as stop:
        folder = Path(config["output_dir"])
        saved = (folder / "checkpoints" / "last.ckpt").is_file()
        message = f"resume with: {resume_command(folder)}" if saved else "no checkpoint was written yet"
        if isinstance(stop, SIGTERMException) and stop.args and stop.args[0] == signal.SIGUSR2:
            log.warning("stopped by SIGUSR2; requeued, and to be resumed with ckpt_path=auto")
            requeue()
        if isinstance(stop, SIGTERMException) and stop.args != (signal.SIGINT,):
            log.error("stopped by SIGTERM; %s", message)
            raise
        if rank_zero_only.rank:
            raise SIGTERMException from None  # the first rank reports it
        raise KeyboardInterrupt(f"interrupted; {message}") from None


@lightning_session()
def _train(config: dict[str, Any]) -> float:
    """Fit, test where there is a test partition, leave `metrics.json`; the value of `optimized_metric`."""
    folder = Path(config["output_dir"])
    refuse_unusable(config["trainer"])
    config = {**config, "model": _without_defaults_of_another(config["model"])}
    pl.seed_everything(config["seed"], verbose=False)

    storage_stats = StorageStats()  # `setup` fetches shards, too
    datamodule = build(config["dataset"], "dataset", trusted=config["trusted_packages"], seed=config["seed"])
    datamodule.prepare_data()  # the sample is written on first use
    datamodule.setup("fit")  # a mistake in the data is reported before the network is built
    classifier = VideoClassifier(
        model=config["model"],
        feature_sizes=datamodule.features,
        num_classes=datamodule.num_targets(),
        loss=config["loss"],
        optimizer=config["optimizer"],
        scheduler=config["scheduler"] or None,
        weight_decay=config["weight_decay"],
        objective={key: config[key] for key in Objective.model_fields},
        gradient_clip=config["gradient_clip"],
        transform=config["transform"] or None,
        normalize=config["normalize"],
        quantization=list(datamodule.quantization),
        level=datamodule.level,
        segment_classes=datamodule.segment_classes(),
        context=datamodule.context,
        max_frames=datamodule.max_row_frames(),
        pad_to=datamodule.pad_to,
        target=datamodule.target,
        vocabulary=[[info.name, *info.verticals] for info in datamodule.classes() or ()] or None,
        config=config,
        trusted_packages=config["trusted_packages"],
    )
    teachers = load_teachers(config["teacher"], classifier, config["trusted_packages"])
    classifier.objective.teachers = teachers
    ckpt_path = checkpoint_to_resume(config["ckpt_path"], folder)
    if config["init_from"] and not ckpt_path:  # a resumed run has its own weights
        init_from(Path(config["init_from"]).expanduser(), classifier)
    stats = RunStats()
    compiler = Compile(config["compile"]) if config["compile"] else None
    callbacks = [instantiate(c, _convert_="all") for c in config["callbacks"].values() if c]
    if config["average"]:
        callbacks.append(instantiate(config["average"]))
    loggers = [instantiate(c, _convert_="all") for c in config["logger"].values() if c]
    callbacks += [compiler] if compiler else []
    callbacks += [
        ResumedEpoch(),
        RandomState(),
        StopOnDivergence(),
        BestSoFar(config["optimized_metric"]),
        MissingPredictions(teachers),
        stats,
        storage_stats,
    ]
    trainer = make_trainer(config, callbacks, loggers)
    if classifier.segment_mark is not None and isinstance(trainer.strategy, ModelParallelStrategy):
        raise ConfigError(
            "dataset.context: expected 0 with trainer=fsdp, which shards the network alone; set trainer=ddp"
        )
    if ckpt_path:
        content = read_checkpoint(ckpt_path)
        check_resumable(content, ckpt_path, classifier, trainer)
        check_position(content, ckpt_path, datamodule)
    _log_setup(loggers, config, classifier)
    size = count_parameters(classifier)
    log.info("%s: %s parameters", type(classifier.model).__name__, f"{size:,}")
    if size > SLOW_ON_A_CPU and trainer.strategy.root_device.type == "cpu":
        log.warning(
            "the first step of a network of this size can take minutes on a CPU; model.width=0.125 narrows it, "
            "experiment=quickstart trains in minutes"
        )

    trainer.fit(classifier, datamodule, ckpt_path=ckpt_path, weights_only=True)
    earlier: dict[str, Any] = {}
    if config["optimized_metric"] not in trainer.callback_metrics:
        log.info("nothing was left to train: raise trainer.max_epochs to train on")
        earlier = read_json(folder / "metrics.json")  # keeps what only training measures
        trainer.validate(classifier, datamodule, verbose=False)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    if config["optimized_metric"] not in metrics:
        raise ConfigError(
            f"optimized_metric: expected {config['optimized_metric']}, found no validation; see trainer"
        )
    last = {f"last/{key}": value for key, value in metrics.items() if key.startswith("val/")}
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint) and c.monitor), None)
    if best and best.best:
        metrics |= best.best["metrics"]
    if config["test"] and datamodule.globs["test"]:
        path = best.best_model_path if best else None
        trainer.test(classifier, datamodule, ckpt_path=path or None, weights_only=True, verbose=False)
        metrics |= {key: float(value) for key, value in trainer.callback_metrics.items()}

    skipped, slow_records = datamodule.skipped(), datamodule.slow_records()
    spent_on_storage = storage_stats.summary()
    unrated = datamodule.unrated_videos()
    if trainer.is_global_zero:
        record = earlier | {
            **{key: metrics[key] for key in sorted(metrics) if key != "train/loss_step"},
            **{key: last[key] for key in sorted(last)},
            "best_epoch": best.best["epoch"] if best and best.best else None,
            "model": Path(
                str(HydraConfig.get().runtime.choices.get("model"))
            ).name,  # without a preset's folder
            "dataset": HydraConfig.get().runtime.choices.get("dataset"),
            "init_from": config["init_from"],
            "average": HydraConfig.get().runtime.choices.get("average") if config["average"] else None,
            "compiled": compiler.done if compiler else False,
            "compile_seconds": round(compiler.seconds, 3) if compiler else None,
            "params": count_parameters(classifier),
            "epochs": trainer.current_epoch,
            "batch_size": config["dataset"]["batch_size"],
            "lr": config["optimizer"]["lr"],
            **stats.summary(),
            **spent_on_storage,
            "skipped_records": sum(skipped.values()),
            "skipped": skipped,
            "slow_records": slow_records,
            "level": datamodule.level,
            "unrated_videos": unrated,
            **provenance(),
        }
        write_json(folder / "metrics.json", record)
        print_results(record, folder)
    return metrics[config["optimized_metric"]]


def _without_defaults_of_another(model: dict[str, Any]) -> dict[str, Any]:
    """The section `model`; of a command line with `model._target_=mynet.MyNet`, only the keys that this line sets.

    The other keys are defaults of the network that the group chose, which has other arguments.
    """
    keys = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    if "model._target_" not in keys:
        return model
    own = {key.split(".")[1] for key in keys if key.startswith("model.")}
    return {key: value for key, value in model.items() if key in own}


def _log_setup(loggers: list[Any], config: dict[str, Any], classifier: VideoClassifier) -> None:
    """Give every logger the run's settings."""
    settings = {
        **_flat(config),
        "params": count_parameters(classifier),
        "git_commit": provenance()["git_commit"],
    }
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.begin(classifier, settings, config["optimized_metric"])
        else:
            logger.log_hyperparams(settings)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
