"""Reading checkpoints: without unpickling code, and with one line about what is wrong with one.

Nothing that a checkpoint says is trusted: what it carries must have the expected types, its tensors must have the
shapes of the network that it describes before that network is allocated, and what it names is built by `yt8m.build`.
"""

import copy
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn

from yt8m.build import INSTANCE, build
from yt8m.errors import ConfigError
from yt8m.storage.transport import is_remote, protocol_of

T = TypeVar("T")
C = TypeVar("C", bound=pl.LightningModule)

WEIGHTS = "model."  # prefix of the network's tensors in the state dict


def find_checkpoint(ckpt_path: str, folder: Path, setting: str = "ckpt_path") -> Path:
    """The checkpoint that the value of a setting means: a path, or `last` for that of the run in `folder`."""
    if ckpt_path != "last":
        return checkpoint_file(ckpt_path, setting)
    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise ConfigError(
            f"{setting}: expected a checkpoint, found nothing at {path}; set hydra.run.dir to the folder of the run to "
            "resume"
        )
    return path


def checkpoint_file(path: str | os.PathLike[str], setting: str = "ckpt_path") -> Path:
    """A checkpoint's path, `~` expanded. Raises ConfigError if no file is there, or for an address in a bucket."""
    if is_remote(path):
        raise ConfigError(
            f"{setting}: expected a file of this machine, found an address of {protocol_of(os.fspath(path))}://; copy "
            "the checkpoint here first"
        )
    file = Path(path).expanduser()
    if not file.is_file():
        found = "a folder" if file.is_dir() else "nothing"
        raise ConfigError(f"{setting}: expected a checkpoint, found {found} at {file}")
    return file


def checkpoint_to_resume(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint that training starts from; `auto` means `last` if there is one, as for a job that is requeued."""
    if ckpt_path == "auto":
        ckpt_path = "last" if (folder / "checkpoints" / "last.ckpt").is_file() else None
    return find_checkpoint(ckpt_path, folder) if ckpt_path else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU: `state_dict`, `hyper_parameters` and what Lightning adds.

    Tensors and plain containers only: nothing in it is executed.

    Raises:
        ConfigError: it is no checkpoint of `VideoClassifier`, or damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch reports a foreign or truncated file by many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"ckpt_path: expected a checkpoint of yt8m.train at {path}; {reason}") from None
    checkpoint: dict[str, Any] = _expect(path, content, "a checkpoint", dict)
    for key in ("state_dict", "hyper_parameters"):
        _expect(path, content.get(key), key, dict)
    _check_tensors(path, content["state_dict"])
    for key in ("model", "feature_sizes", "loss", "optimizer"):
        _expect(path, content["hyper_parameters"].get(key), f"hyper_parameters.{key}", dict)
    return checkpoint


def run_config(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint.

    Raises:
        ConfigError: the checkpoint carries none, as when it was saved without `yt8m.train`.
    """
    found = content["hyper_parameters"].get("config")
    config: dict[str, Any] = _expect(path, found, "the run's configuration (hyper_parameters.config)", dict)
    _expect(path, config.get("dataset"), "hyper_parameters.config.dataset", dict)
    _expect(path, config.get("seed"), "hyper_parameters.config.seed", int)
    return config


def load(
    cls: type[C],
    path: Path,
    overrides: Mapping[str, Any],
    strict: bool,
    trusted_packages: Sequence[str],
) -> C:
    """A `VideoClassifier` (`cls`) with the arguments and weights in a checkpoint; see its `load_from_checkpoint`."""
    content = read_checkpoint(path)
    arguments = content["hyper_parameters"] | dict(overrides) | {"trusted_packages": trusted_packages}
    if unknown := arguments.keys() - inspect.signature(cls).parameters.keys():
        raise ConfigError(f"ckpt_path: {path} has an unknown argument {min(unknown, key=str)!r}")
    model = arguments["model"]
    if isinstance(model, Mapping) and str(model.get("_target_")).startswith("yt8m."):
        # Before anything is allocated: sizes that the file does not hold must not use up the memory.
        sizes = {name: arguments.get(name) for name in ("feature_sizes", "num_classes")}
        with torch.device("meta"):
            network = build(model, "model", **sizes)
        check_weights(path, content["state_dict"], network, "the network that it describes")
    classifier = cls(**arguments)
    try:
        classifier.load_state_dict(content["state_dict"], strict=strict)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"ckpt_path: expected the weights of this network in {path}; {reason}") from error
    classifier.on_load_checkpoint(content)
    return classifier


def check_weights(
    path: Path, state_dict: Mapping[str, Tensor], network: nn.Module, what: str, prefix: str = WEIGHTS
) -> None:
    """Check that the weights in a checkpoint are those of `network`, which may be on the meta device.

    Args:
        path: the checkpoint, for error messages.
        state_dict: the checkpoint's.
        network: the network that they are for.
        what: whose network it is, for error messages.
        prefix: of the names of its tensors.

    Raises:
        ConfigError: a tensor is missing, has another shape, or belongs to no layer.
    """
    expected = {prefix + name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in state_dict.items() if name.startswith(prefix)}
    for name in (*expected, *found):
        if expected.get(name) != found.get(name):
            shapes = (expected.get(name, "no such tensor"), found.get(name, "none"))
            raise ConfigError(
                f"ckpt_path: expected the weights of {what} in {path}, where {name} is {shapes[0]}, "
                f"found {shapes[1]}"
            )


