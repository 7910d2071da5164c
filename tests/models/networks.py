"""Every network of `conf/model`, found by listing the folder."""

import inspect
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))
STUDY = [
    model
    for model in MODELS
    if model.removeprefix("keras_") in ("nn", "bi_lstm", "stream_lstm", "nn_stream_lstm")
]
SMALLEST = 0.01  # a width that every network offers, at which it is quick
CLASSES = 20


def config(model: str) -> dict[str, Any]:
    """The content of `conf/model/MODEL.yaml`."""
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{model}.yaml"), resolve=True)


def model_class(model: str) -> type[nn.Module]:
    return get_class(config(model)["_target_"])


def arguments(model: str) -> dict[str, Any]:
    """A network's own arguments and their defaults: those of its constructor but for features and classes."""
    parameters = dict(inspect.signature(model_class(model)).parameters)
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("feature_sizes", "num_classes")
    }


def build(model: str, feature_sizes: dict[str, int], seed: int = 0, **arguments: Any) -> nn.Module:
    """A network at its smallest width, in evaluation mode."""
    torch.manual_seed(seed)
    arguments = {"num_classes": CLASSES, "width": SMALLEST, **arguments}
    return model_class(model)(feature_sizes=feature_sizes, **arguments).eval()
