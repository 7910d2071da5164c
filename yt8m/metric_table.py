"""The one table of metrics: what a metric is called, which direction is better, how its values are printed.

Training, evaluation, the progress line, the report, and the docs read it. To add a metric, write its class in
`yt8m.metrics` and add a row here. Importing this module does not import torch.
"""

from typing import Literal, NamedTuple

PARTITIONS = ("train", "validate", "test")
#: Prefix of a partition's metrics: `val/gap` is GAP on the partition `validate`.
PREFIX = {"train": "train", "validate": "val", "test": "test"}


TOP_K = 20  # classes of a video: the reference pools this many pairs of each
MAX_SEGMENTS = 100_000  # segments of a class that count in the 2019 challenge


class MetricInfo(NamedTuple):
    """One row of the table.

    Attributes:
        key: name in `metrics.json`, after the prefix: `val/gap`.
        title: name for people.
        mode: whether the best value is the highest or the lowest.
        format: how a value is printed.
        class_name: the class in `yt8m.metrics`; None for the loss, which the configuration chooses.
        level: the only `dataset.level` that has it; None for all.
        segment_title: name for people at `dataset.level=segment`, where another class computes it; None: as elsewhere.
    """

    key: str
    title: str
    mode: Literal["max", "min"]
    format: str
    class_name: str | None
    level: str | None = None
    segment_title: str | None = None

    def title_at(self, level: str | None) -> str:
        """Name for people at a `dataset.level`."""
        return self.segment_title or self.title if level == "segment" else self.title


METRICS = {
    row.key: row
    for row in (
        MetricInfo("gap", "GAP", "max", ".4f", "GAP"),
        MetricInfo("hit1", "Hit@1", "max", ".4f", "HitAtOne"),
        MetricInfo("perr", "PERR", "max", ".4f", "PERR"),
        MetricInfo("map", "mAP", "max", ".4f", "MAP", segment_title="MAP@100,000"),
        MetricInfo("map_top20", "mAP, top 20 of a segment", "max", ".4f", "MAP", level="segment"),
        MetricInfo("loss", "loss", "min", ".4f", None),
    )
}


def metric_of(name: str) -> MetricInfo:
    """The row of a logged value: `val/gap`, `last/val/gap`, and `val/genre_gap` are all GAP. Raises KeyError."""
    return METRICS[name.rpartition("/")[2].removeprefix("genre_")]
