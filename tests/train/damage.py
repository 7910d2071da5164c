"""A copy of the sample with damaged records."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from yt8m.datamodules.tfrecord import index

OPTIONS = (
    *("dataset=yt8m_frame", "dataset.num_classes=40", "dataset.max_frames=16", "dataset.on_corrupt=skip"),
    *(f"dataset.{partition}={partition}/*.tfrecord" for partition in ("train", "validate")),
)


def copy_of_sample(tiny_sample: list[str], root: Path) -> list[str]:
    """Copy the sample to `root`; overrides that choose the copy and skip its damaged records."""
    shutil.copytree(tiny_sample[0].partition("=")[2], root)
    return [*OPTIONS, f"dataset.root={root}", "test=false"]


def damage(shard: Path, records: Iterable[int] | slice) -> int:
    """Flip a bit in the middle of some records of a shard; their count."""
    data = np.fromfile(shard, np.uint8)
    places = index(shard)[records if isinstance(records, slice) else list(records)].tolist()
    for offset, size in places:
        data[offset + size // 2] ^= 1
    data.tofile(shard)
    return len(places)
