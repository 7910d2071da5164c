"""The one table of metrics: what a metric is called, which direction is better, how its values are printed.

Training, evaluation, the progress line, the report, and the docs read it. To add a metric, write its class in
`yt8m.metrics` and add a row here. Importing this module does not import torch.
"""

from typing import Literal, NamedTuple

PARTITIONS = ("train", "validate", "test")
#: Prefix of a partition's metrics: `val/gap` is GAP on the partition `validate`.
PREFIX = {"train": "train", "validate": "val", "test": "test"}


class MetricInfo(NamedTuple):
    """One row of the table.

    Attributes:
        key: name in `metrics.json`, after the prefix: `val/gap`.
        title: name for people.
        mode: whether the best value is the highest or the lowest.
        format: how a value is printed.
        class_name: the class in `yt8m.metrics`; None for the loss, which the configuration chooses.
    """

    key: str
    title: str
    mode: Literal["max", "min"]
    format: str
    class_name: str | None


METRICS = {
    row.key: row
    for row in (
        MetricInfo("gap", "GAP", "max", ".4f", "GAP"),
        MetricInfo("hit1", "Hit@1", "max", ".4f", "HitAtOne"),
        MetricInfo("perr", "PERR", "max", ".4f", "PERR"),
        MetricInfo("map", "mAP", "max", ".4f", "MAP"),
        MetricInfo("loss", "loss", "min", ".4f", None),
    )
}


def metric_of(name: str) -> MetricInfo:
    """The row of a logged value: `val/gap`, `last/val/gap`, and `val/genre_gap` are all GAP. Raises KeyError."""
    return METRICS[name.rpartition("/")[2].removeprefix("genre_")]
