"""What training, evaluation, and prediction share: a trainer, a restored checkpoint, errors in one line."""

import contextlib
import ctypes
import logging
import platform
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from yt8m.build import build
from yt8m.checkpoint import find_checkpoint, read_checkpoint, run_config
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.errors import ConfigError, RankError, YT8MError
from yt8m.module import VideoClassifier
from yt8m.train.checkpoint import AtomicCheckpointIO
from yt8m.train.ranks import WatchRanks, is_lost_connection

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


@contextlib.contextmanager
def lightning_session() -> Iterator[None]:
    """Run a job that uses Lightning: map its errors and its Ctrl-C to ours, and end the W&B run with the job."""
    _quiet_lightning()
    matmul = torch.get_float32_matmul_precision()
    failed = True
    try:
        yield
        failed = False
    except (InstantiationException, MisconfigurationException) as error:
        if isinstance(error.__cause__, YT8MError):  # raised by what Hydra instantiated
            raise error.__cause__ from None
        raise ConfigError(" ".join(str(error).split())) from error
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        # Lightning turned Ctrl-C into exit code 1, and ignores SIGINT from there on.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise RankError(
            "trainer.devices: another process of this run died, so this one ends; resume with ckpt_path=last"
        ) from None
    finally:
        torch.set_float32_matmul_precision(matmul)
        # Otherwise the next job of a sweep would continue this job's W&B run.
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish(exit_code=int(failed))


def restore(
    ckpt_path: str, folder: Path, dataset: dict[str, Any], trusted_packages: Sequence[str] = ()
) -> tuple[Path, VideoClassifier, YT8MDataModule]:
    """A checkpoint's path, its classifier, and its data module with the values of `dataset` that are not None.

    The checkpoint carries the rest of the run's configuration, except for its limits: they shortened the training, and
    here they would silently leave out videos. Which packages are trusted is up to this run alone. Where the data are is
    the checkpoint's word unless `dataset` says so, and then nothing is written there.
    """
    path = find_checkpoint(ckpt_path, folder)
    content = read_checkpoint(path)
    datamodule = _make_data(content, path, dataset, trusted_packages)
    at_level = _at_level(content["hyper_parameters"], path, datamodule)
    del content  # the weights are read again, into the network: no two copies of them at once
    classifier = VideoClassifier.load_from_checkpoint(path, trusted_packages=trusted_packages, **at_level)
    return path, classifier, datamodule


def _at_level(hparams: Mapping[str, Any], path: Path, datamodule: YT8MDataModule) -> dict[str, Any]:
    """What a classifier has to know of a dataset whose level or context may be another than in training.

    Raises:
        ConfigError: the checkpoint's network cannot read it.
    """
    level, context = hparams.get("level", "frame"), hparams.get("context", 0)
    known = level in ("frame", "video", "segment")  # the classifier refuses another one by its name
    if not known or level == datamodule.level != "segment":
        return {}
    if level != datamodule.level and "video" in (level, datamodule.level):
        raise ConfigError(
            f"dataset.level: expected {level}, on which the network of {path} was trained, found {datamodule.level}; "
            "only frame and segment can stand in for each other"
        )
    if datamodule.context == "video" and context != "video":
        raise ConfigError(
            f"dataset.context: expected {context} or another number of frames, found video, but the network of {path} "
            "was not trained to tell a segment from the rest of its video; train with dataset.context=video"
        )
    return {
        "level": datamodule.level,
        "max_frames": datamodule.max_row_frames(),
        "segment_classes": datamodule.segment_classes(),
    }


def restore_data(path: Path, dataset: dict[str, Any], trusted_packages: Sequence[str] = ()) -> YT8MDataModule:
    """The data module of `restore`."""
    return _make_data(read_checkpoint(path), path, dataset, trusted_packages)


def _make_data(
    content: Mapping[str, Any], path: Path, dataset: dict[str, Any], trusted_packages: Sequence[str]
) -> YT8MDataModule:
    config = run_config(content, path)
    arguments = config["dataset"] | {"limit_shards": None, "limit_videos": None}
    for key in ("cache_dir", "cache_limit"):  # of the machine that trained
        arguments.pop(key, None)
    arguments |= {key: value for key, value in dataset.items() if value is not None}
    datamodule: YT8MDataModule = build(arguments, "dataset", trusted=trusted_packages, seed=config["seed"])
    datamodule.read_only = dataset.get("root") is None
    return datamodule


def make_trainer(config: dict[str, Any], callbacks: list[Any], loggers: list[Any]) -> pl.Trainer:
    """Lightning's Trainer from the group `trainer`; `precision: null` means what fits the device."""
    arguments = dict(config["trainer"])
    on_cpu = arguments.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    if arguments.get("precision") is None:
        arguments["precision"] = _precision(on_cpu)
    torch.set_float32_matmul_precision(arguments.pop("matmul", None) or "highest")
    if on_cpu:
        keep_freed_memory()
    return instantiate(
        arguments,
        callbacks=[*callbacks, WatchRanks()],
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        _convert_="all",
    )


def _precision(on_cpu: bool) -> str:
    """bf16 where the GPU computes in it, fp16 on older ones, 32 bits on a CPU."""
    if on_cpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def keep_freed_memory() -> None:
    """Let glibc reuse a step's freed activations in the next one, where it would return them to the kernel.

    A new page costs a page fault at its first write, thousands in a step. Does nothing with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def _quiet_lightning() -> None:
    """Hydra logs what Lightning logs; its own handler would double the lines."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",
        r"hydra\.utils\.instantiate\(\) resolved",  # Hydra 1.4 wants a list of what this run's own config may name
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*You have overridden `on_before_batch_transfer` in `LightningModule`.*",  # and not in the data module
        ".*Could not log computational graph.*",  # `_log_setup` does
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # the metrics are the same on all ranks
        ".*WeightAveraging callback with a model that overrides the configure_model.*",  # it refuses sharded ones
        ".*checkpoint was not created with WeightAveraging.*",  # the average begins with its weights
        ".*compute.* method of metric .* was called before.*",  # a rank whose batches were all empty
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)
