"""Training that begins with the weights of a checkpoint, and with nothing else of it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from yt8m.build import INSTANCE
from yt8m.checkpoint import WEIGHTS, read_checkpoint, transform_name
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier

log = logging.getLogger(__name__)

MOST_NAMES = 8  # in one line of the log


def init_from(path: Path, classifier: VideoClassifier) -> None:
    """Copy the weights of a checkpoint into the network; of one that averaged them, the average.

    A tensor of another shape, or without a counterpart in the checkpoint, keeps its initial values; the log names it.
    An input transform of the same class takes the checkpoint's values, too, so that the network reads what it was
    trained on; the log warns of another one.

    Args:
        path: the checkpoint of a network of the same class.
        classifier: changed in place.

    Raises:
        ConfigError: the file is no checkpoint, or is damaged, or of another network, or no parameter fits.
    """
    if not path.is_file():
        raise ConfigError(f"init_from: expected a checkpoint, found nothing at {path}")
    try:
        content = read_checkpoint(path)
    except ConfigError as error:
        raise ConfigError(str(error).replace("ckpt_path", "init_from", 1)) from None
    theirs, ours = _network(content["hyper_parameters"]), _network(classifier.hparams)
    if theirs != ours:
        raise ConfigError(
            f"init_from: expected the weights of {ours} in {path}, found those of {theirs}; choose its model"
        )
    found = {
        name.removeprefix(WEIGHTS): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(WEIGHTS)
    }
    own = classifier.model.state_dict()
    fitting = [name for name, tensor in own.items() if name in found and found[name].shape == tensor.shape]
    if not {*fitting} & {name for name, _ in classifier.model.named_parameters()}:
        raise ConfigError(
            f"init_from: expected the weights of this run's {ours} in {path}, found none of the same name and shape; "
            "set the same model and dataset.features"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(found[name])
    fresh = [
        f"{name} {list(tensor.shape)} ({f'there {list(found[name].shape)}' if name in found else 'not there'})"
        for name, tensor in own.items()
        if name not in fitting
    ]
    unused = [f"{name} {list(tensor.shape)}" for name, tensor in found.items() if name not in own]
    log.info(
        "init_from: %d of %d tensors are those of %s%s%s",
        len(fitting),
        len(own),
        path,
        f"; made anew: {_listed(fresh)}" if fresh else "",
        f"; not used: {_listed(unused)}" if unused else "",
    )

    _take_transform(path, content, classifier)
    mark = content["state_dict"].get("segment_mark")
    if (
        classifier.segment_mark is not None
        and mark is not None
        and mark.shape == classifier.segment_mark.shape
    ):
        with torch.no_grad():
            classifier.segment_mark.copy_(mark)


def _take_transform(path: Path, content: Mapping[str, Any], classifier: VideoClassifier) -> None:
    """Give the input transform the checkpoint's values, if it is the same one on the same features."""
    theirs, ours = transform_name(content["hyper_parameters"]), transform_name(classifier.hparams)
    own = {} if classifier.transform is None else classifier.transform.state_dict()
    names = {name: f"transform.{name}" for name in own}
    state = content["state_dict"]
    fits = all(key in state and state[key].shape == own[name].shape for name, key in names.items())
    if theirs != ours or not fits:
        log.warning(
            "init_from: the network of %s reads inputs of transform %s, this run's of %s%s",
            path,
            theirs,
            ours,
            "" if theirs != ours else " on other features",
        )
    elif own:
        classifier.transform.load_state_dict({name: state[key] for name, key in names.items()})


def _network(hparams: Mapping[str, Any]) -> str:
    """The name of the network's class."""
    model = hparams["model"]
    return str(model.get("_target_", model.get(INSTANCE))).rpartition(".")[2]


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
