"""From a checkpoint's file to its classifier and its data; and whether two classifiers can stand in for each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yt8m.build import build
from yt8m.checkpoint import find_checkpoint, read_checkpoint, run_config
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.errors import ConfigError
from yt8m.inputs import check_context
from yt8m.module import VideoClassifier

#: Hyperparameters that say which data a checkpoint reads; and what a row of them is.
SAME_DATA = ("num_classes", "target", "feature_sizes", "quantization")
SAME_ROWS = ("level", "max_frames", "context")


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
    check_context(datamodule.context, classifier.model)
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


def check_same_task(
    classifier: VideoClassifier,
    first: VideoClassifier,
    path: Path,
    first_path: str,
    setting: str = "ckpt_path",
    keys: Sequence[str] = (*SAME_DATA, *SAME_ROWS),
) -> None:
    """Raise ConfigError unless two checkpoints read the same input and mean the same by a class.

    Args:
        classifier, first: the classifiers.
        path, first_path: their checkpoints, for the message.
        setting: the configuration's key that names the checkpoint, for the message.
        keys: of the hyperparameters in which they have to agree.
    """
    for key in keys:
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
