"""From a configuration to an optimizer with its groups of parameters and its schedule; the clipping of gradients."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from yt8m.build import INSTANCE, build, locate
from yt8m.errors import ConfigError

Parameters = Mapping[str, Tensor]  # by the path in the network, such as `classifier.weight`

#: Optimizers whose fused kernels compute, up to rounding, what their plain ones do.
FUSED = {f"torch.optim.{name}" for name in ("Adam", "AdamW", "SGD")}


def make_optimizer(
    optimizer: Mapping[str, Any] | Callable[..., Any],
    parameters: Parameters,
    weight_decay: Mapping[str, float] | None,
    trusted: Sequence[str] = (),
    *,
    fused: bool = False,
) -> Optimizer:
    """The optimizer of a configuration, or of a function from the parameters to one.

    Args:
        optimizer: `_target_` of `torch.optim` and its arguments; or the function.
        parameters: what to train.
        weight_decay: see `parameter_groups`.
        trusted: packages outside of this project that may define the optimizer.
        fused: whether one of `FUSED` may take its step as one kernel, if the configuration does not say how.

    Raises:
        ConfigError: there is no such optimizer, or it refuses its arguments.
    """
    if isinstance(optimizer, Mapping):
        groups = parameter_groups(optimizer, parameters, weight_decay, trusted)
        said = optimizer.keys() & {"fused", "foreach", "capturable", "differentiable"}
        if said or optimizer.get("_target_") not in FUSED:
            made: Optimizer = build(optimizer, "optimizer", trusted=trusted, params=groups)
            return made
        fused = fused and all(p.device.type in ("cpu", "cuda") for p in parameters.values())
        made = build(optimizer, "optimizer", trusted=trusted, params=groups, fused=fused or None)
        made.register_load_state_dict_pre_hook(partial(_keep_kernel, fused or None))
        return made
    if weight_decay:
        raise ConfigError(
            "weight_decay: expected an optimizer from a section, found a function; let it make the groups itself"
        )
    found = optimizer(parameters.values()) if callable(optimizer) else optimizer
    if not isinstance(found, Optimizer) or not callable(optimizer):
        raise ConfigError(
            "optimizer: expected a section, or a function from the parameters to a torch.optim.Optimizer, "
            f"found {' '.join(repr(optimizer).split())}"
        )
    return found


def _keep_kernel(fused: bool | None, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's optimizer state for this run's kernel, which another device or precision may not have had."""
    return {**state, "param_groups": [{**group, "fused": fused} for group in state["param_groups"]]}


