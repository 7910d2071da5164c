"""Prediction: from checkpoints and shards to a file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from yt8m.errors import ConfigError, require
from yt8m.files import write_json
from yt8m.labels import read_segment_classes
from yt8m.predict.combine import Combined, video_classifiers
from yt8m.predict.ensemble import Ensemble, normalized_weights, restore_all
from yt8m.predict.output import OutputFile
from yt8m.predict.segments import SegmentsWriter
from yt8m.predict.weights import fit_weights
from yt8m.predict.writers import ENDINGS, WRITERS, Writer
from yt8m.train.session import lightning_session, make_trainer


@lightning_session()
def predict(config: dict[str, Any]) -> None:
    """Write the predictions of one or more checkpoints on a partition, as `conf/predict.yaml` says.

    Raises:
        ConfigError: an argument is wrong, the checkpoints do not agree, or the output exists.
    """
    if config["video"] is not None:
        from yt8m.predict.video import predict_video  # which needs optional packages

        predict_video(config)
        return
    if isinstance(config["weights"], str) and config["weights"] != "fit":
        raise ConfigError(
            f"weights: expected positive numbers, one per checkpoint, or fit, found {config['weights']}; set video "
            "for a folder of weight files"
        )
    count = len(config["ckpt_path"]) if isinstance(config["ckpt_path"], list) else 1
    weights = normalized_weights(config["weights"], count)
    if config["format"] == "parquet":
        require("pyarrow", "format=parquet")
    output = Path(config["output"] or f"predictions{ENDINGS[config['format']]}").expanduser().absolute()
    if output.is_dir() or (output.exists() and not config["overwrite"]):
        raise ConfigError(f"output: expected a new file, found one at {output}; set output or overwrite=true")
    if not output.parent.is_dir():
        raise ConfigError(f"output: expected a folder at {output.parent}, found none; make it, or set output")
    fitted = output.with_name(f"{output.name}.weights.json") if config["weights"] == "fit" else None
    if fitted and fitted.exists() and not config["overwrite"]:
        raise ConfigError(f"output: expected a new file, found one at {fitted}; set output or overwrite=true")
    dataset = config["dataset"] | {"predict_partition": config["split"]}
    paths, classifiers, datamodule = restore_all(config, Path(config["output_dir"]), dataset)
    first = classifiers[0]

    make: Callable[..., Writer] = WRITERS[config["format"]]
    every = None
    if datamodule.level == "segment" and config["format"] == "csv":
        every = [*range(first.hparams.num_classes)]
        if first.hparams.target == "label":
            name = config["segment_label_ids"]
            labels = datamodule.storage.file(name) or Path(str(datamodule.root), name)
            every = read_segment_classes(labels, len(every))
        make = partial(SegmentsWriter, classes=every)
    genres = WRITERS[config["format"]].lists_genres
    writer = OutputFile(
        output, make, config["top_k"], overwrite=config["overwrite"], every=every, genres=genres
    )
    videos = video_classifiers(config, paths, first, datamodule)
    record: dict[str, Any] = {"ckpt_path": [*map(str, paths)], "weights": weights}
    if fitted:
        record |= fit_weights(config, paths, classifiers)
    trainer = make_trainer(config, [writer], [])
    ensemble = Ensemble(classifiers, record["weights"])
    if videos:
        weights = record["weights"] if config["video_ckpt_path"] is None else [1 / len(videos)] * len(videos)
        ensemble = Combined(ensemble, Ensemble(videos, weights), config["combine"])
    trainer.predict(ensemble, datamodule, return_predictions=False)
    if fitted and trainer.is_global_zero:
        write_json(fitted, record)
