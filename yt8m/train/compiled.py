"""`compile=true|max`: the network's forward and backward passes through `torch.compile`."""

import contextlib
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from yt8m.module import VideoClassifier
from yt8m.sharding import is_sharded

log = logging.getLogger(__name__)

#: What compiles the graphs; tests replace it with one that does not need a C++ compiler.
BACKEND: Any = "inductor"

# Graphs of one function: of every layer that calls it, in training and in evaluation. torch would stop at 8.
_GRAPHS = 64

# Videos and frames of a trial batch. They differ, so that no graph takes one for the other.
_VIDEOS, _FRAMES = 11, 7


class Compile(Callback):
    """Compiles the network in place, before the first step: names and values of its weights stay as they are.

    A trial of a forward and a backward pass, and of one in evaluation, shows whether the network can be compiled. If
    not, it runs as it is, after one line of warning; what `max` cannot compile is tried without first. Recurrent layers
    stay PyTorch's own kernels, between the compiled parts, and of a network with a `training_loss`, its parts are
    compiled one by one. The trial leaves weights, buffers, and random numbers as it found them, so a resumed run is as
    exact as any.

    Where all batches have one shape (video vectors, or `dataset.pad_to=max`, but not segments), the graphs are made for
    that shape, and an epoch's last, smaller batch runs as it would otherwise. Where sizes vary, they are made once, for
    any number of videos and frames. So nothing is compiled after the trial.

    Args:
        how: True; or `max`, which also tries kernels out (`max-autotune`) and, on a GPU where all batches have one
            shape, records CUDA graphs.
    """

    def __init__(self, how: bool | str):
        self.how = how
        #: Whether the network runs compiled, and how long the trial took.
        self.done, self.seconds = False, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        classifier = cast(VideoClassifier, pl_module)
        network, name = classifier.model, type(classifier.model).__name__
        if is_sharded(network):
            _refuse(name, "its weights are sharded (trainer=fsdp)")
            return
        # Of segments, a batch has as many as its videos have.
        one_shape = classifier.hparams["level"] != "segment" and (
            not classifier.needs_frames or classifier.hparams["pad_to"] == "max"
        )
        # Of torch's own tracing and tuning. What it can't compile is said below, without its traceback.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        logging.getLogger("torch._functorch").setLevel(logging.ERROR)
        torch._inductor.config.max_autotune_report_choices_stats = False
        torch._inductor.config.autotune_num_choices_displayed = 0
        torch._dynamo.config.recompile_limit = _GRAPHS
        torch.compiler.set_stance("default")
        began = time.perf_counter()
        for mode in self.modes(network, one_shape, trainer.accumulate_grad_batches):
            torch._dynamo.reset()  # what earlier jobs of a sweep compiled counts toward the limit of graphs
            compile_in_place(network, one_shape, mode)
            try:
                with _unchanged(network, classifier.device), trainer.precision_plugin.forward_context():
                    _try(network, lambda: _trial(classifier, trainer, one_shape))
            except Exception as error:  # of many types, from torch's tracing, a backend or a compiler
                for part in _compiled_parts(network):
                    part._compiled_call_impl = None
                if mode == "default":
                    _refuse(name, _reason(error))
                else:
                    log.warning(
                        "compile: %s is compiled without tuning, as by compile=true: %s", name, _reason(error)
                    )
            else:
                self.done = True
                break
        self.seconds = time.perf_counter() - began
        if self.done:
            torch.compiler.set_stance("eager_on_recompile")  # until the job ends
            log.info("compiled %s in %.1f s", name, self.seconds)

    def modes(self, network: nn.Module, one_shape: bool, accumulated: int) -> list[str]:
        """The modes of `torch.compile` to try, in this order."""
        if self.how != "max":
            return ["default"]
        # A CUDA graph keeps its results and gradients in memory that its next run overwrites. So gradients cannot be
        # accumulated, and of several parts, one would overwrite what the others still need.
        graphs = one_shape and accumulated == 1 and len(_compiled_parts(network)) == 1
        return ["max-autotune" if graphs else "max-autotune-no-cudagraphs", "default"]


def compile_in_place(network: nn.Module, one_shape: bool, mode: str = "default") -> None:
    """Let `torch.compile` compile the network when it is first called: for inputs of one shape, or of any length."""
    for part in _compiled_parts(network):
        part.compile(backend=BACKEND, dynamic=None if one_shape else True, mode=mode)


def _compiled_parts(network: nn.Module) -> list[nn.Module]:
    """What is compiled as a whole: the network, or, if a `training_loss` calls its parts, each of these with weights.

    Parts are the network's children, and those of its lists.
    """
    if not hasattr(network, "training_loss"):
        return [network]
    children = [
        part
        for child in network.children()
        for part in (child if isinstance(child, nn.ModuleList) else (child,))
    ]
    return [part for part in children if next(part.parameters(), None) is not None]


def _refuse(name: str, reason: str) -> None:
    log.warning("compile: %s runs as it is, not compiled: %s", name, reason)


def _reason(error: BaseException) -> str:
    """The first line of the innermost error, or, if it has no message, its type and where it was raised."""
    while inner := getattr(error, "inner_exception", None) or error.__cause__:
        error = inner
    if line := next((line.strip() for line in str(error).splitlines() if line.strip()), ""):
        return line
    name, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)
    return f"{name} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else name


def _trial(classifier: VideoClassifier, trainer: pl.Trainer, one_shape: bool) -> tuple[Tensor | None, ...]:
    """Inputs of zeros, in the shape of the run's batches where they have one."""
    hparams, device = classifier.hparams, classifier.device
    data = trainer.datamodule  # type: ignore[attr-defined]
    videos = getattr(data, "batch_size", _VIDEOS) if one_shape else _VIDEOS
    frames = hparams["max_frames"] if one_shape else min(_FRAMES, hparams["max_frames"])
    size = sum(hparams["feature_sizes"].values())
    padded = torch.zeros(videos, frames, size, device=device) if classifier.needs_frames else None
    if padded is not None and classifier.segment_mark is not None:
        # So frames need a gradient, for which there are graphs of their own.
        padded = padded + classifier.segment_mark
    return (
        torch.zeros(videos, size, device=device) if classifier.needs_video else None,
        padded,
        torch.full((videos,), frames, device=device),
    )


def _try(network: nn.Module, inputs: Callable[[], tuple[Tensor | None, ...]]) -> None:
    """Compile what training and evaluation need. `autograd.grad` fills no `.grad`, and calls no hook of DDP."""
    network.train()
    logits = network(*inputs())
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    torch.autograd.grad(logits.float().sum(), weights, allow_unused=True)
    del logits
    network.eval()
    # As the trainer evaluates. Tensors of inference mode would need graphs of their own.
    with torch.no_grad():
        network(*inputs())


@contextlib.contextmanager
def _unchanged(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back the network's buffers and modes, and the state of the random numbers, as they were."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