def parameter_groups(
    optimizer: Mapping[str, Any],
    parameters: Parameters,
    weight_decay: Mapping[str, float] | None,
    trusted: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The parameters by their weight decay, as an optimizer takes them; a group keeps their order.

    Weights get that of the section `optimizer`; biases, and the scales and shifts of norms, get none. A path in
    `weight_decay` replaces both for the weights below it, or for the one parameter that it names; of two paths that
    apply, the longer one does. What decay does to a step is up to the optimizer: `Adam` and `SGD` add decay · w to the
    gradient, as `l2_regularizer` of the YouTube-8M starter code does, `AdamW` shrinks w by lr · decay · w.

    Args:
        optimizer: `_target_` of `torch.optim` and its arguments.
        parameters: what to train.
        weight_decay: path of a module or of a parameter to its decay: `{"classifier": 1e-8}`.
        trusted: packages outside of this project that may define the optimizer.

    Raises:
        ConfigError: a path leads nowhere, or the optimizer has no weight decay.
    """
    paths = weight_decay or {}
    check_paths(paths, parameters)
    default = _default_decay(optimizer, trusted)
    if default is None and paths:
        raise ConfigError(
            f"weight_decay: {optimizer.get('_target_')} has no weight decay; choose optimizer=adam, adamw or sgd"
        )
    groups: dict[str | bool, list[Tensor]] = {True: [], False: [], **{path: [] for path in paths}}
    for name, parameter in parameters.items():
        chosen = max((path for path in paths if _applies(path, name, parameter)), key=len, default=None)
        # Where nothing decays, all others are one group.
        groups[chosen or (not default or _is_weight(name, parameter))].append(parameter)
    found: list[dict[str, Any]] = []
    for key, members in groups.items():
        decay = {} if key is True else {"weight_decay": 0.0 if key is False else paths[str(key)]}
        if members:
            found.append({"params": members, **decay})
    return found


def check_paths(paths: Iterable[str], parameters: Iterable[str]) -> None:
    """Raise ConfigError for the first of `paths` that names no module with parameters, and no parameter."""
    known = {".".join(name.split(".")[:end]) for name in parameters for end in range(1, name.count(".") + 2)}
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1) or [min(known, default="")]
            raise ConfigError(
                f"weight_decay.{path}: expected a module or parameter of the network, found none of that name; "
                f"did you mean {near[0]}?"
            )


def _applies(path: str, name: str, parameter: Tensor) -> bool:
    return path == name or (name.startswith(f"{path}.") and _is_weight(name, parameter))


def _is_weight(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is neither a bias nor the scale or shift of a norm."""
    return parameter.ndim > 1 and "bias" not in name.rpartition(".")[2]


def _default_decay(optimizer: Mapping[str, Any], trusted: Sequence[str]) -> float | None:
    """The weight decay that an optimizer gives to what its groups do not say; None if it has no such argument."""
    if "weight_decay" in optimizer or INSTANCE in optimizer:
        return optimizer.get("weight_decay")
    target = locate(optimizer.get("_target_"), "optimizer", trusted)
    argument = inspect.signature(target).parameters.get("weight_decay")
    return None if argument is None else argument.default


def make_scheduler(
    scheduler: Mapping[str, Any] | Callable[..., Any],
    optimizer: Optimizer,
    trainer: pl.Trainer,
    config: Mapping[str, Any] | None,
    trusted: Sequence[str] = (),
) -> Any:
    """The schedule of a configuration, or of a function with the same keywords, which changes once per step.

    Args:
        scheduler: `_target_` of `yt8m.schedulers` and its arguments; or the function.
        optimizer: whose learning rate it sets.
        trainer: knows the number of steps and devices.
        config: the run's configuration, where there is one.
        trusted: packages outside of this project that may define the schedule.

    Raises:
        ConfigError: there is no such schedule, it refuses its arguments, or the batch size is unknown.
    """
    total_steps = trainer.estimated_stepping_batches  # makes the loaders, too
    given = {
        "optimizer": optimizer,
        "examples_per_step": _batch_size(trainer, config)
        * trainer.world_size
        * trainer.accumulate_grad_batches,
        "total_steps": total_steps,
    }
    if isinstance(scheduler, Mapping):
        return build(scheduler, "scheduler", trusted=trusted, **given)
    return scheduler(**given)


def _batch_size(trainer: pl.Trainer, config: Mapping[str, Any] | None) -> int:
    """Videos per batch and rank, from the configuration, the data module, or the loader."""
    loader = trainer.train_dataloader
    sources = (trainer.datamodule, loader, getattr(loader, "batch_sampler", None))  # type: ignore[attr-defined]
    found = [(config or {}).get("dataset", {}).get("batch_size")]
    found += [getattr(source, "batch_size", None) for source in sources]
    size: int | None = next((size for size in found if size), None)
    if size is None:
        raise ConfigError(
            "scheduler: expected a data module or loader with a batch_size, found neither; give it one, or set "
            "scheduler=None"
        )
    return size


def clip_(module: pl.LightningModule, optimizer: Optimizer, norm: float, per: str) -> None:
    """Scale the gradients in place: each `variable`'s to an L2 norm of at most `norm`, or all as one (`global`).

    Raises:
        ConfigError: the optimizer's kernel unscales fp16's gradients itself, which is too late.
    """
    scales = module._trainer and getattr(module._trainer.precision_plugin, "scaler", None)
    if scales and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ConfigError(
            "optimizer.fused: expected false with trainer.precision=16-mixed, found true, which would clip gradients "
            "that are still scaled; leave it out, or set gradient_clip=null"
        )
    if per == "global":  # not by Lightning, which refuses fused optimizers, in bf16-mixed too
        torch.nn.utils.clip_grad_norm_(module.parameters(), norm)
    else:
        clip_each_(module.parameters(), norm)


def clip_each_(parameters: Iterable[Tensor], norm: float) -> None:
    """Scale each gradient on its own to an L2 norm of at most `norm`, in place, without a GPU sync.

    Source: the YouTube-8M starter code's utils.clip_gradient_norms.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = list(torch._foreach_norm(gradients))
        # Of sharded ones, the norm is of the whole, and this rank scales its part.
        norms = [n.full_tensor() if isinstance(n, DTensor) else n for n in norms]
        parts = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        scales = (norm / (torch.stack(norms) + 1e-12)).clamp_(max=1.0)
        # Where reading the scales waits for nothing, what is short enough is left alone.
        if scales.device.type == "cpu":
            long = [number for number, scale in enumerate(scales.tolist()) if scale != 1]  # or NaN
            parts, scales = [parts[number] for number in long], scales[long]
        if parts:
            torch._foreach_mul_(parts, scales.unbind())