def check_resumable(
    content: Mapping[str, Any], path: Path, classifier: pl.LightningModule, trainer: pl.Trainer
) -> None:
    """Check that training can resume from a checkpoint with this run's network, optimizer and trainer.

    Raises:
        ConfigError: the checkpoint is of another network, class count, dataset or optimizer, or damaged.
    """
    hparams = content["hyper_parameters"]
    theirs, ours = describe_network(hparams), describe_network(classifier.hparams)
    try:
        check_weights(path, content["state_dict"], cast(nn.Module, classifier.model), "this run's network")
    except ConfigError as error:
        if theirs == ours:
            raise
        differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        raise ConfigError(
            f"ckpt_path: the checkpoint at {path} is of {_phrase(theirs, differing)}; this run has "
            f"{_phrase(ours, differing)}; set the same model and dataset, or leave out ckpt_path"
        ) from error
    transforms = [transform_name(one) for one in (hparams, classifier.hparams)]
    if transforms[0] != transforms[1]:
        raise ConfigError(
            f"ckpt_path: the checkpoint at {path} was trained with transform {transforms[0]}; this run has "
            f"{transforms[1]}; set the same transform, or leave out ckpt_path"
        )
    if classifier.transform is not None:
        transform = cast(nn.Module, classifier.transform)
        check_weights(path, content["state_dict"], transform, "this run's transform", "transform.")
    optimizers = [one["optimizer"].get("_target_") for one in (hparams, classifier.hparams)]
    if optimizers[0] != optimizers[1]:
        raise ConfigError(
            f"ckpt_path: the checkpoint at {path} was trained with {optimizers[0]}; this run has {optimizers[1]}; "
            "set the same optimizer, or leave out ckpt_path"
        )
    for key, kind in (("epoch", int), ("global_step", int), ("callbacks", dict), ("lr_schedulers", list)):
        _expect(path, content.get(key), key, kind)
    decays = [one.get("weight_decay") or {} for one in (hparams, classifier.hparams)]
    if _expect(path, decays[0], "hyper_parameters.weight_decay", dict) != decays[1]:
        raise ConfigError(
            f"ckpt_path: the checkpoint at {path} was trained with weight_decay {decays[0]}; this run has "
            f"{decays[1]}; set the same, or leave out ckpt_path"
        )
    groups = cast(Callable[[], list[dict[str, Any]] | None], classifier.parameter_groups)()
    _check_optimizer(path, content.get("optimizer_states"), classifier, groups)
    _check_structure(path, content.get("loops"), {"fit_loop": trainer.fit_loop.state_dict()}, "loops")
    _expect(path, content.get("train_loss", {}), "train_loss", dict)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = content["callbacks"].get(callback.state_key)
        if state is not None:
            _try_state(path, callback, state)
    averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    check_average(path, content, averages[0].state_key if averages else None)


def check_position(content: Mapping[str, Any], path: Path, datamodule: pl.LightningDataModule) -> None:
    """Check that a checkpoint holds the position of training in a dataset of this kind.

    Raises:
        ConfigError: it holds that of another kind of dataset, or none.
    """
    name = type(datamodule).__qualname__
    position = content.get(name)
    if not isinstance(position, dict):
        config = content["hyper_parameters"].get("config")
        dataset = config.get("dataset") if isinstance(config, dict) else None
        target = dataset.get("_target_") if isinstance(dataset, dict) else None
        raise ConfigError(
            f"ckpt_path: expected the position in a dataset of {name} in {path}, found none; the checkpoint's "
            f"dataset is of {target or 'an unknown class'}; set the same dataset, or leave out ckpt_path"
        )
    counted = "batch" if "batch" in position else "records"  # earlier versions counted batches
    for key, kind in {"epoch": int, counted: int, "order": dict}.items():
        _expect(path, position.get(key), f"{name}.{key}", kind)
    order = position["order"]
    for key in ("batch_size", "accumulate"):
        if _expect(path, order.get(key, 1), f"{name}.order.{key}", int) < 1:
            raise ConfigError(f"ckpt_path: expected {key} of at least 1 in {path}, found {order[key]}")
    sections = _expect(path, position.get("sections", []), f"{name}.sections", list)
    for section in sections:
        pair = isinstance(section, list) and len(section) == 2 and all(type(n) is int for n in section)
        if not pair or section[0] < 0 or section[1] < 1:
            raise ConfigError(
                f"ckpt_path: expected [record, batch size] in {name}.sections of {path}, found {section}"
            )


