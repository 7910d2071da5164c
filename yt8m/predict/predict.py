"""Prediction: from checkpoints and shards to a file."""

from pathlib import Path
from typing import Any

from yt8m.errors import ConfigError, require
from yt8m.predict.ensemble import Ensemble, check_same_task, normalized_weights
from yt8m.predict.output import OutputFile
from yt8m.predict.writers import ENDINGS, WRITERS, SegmentsWriter, segment_classes
from yt8m.train.session import lightning_session, make_trainer, restore


@lightning_session()
def predict(config: dict[str, Any]) -> None:
    """Write the predictions of one or more checkpoints on a partition, as `conf/predict.yaml` says.

    Raises:
        ConfigError: an argument is wrong, the checkpoints do not agree, or the output exists.
    """
    paths = config["ckpt_path"] if isinstance(config["ckpt_path"], list) else [config["ckpt_path"]]
    weights = normalized_weights(config["weights"], len(paths))
    if config["format"] == "parquet":
        require("pyarrow", "format=parquet")
    output = Path(config["output"] or f"predictions{ENDINGS[config['format']]}").expanduser().absolute()
    if output.is_dir() or (output.exists() and not config["overwrite"]):
        raise ConfigError(f"output: expected a new file, found one at {output}; set output or overwrite=true")
    if not output.parent.is_dir():
        raise ConfigError(f"output: expected a folder at {output.parent}, found none; make it, or set output")
    folder, trusted = Path(config["output_dir"]), config["trusted_packages"]
    dataset = config["dataset"] | {"predict_partition": config["split"]}
    restored = [restore(path, folder, dataset, trusted) for path in paths]
    _, first, datamodule = restored[0]
    for path, classifier, _ in restored[1:]:
        check_same_task(classifier, first, path, paths[0])

    make, only = WRITERS[config["format"]], None
    if first.hparams.level == "segment" and config["format"] == "csv":
        labels = datamodule.root / Path(config["segment_label_ids"]).expanduser()
        make, only = SegmentsWriter, segment_classes(labels, first.hparams.num_classes)
    writer = OutputFile(output, make, config["top_k"], overwrite=config["overwrite"], only=only)
    ensemble = Ensemble([classifier for _, classifier, _ in restored], weights)
    make_trainer(config, [writer], []).predict(ensemble, datamodule, return_predictions=False)
