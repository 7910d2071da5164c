"""What training, evaluation, and prediction share: a trainer, errors in one line, an end in order."""

import contextlib
import ctypes
import logging
import platform
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities import cloud_io
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from yt8m.errors import ConfigError, RankError, YT8MError
from yt8m.layers.streams import cuda_streams, set_cuda_streams
from yt8m.train.checkpoint import AtomicCheckpointIO
from yt8m.train.ranks import WatchRanks, is_lost_connection

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


@contextlib.contextmanager
def lightning_session() -> Iterator[None]:
    """Run a job that uses Lightning: map its errors and its Ctrl-C to ours, and end the W&B run with the job."""
    _quiet_lightning()
    # Lightning imports s3fs, where it is installed, to ask whether a file system is one of its: half a second at every
    # start. One of a package that nothing has imported is not.
    cloud_io.module_available = sys.modules.__contains__
    # Before torch starts its threads, which inherit it. Gradients vanish over hundreds of frames, and CPUs compute with
    # numbers below 1e-38 many times slower than with zeros.
    torch.set_flush_denormal(True)
    matmul, streams = torch.get_float32_matmul_precision(), cuda_streams()
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
        set_cuda_streams(streams)
        torch.set_flush_denormal(False)
        if "torch._dynamo" in sys.modules:  # a second to import; `Compile` has set it
            torch.compiler.set_stance("default")
        # Otherwise the next job of a sweep would continue this job's W&B run.
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish(exit_code=int(failed))


def make_trainer(config: dict[str, Any], callbacks: list[Any], loggers: list[Any]) -> pl.Trainer:
    """Lightning's Trainer from the group `trainer`; `precision: null` means what fits the device."""
    arguments = dict(config["trainer"])
    on_cpu = arguments.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    if arguments.get("precision") is None:
        arguments["precision"] = _precision(on_cpu)
    torch.set_float32_matmul_precision(arguments.pop("matmul", None) or "highest")
    streams = arguments.pop("cuda_streams", False)
    # Lightning validates without gradients and tests in inference mode, which would compile every graph once more.
    arguments.setdefault("inference_mode", not config.get("compile"))
    if on_cpu:
        keep_freed_memory()
    trainer: pl.Trainer = instantiate(
        arguments,
        callbacks=[*callbacks, WatchRanks()],
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        _convert_="all",
    )
    if streams and trainer.world_size > 1:
        # DDP exchanges gradients during the backward pass, and takes it that one stream computes them all.
        log.warning("trainer.cuda_streams has no effect on %s processes, only on one", trainer.world_size)
        streams = False
    set_cuda_streams(streams)
    return trainer


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
