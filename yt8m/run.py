"""What the commands share: from a configuration to a finished, recorded run."""

import gc
import importlib.metadata
import logging
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from yt8m.build import build
from yt8m.callbacks import METRICS, RandomState, ResumedEpoch, RunFigures, read_json, write_json
from yt8m.checkpoint import AtomicCheckpointIO, find_checkpoint, read_checkpoint
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.loader import ReaderError
from yt8m.datamodules.tfrecord import DataError
from yt8m.errors import ConfigError
from yt8m.loggers import WandbLogger
from yt8m.module import VideoClassifier
from yt8m.processes import refuse_unusable

log = logging.getLogger(__name__)


def command(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run `task(cfg)` as Hydra's job: the user's mistakes in one line, all else in the job's log, W&B closed."""
    _quiet_lightning()
    result, failure = None, "interrupted"
    try:
        result, failure = task(cfg), None
    except (ConfigError, DataError, ReaderError, InstantiationException, MisconfigurationException) as error:
        failure = " ".join(str(error).split()) if isinstance(error, InstantiationException) else str(error)
        log.error(failure)
    except (KeyboardInterrupt, SystemExit):
        last = Path(cfg.output_dir, "checkpoints", "last.ckpt")
        way_on = (
            f"go on with hydra.run.dir={cfg.output_dir} ckpt_path=last"
            if last.is_file()
            else "no checkpoint yet"
        )
        log.error("interrupted: %s", way_on)
        raise
    except Exception as error:
        log.exception("The job failed")
        failure = f"{type(error).__name__}: {error}"
    finally:
        # Otherwise the next job of a sweep would go on in this job's W&B run.
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish(exit_code=int(failure is not None))
    # A network, its optimizer and its trainer refer to each other: several jobs' would be in memory at once.
    gc.collect()
    if failure:
        # Not where the error was caught: as the context of this one it would keep all that the job had made.
        _end_job(failure)
    return result


def _end_job(message: str) -> NoReturn:
    """End a failed job, whose log has it all. A sweep's other jobs go on, and Hydra names this one at the end."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        job = HydraConfig.get().job
        raise CompactHydraException(f"job {job.num} ({job.override_dirname}) failed: {message}")
    sys.exit(1)


def train(cfg: DictConfig) -> float:
    """Fit, test where there is a test partition, leave `metrics.json`; the value of `optimized_metric`."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)
    folder = Path(config["output_dir"])
    _refuse_unusable(config)
    pl.seed_everything(config["seed"], verbose=False)

    datamodule = build(config["dataset"], "dataset", "yt8m.datamodules", seed=config["seed"])
    classifier = VideoClassifier(
        model=config["model"],
        feature_sizes=datamodule.features,
        num_classes=datamodule.num_targets(),
        loss=config["loss"],
        optimizer=config["optimizer"],
        scheduler=config["scheduler"] or None,
        gradient_clip=config["gradient_clip"],
        normalize=config["normalize"],
        level=datamodule.level,
        max_frames=datamodule.longest(),
        pad_to=datamodule.pad_to,
        target=datamodule.target,
        vocabulary=[[info.name, *info.verticals] for info in datamodule.classes() or ()] or None,
        config=config,
    )
    ckpt_path = find_checkpoint(config["ckpt_path"], folder) if config["ckpt_path"] else None
    if ckpt_path:
        read_checkpoint(ckpt_path)
    figures = RunFigures()
    callbacks = [instantiate(c, _convert_="all") for c in config["callbacks"].values() if c]
    loggers = [instantiate(c, _convert_="all") for c in config["logger"].values() if c]
    trainer = make_trainer(config, [*callbacks, ResumedEpoch(), RandomState(), figures], loggers)
    _log_setup(loggers, config, classifier)
    log.info("%s: %s parameters", type(classifier.model).__name__, f"{count_parameters(classifier):,}")

    trainer.fit(classifier, datamodule, ckpt_path=ckpt_path, weights_only=True)
    earlier: dict[str, Any] = {}
    if config["optimized_metric"] not in trainer.callback_metrics:
        log.info("nothing was left to train: see trainer.max_epochs")
        earlier = read_json(folder / "metrics.json")  # what only training tells stays on record
        trainer.validate(classifier, datamodule, verbose=False)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    if config["optimized_metric"] not in metrics:
        raise ConfigError(
            f"optimized_metric: expected {config['optimized_metric']}, found no validation; see trainer"
        )
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if config["test"] and datamodule.globs["test"]:
        trainer.test(classifier, datamodule, ckpt_path=best or None, weights_only=True, verbose=False)
        metrics |= {key: float(value) for key, value in trainer.callback_metrics.items()}

    skipped = datamodule.skipped()
    if trainer.is_global_zero:
        record = earlier | {
            **{key: metrics[key] for key in sorted(metrics) if key != "train/loss_step"},
            "model": HydraConfig.get().runtime.choices.get("model"),
            "dataset": HydraConfig.get().runtime.choices.get("dataset"),
            "params": count_parameters(classifier),
            "epochs": trainer.current_epoch,
            "batch_size": config["dataset"]["batch_size"],
            "lr": config["optimizer"]["lr"],
            **figures.summary(),
            "skipped_records": sum(skipped.values()),
            "skipped": skipped,
            **provenance(),
        }
        write_json(folder / "metrics.json", record)
        print_results(record, folder)
    return metrics[config["optimized_metric"]]


def restore(
    ckpt_path: str, folder: Path, dataset: dict[str, Any]
) -> tuple[Path, VideoClassifier, YT8MDataModule]:
    """A checkpoint's path, its classifier, and its data module with what `dataset` does not leave None.

    Nothing else is needed: the checkpoint carries the run's configuration. Only its limits are not taken over:
    they shortened the training, and here they would leave out videos silently.
    """
    path = find_checkpoint(ckpt_path, folder)
    config = read_checkpoint(path)["hyper_parameters"]["config"]
    arguments = config["dataset"] | {"limit_shards": None, "limit_videos": None}
    arguments |= {key: value for key, value in dataset.items() if value is not None}
    datamodule = build(arguments, "dataset", "yt8m.datamodules", seed=config["seed"])
    classifier = VideoClassifier.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return path, classifier, datamodule


def make_trainer(config: dict[str, Any], callbacks: list[Any], loggers: list[Any]) -> pl.Trainer:
    """Lightning's Trainer from the group `trainer`; `precision: null` means what fits the device."""
    arguments = dict(config["trainer"])
    if arguments.get("precision") is None:
        arguments["precision"] = _precision(arguments.get("accelerator", "auto"))
    return instantiate(
        arguments, callbacks=callbacks, logger=loggers, plugins=[AtomicCheckpointIO()], _convert_="all"
    )


def count_parameters(classifier: VideoClassifier) -> int:
    return sum(p.numel() for p in classifier.model.parameters())


def provenance() -> dict[str, Any]:
    """With what a result was made: versions of the packages, and the source's git commit where there is one."""
    packages = ("yt8m", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": git.stdout.strip() or None,
    }


def print_results(record: dict[str, Any], folder: Path) -> None:
    """The run's figures as a table, and where everything lies."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for prefix, partition in (("train", "train"), ("val", "validate"), ("test", "test")):
        for name, title in _TITLES.items():
            value = record.get(f"{prefix}/{name}")
            if value is not None:
                table.add_row(f"{partition} {title}", f"{value:.4f}")
    for key, (title, form) in _FIGURES.items():
        if record.get(key) is not None:
            table.add_row(title, form.format(record[key]))
    table.add_row("output folder", str(folder))
    Console().print(table)


_TITLES = {"loss": "loss", "hit1": "Hit@1", "perr": "PERR", "gap": "GAP", "map": "mAP"}
_TITLES |= {f"genre_{name}": f"{title} of genres" for name, title in _TITLES.items()}
_FIGURES = {
    "params": ("parameters", "{:,}"),
    "lr": ("learning rate", "{:g}"),
    "epochs": ("epochs", "{}"),
    "batch_size": ("batch size", "{}"),
    "videos_per_second": ("videos/s", "{:,.0f}"),
    "seconds": ("seconds", "{:.1f}"),
    "skipped_records": ("records skipped", "{:,}"),
    "cpu_percent_mean": ("CPU use, mean", "{:.0f} %"),
    "cpu_percent_peak": ("CPU use, peak", "{:.0f} %"),
    "memory_gib_mean": ("memory, mean", "{:.2f} GiB"),
    "memory_gib_peak": ("memory, peak", "{:.2f} GiB"),
    "gpu_percent_mean": ("GPU use, mean", "{:.0f} %"),
    "gpu_percent_peak": ("GPU use, peak", "{:.0f} %"),
    "gpu_memory_gib_mean": ("GPU memory, mean", "{:.2f} GiB"),
    "gpu_memory_gib_peak": ("GPU memory, peak", "{:.2f} GiB"),
}


def _refuse_unusable(config: dict[str, Any]) -> None:
    known = [f"val/{name}" for name in METRICS]
    if config["optimized_metric"] not in known:
        raise ConfigError(
            f"optimized_metric: expected one of {', '.join(known)}, found {config['optimized_metric']}"
        )
    if config["seed"] is None:
        raise ConfigError("seed: expected a whole number, found null; the order of the data depends on it")
    refuse_unusable(config["trainer"])


def _precision(accelerator: str) -> str:
    """bf16 where the GPU computes in it, fp16 on older ones, 32 bits on a CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _log_setup(loggers: list[Any], config: dict[str, Any], classifier: VideoClassifier) -> None:
    """Give every logger the configuration, flat, W&B the code, and TensorBoard the network's graph."""
    settings = {**_flat(config), "git_commit": provenance()["git_commit"]}
    for logger in loggers:
        logger.log_hyperparams(settings)
        if isinstance(logger, WandbLogger):
            logger.begin(classifier.model)
        if isinstance(logger, TensorBoardLogger):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's remarks on constants
                logger.log_graph(classifier, classifier.example())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _quiet_lightning() -> None:
    """Hydra logs what Lightning logs; its own handler would double the lines."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*Could not log computational graph.*",  # `_log_setup` does
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # the metrics are the same on all ranks
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)
