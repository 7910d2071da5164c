"""Several classifiers that predict as one."""

from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.inputs import Inputs
from yt8m.module import VideoClassifier

Conversion = tuple[str, bytes, str]  # a transform's arguments and values, and how frames are padded


class Ensemble(pl.LightningModule):
    """The weighted mean of classifiers' probabilities.

    Args:
        classifiers: one or more, which read the same features and agree on the classes (`check_same_task`).
        weights: one per classifier; they sum to 1.
    """

    def __init__(self, classifiers: list[VideoClassifier], weights: list[float]):
        super().__init__()
        self.classifiers, self.weights = torch.nn.ModuleList(classifiers), weights
        self._conversions = [_conversion(classifier) for classifier in classifiers]

    @property
    def first(self) -> VideoClassifier:
        return cast(VideoClassifier, self.classifiers[0])

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Probabilities, float32 `[B, C]`; None for an empty batch."""
        if not len(batch):
            return None
        inputs: dict[Conversion, Inputs] = {}  # computed once for all classifiers that convert alike
        scores = None
        classifiers = cast(list[VideoClassifier], [*self.classifiers])
        for classifier, key, weight in zip(classifiers, self._conversions, self.weights, strict=True):
            if key not in inputs:
                pairs = zip(classifiers, self._conversions, strict=True)
                alike = [one for one, conversion in pairs if conversion == key]
                inputs[key] = classifier.inputs(
                    batch,
                    video=any(one.needs_video for one in alike),
                    frames=any(one.needs_frames for one in alike),
                )
            share = weight * classifier(*inputs[key]).float().sigmoid()
            scores = share if scores is None else scores + share
        return scores


def _conversion(classifier: VideoClassifier) -> Conversion:
    """What a classifier's inputs depend on, besides what `check_same_task` compares."""
    transform = classifier.transform
    values = {} if transform is None else transform.state_dict()
    content = b"".join(tensor.cpu().numpy().tobytes() for tensor in values.values())
    return repr(classifier.hparams.get("transform")), content, classifier.hparams.pad_to


def normalized_weights(weights: list[float] | None, count: int) -> list[float]:
    """Weights of `count` checkpoints that sum to 1; equal ones for None. Raises ConfigError."""
    weights = weights or [1.0] * count
    if len(weights) != count:
        raise ConfigError(f"weights: expected {count} positive numbers, one per checkpoint, found {weights}")
    return [weight / sum(weights) for weight in weights]


def check_same_task(
    classifier: VideoClassifier,
    first: VideoClassifier,
    path: Path,
    first_path: str,
    setting: str = "ckpt_path",
) -> None:
    """Raise ConfigError unless two checkpoints read the same input and mean the same by a class.

    Args:
        classifier, first: the classifiers.
        path, first_path: their checkpoints, for the message.
        setting: the configuration's key that names the first checkpoint, for the message.
    """
    for key in ("num_classes", "target", "level", "feature_sizes", "max_frames", "quantization"):
        expected, found = first.hparams[key], classifier.hparams[key]
        # The order of the features is the order of their columns.
        if expected != found or (key == "feature_sizes" and list(expected) != list(found)):
            raise ConfigError(
                f"{setting}: expected checkpoints that agree, found {key} = {found} in {path} and {expected} "
                f"in {first_path}"
            )
    names = [[info.name for info in one.classes()] for one in (first, classifier)]
    if names[0] != names[1]:
        raise ConfigError(
            f"{setting}: expected checkpoints that agree, found other class names in {path} than in {first_path}"
        )