def describe_network(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What a network's weights depend on, from the arguments of a `VideoClassifier`."""
    model = dict(hparams["model"])
    target = str(model.pop("_target_", model.pop(INSTANCE, "an unknown network")))
    return {
        "": target.rpartition(".")[2],
        **model,
        "features": dict(hparams["feature_sizes"]),
        "classes": hparams.get("num_classes"),
    }


def transform_name(hparams: Mapping[str, Any]) -> str:
    """The class of the input transform, from the arguments of a `VideoClassifier`; `none` for none."""
    chosen = hparams.get("transform")
    if isinstance(chosen, Mapping) and chosen:
        return str(chosen.get("_target_", chosen.get(INSTANCE)))
    return "yt8m.transforms.L2" if hparams.get("normalize") == "l2" else "none"


def _phrase(network: Mapping[str, Any], keys: Iterable[str]) -> str:
    """`NN with hidden_sizes [64] and 3,862 classes`, with the arguments in `keys`."""
    shown = [f"{key} {network[key]}" for key in keys if key in network and key not in ("", "classes")]
    if "classes" in keys and isinstance(network["classes"], int):
        shown.append(f"{network['classes']:,} classes")
    return f"{network['']} with {' and '.join(shown)}" if shown else network[""]


def _expect(path: Path, value: Any, what: str, kind: type[T]) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {dict: "a dictionary", list: "a list", int: "a whole number"}
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(
            f"ckpt_path: expected a checkpoint of yt8m.train at {path}; {what} should be {names[kind]}, found {found}"
        )
    return value


def _check_tensors(path: Path, state_dict: Mapping[Any, Any]) -> None:
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ConfigError(
                f"ckpt_path: expected a checkpoint of yt8m.train at {path}; {name!r} in its state_dict is no tensor"
            )
        # A view can claim any size without the bytes: a copy would allocate them.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ConfigError(
                f"ckpt_path: expected a checkpoint of yt8m.train at {path}; {name} claims {list(tensor.shape)} "
                "numbers, more than the file holds"
            )


def _check_optimizer(
    path: Path, states: Any, classifier: nn.Module, groups_of_run: list[dict[str, Any]] | None
) -> None:
    _expect(path, states, "optimizer_states", list)
    parameters = [list(parameter.shape) for parameter in classifier.parameters()]
    if len(states) != 1 or not isinstance(states[0], dict):
        raise ConfigError(
            f"ckpt_path: expected the state of one optimizer in {path}, found {len(states)}; resume from last.ckpt or "
            "best.ckpt of a run"
        )
    _expect(path, states[0].get("state"), "optimizer_states.state", dict)
    groups = _expect(path, states[0].get("param_groups"), "optimizer_states.param_groups", list)
    sizes = [len(group["params"]) if isinstance(group, dict) and "params" in group else 0 for group in groups]
    if sum(sizes) != len(parameters):
        raise ConfigError(
            f"ckpt_path: expected the state of an optimizer of {len(parameters)} tensors in {path}, found {sum(sizes)}"
        )
    expected = [len(group["params"]) for group in groups_of_run or ()]
    if groups_of_run is not None and sizes != expected:
        raise ConfigError(
            f"ckpt_path: expected an optimizer with groups of {expected} tensors in {path}, found {sizes}: its weight "
            "decay is of other parameters; set the same optimizer.weight_decay and weight_decay, or leave out "
            "ckpt_path"
        )


def check_average(path: Path, content: Mapping[str, Any], callback: str | None) -> None:
    """Check that the run averages (`callback` is the key of what does) as the checkpoint does, if that does."""
    state = content.get("averaging_state")
    if state is None:
        return
    if callback is None or callback not in content["callbacks"]:
        kind = next((key for key in ("EMA", "SWA") if key in content["callbacks"]), "another average")
        raise ConfigError(
            f"ckpt_path: the checkpoint at {path} has averaged weights ({kind}); this run has {callback or 'none'}; "
            "set the same average, or leave out ckpt_path"
        )
    _expect(path, content["callbacks"][callback].get("latest_update_step"), "latest_update_step", int)
    updates = _expect(path, state, "averaging_state", dict).get("n_averaged")
    if state.keys() != {"n_averaged"} or not isinstance(updates, Tensor) or updates.shape or updates < 0:
        raise ConfigError(
            f"ckpt_path: expected the number of averaged weights in {path}, found something else in averaging_state"
        )
    current: dict[str, Any] = _expect(path, content.get("current_model_state"), "current_model_state", dict)
    _check_tensors(path, current)
    shapes = [{name: one.shape for name, one in part.items()} for part in (content["state_dict"], current)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"ckpt_path: expected the current weights beside their average in {path}, found other names or shapes in "
            "current_model_state"
        )


def _check_structure(path: Path, found: Any, expected: Any, what: str) -> None:
    """Check that `found` has the keys of `expected`, at every level; other keys may be there, too."""
    if isinstance(expected, Mapping):
        _expect(path, found, what, dict)
        for key, part in expected.items():
            _check_structure(path, found.get(key), part, f"{what}.{key}")
    elif isinstance(expected, int) and not isinstance(expected, bool):
        _expect(path, found, what, int)


def _try_state(path: Path, callback: pl.Callback, state: Any) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning repeats them when it loads the state
            callback.load_state_dict(copy.deepcopy(state))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"ckpt_path: expected the state of {type(callback).__name__} in {path}, found something else "
            f"({type(error).__name__}: {error}); resume from another checkpoint"
        ) from error
