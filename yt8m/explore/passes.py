"""The two passes over a partition."""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.parse.windows import SEGMENT_FRAMES
from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import ConfigError
from yt8m.explore.statistics import ClassScores, Overview
from yt8m.explore.vectors import Vectors, vectors


class SubsetSampler(BatchSampler):
    """The same records every epoch, in stored order: all of them, or `limit` from shards drawn at random.

    Args:
        shard_sizes, batch_size, seed, window: as for `BatchSampler`.
        limit: at most so many records; None for all.
    """

    def __init__(
        self, shard_sizes: np.ndarray, batch_size: int, limit: int | None, *, seed: int, window: int
    ):
        super().__init__(shard_sizes, batch_size, shuffle=limit is not None, seed=seed, window=window)
        if limit is not None:
            self.num_records = min(limit, self.num_records)

    def shard_order(self) -> np.ndarray:
        return np.unique(np.searchsorted(np.cumsum(self.shard_sizes), self.order(), "right"))

    def order(self) -> np.ndarray:
        return np.sort(super().order()[: self.num_records])


def open_partition(
    datamodule: YT8MDataModule, partition: str, limit: int | None, video: str | None
) -> Loader:
    """A loader of a partition's records, or `limit` of them, whose batches are `Vectors`.

    Args:
        datamodule: knows the shards.
        partition: its name.
        limit: at most so many records; None for all.
        video: id of the video whose frames are kept; None for the first.

    Raises:
        ConfigError: the partition does not exist.
        DataError: a shard is damaged, with `on_corrupt: raise`.
    """
    dataset = datamodule.read(datamodule.shards(partition))
    if dataset.remote:
        dataset.remote.count_all()
    sampler = SubsetSampler(
        dataset.shard_sizes,
        datamodule.batch_size,
        limit,
        seed=datamodule.seed,
        window=datamodule.shuffle_window,
    )
    reduce = partial(vectors, level=dataset.level, wanted=video, quantization=datamodule.quantization)
    return Loader(dataset, sampler, datamodule.num_workers, reduce=reduce)


def two_passes(
    loader: Loader,
    video: str | None,
    top_classes: int,
    seed: int,
    console: Console,
) -> tuple[Overview, ClassScores | None, int]:
    """Run both passes, each with a progress bar; also return the number of skipped records.

    Args:
        loader: as `open_partition` gives for this video; reads the same records in the same order each time.
        video: id of the video whose frames are kept; None for the first.
        top_classes: number of classes that the second pass compares. Without labels there is no second pass.
        seed: of the sample.
        console: shows the progress bars.

    Raises:
        ConfigError: there is no video, or none with the wanted id.
        DataError: a record is damaged or does not fit the configuration.
    """
    dataset = loader.dataset
    overview = Overview(
        dataset.num_classes,
        dataset.feature_size,
        dataset.level,
        SEGMENT_FRAMES if dataset.level == "segment" else dataset.max_frames,
        seed,
    )
    skipped = _pass(loader, overview.add, "counting", console)
    if not overview.videos and overview.unrated:
        raise ConfigError(
            f"dataset.segments: expected rated segments, found none in {overview.unrated:,} videos; set "
            "dataset.segments=all"
        )
    if not overview.videos:
        raise ConfigError(
            f"dataset.on_corrupt: expected videos, found only damaged records ({skipped:,}); "
            "run python -m yt8m.verify to see what is wrong with them"
        )
    if video is not None and overview.video is None and dataset.level != "video":
        raise ConfigError(
            f"video: expected the id of one of the {overview.videos:,} {overview.rows} read, found {video!r}; "
            f"choose another{', such as ID:0' if dataset.level == 'segment' else ''}, or raise limit_videos"
        )
    scores = None
    if overview.label_counts.any():
        scores = ClassScores(overview, overview.top(top_classes), dataset.features)
        _pass(loader, scores.add, "comparing classes", console)
    return overview, scores, skipped + len(dataset.errors)


def _pass(loader: Loader, add: Callable[[Vectors], None], title: str, console: Console) -> int:
    """Call `add` with every batch; return the number of skipped records."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    skipped = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=loader.batch_sampler.num_records)
        for batch in loader:
            add(cast(Vectors, batch))
            skipped += len(batch.errors)
            rows = len(batch) if batch.videos is None else len(set(batch.videos.tolist()))
            progress.advance(task, rows + batch.unrated + len(batch.errors))
        progress.update(task, completed=loader.batch_sampler.num_records)
    return skipped
