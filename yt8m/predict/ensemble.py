"""Several classifiers that predict as one."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.errors import ConfigError
from yt8m.inputs import Inputs
from yt8m.module import VideoClassifier
from yt8m.restore import check_same_task, restore

#: A transform's arguments; its and the segment mark's values; how frames are padded.
Conversion = tuple[str, bytes, str]


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
    def members(self) -> list[VideoClassifier]:
        return cast(list[VideoClassifier], [*self.classifiers])

    @property
    def first(self) -> VideoClassifier:
        return self.members[0]

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Probabilities, float32 `[B, C]`; None for an empty batch."""
        if not len(batch):
            return None
        if batch.first is None:
            return self.mean(self.scores(batch))
        # With context, a batch's rows have several times the frames of its videos.
        rows = max(len(batch.features) // batch.longest, 1)
        return torch.cat([self.mean(self.scores(part)) for part in batch.split(rows)])

    def mean(self, scores: Iterable[Tensor]) -> Tensor:
        """The weighted mean of the classifiers' probabilities, one `[B, C]` for each."""
        if len(self.weights) == 1:
            (only,) = scores
            return only
        return cast(Tensor, sum(weight * one for weight, one in zip(self.weights, scores, strict=True)))

    def scores(self, batch: Batch) -> Iterator[Tensor]:
        """The probabilities of each classifier, float32 `[B, C]`, one after the other."""
        inputs: dict[Conversion, Inputs] = {}  # computed once for all classifiers that convert alike
        for classifier, key in zip(self.members, self._conversions, strict=True):
            if key not in inputs:
                pairs = zip(self.members, self._conversions, strict=True)
                alike = [one for one, conversion in pairs if conversion == key]
                inputs[key] = classifier.inputs(
                    batch,
                    video=any(one.needs_video for one in alike),
                    frames=any(one.needs_frames for one in alike),
                )
            yield classifier(*inputs[key]).float().sigmoid()


def _conversion(classifier: VideoClassifier) -> Conversion:
    """What a classifier's inputs depend on, besides what `check_same_task` compares."""
    transform = classifier.transform
    values = {} if transform is None else transform.state_dict()
    content = b"".join(tensor.cpu().numpy().tobytes() for tensor in values.values())
    mark = classifier.segment_mark
    content += b"" if mark is None else mark.detach().cpu().numpy().tobytes()
    return repr(classifier.hparams.get("transform")), content, classifier.hparams.pad_to


def normalized_weights(weights: list[float] | Literal["fit"] | None, count: int) -> list[float]:
    """Weights of `count` checkpoints that sum to 1; equal ones for None, and for `fit` to begin with.

    Raises:
        ConfigError: there is another number of weights, or a single checkpoint to fit.
    """
    if weights == "fit":
        if count == 1:
            raise ConfigError("weights: expected two checkpoints or more to fit, found 1; leave out weights")
        weights = None
    weights = weights or [1.0] * count
    if len(weights) != count:
        raise ConfigError(f"weights: expected {count} positive numbers, one per checkpoint, found {weights}")
    return [weight / sum(weights) for weight in weights]


def restore_all(
    config: dict[str, Any], folder: Path, dataset: dict[str, Any]
) -> tuple[list[Path], list[VideoClassifier], YT8MDataModule]:
    """The checkpoints of `ckpt_path`, their classifiers, which agree, and the data module of the first.

    Args:
        config: the command's, with `ckpt_path`, one or a list, and `trusted_packages`.
        folder: see `yt8m.restore.restore`.
        dataset: settings of the dataset that replace those in the first checkpoint.

    Raises:
        ConfigError: one is no checkpoint, or they do not agree.
    """
    names = config["ckpt_path"] if isinstance(config["ckpt_path"], list) else [config["ckpt_path"]]
    restored = [restore(name, folder, dataset, config["trusted_packages"]) for name in names]
    paths, classifiers = [path for path, _, _ in restored], [classifier for _, classifier, _ in restored]
    for path, classifier in zip(paths[1:], classifiers[1:], strict=True):
        check_same_task(classifier, classifiers[0], path, names[0])
    return paths, classifiers, restored[0][2]
