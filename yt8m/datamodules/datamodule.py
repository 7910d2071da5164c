"""YouTube-8M for Lightning: shards found by glob, one loader per partition, a position that can be saved."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import Progress
from torch import distributed

from yt8m.datamodules.dataset import SEGMENT_FRAMES, Batch, ShardDataset
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.sampler import BatchSampler
from yt8m.datamodules.tfrecord import REMEDY
from yt8m.errors import ConfigError
from yt8m.labels import ClassInfo, genre_names, read_vocabulary
from yt8m.metric_table import PARTITIONS

log = logging.getLogger(__name__)

_STAGES = {"fit": ("train", "validate"), "validate": ("validate",), "test": ("test",), None: PARTITIONS}
# Partitions up to this size are read whole before training starts; of larger ones, each shard's first record.
_PREFLIGHT_BYTES = 256 << 20


class YT8MDataModule(pl.LightningDataModule):
    """Partitions of TFRecord shards under one root.

    Args:
        root: folder of the dataset; `~` is expanded.
        train, validate, test: glob patterns relative to `root`; None where there is no such partition.
        level: `frame`, `video` or `segment`.
        features: the record's feature keys and their sizes, in the order in which they stand side by side.
        num_classes: labels of the data; one outside 0…num_classes-1 is an error.
        id_key: the record's key of the video id (`video_id` in 2017's shards and in AudioSet).
        max_frames: longer videos are cut.
        batch_size: videos per step and device.
        num_workers: reader processes per loader; 0 reads in the training process.
        on_corrupt: `raise`, or `skip` to drop, count and report damaged records.
        shuffle_window: shards whose records are mixed with each other (see `BatchSampler`).
        pad_to: `longest` video of the batch, or `max` for `max_frames` (static shapes).
        vocabulary: CSV of class names and verticals, relative to `root`.
        target: what is learnt, `label` or `vertical` (the genres of the labels, from the vocabulary).
        limit_shards, limit_videos: only the first so many of each partition; None takes all.
        bucket_by_length: train on batches of videos of like length, which cuts padding (see `BatchSampler`).
        seed: seed of the epochs' orders.

    Raises:
        ConfigError: an option that is none, a missing folder, a glob without a match.
        DataError: at `setup`, for shards that are damaged or do not fit the arguments.
    """

    def __init__(
        self,
        *,
        root: str,
        features: dict[str, int],
        num_classes: int,
        train: str | None = None,
        validate: str | None = None,
        test: str | None = None,
        level: str = "frame",
        id_key: str = "id",
        max_frames: int = 300,
        batch_size: int = 128,
        num_workers: int = 2,
        on_corrupt: str = "raise",
        shuffle_window: int = 8,
        pad_to: str = "longest",
        vocabulary: str | None = None,
        target: str = "label",
        limit_shards: int | None = None,
        limit_videos: int | None = None,
        bucket_by_length: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        for key, value, choices in (
            ("level", level, ("frame", "video", "segment")),
            ("on_corrupt", on_corrupt, ("raise", "skip")),
            ("pad_to", pad_to, ("longest", "max")),
            ("target", target, ("label", "vertical")),
        ):
            if value not in choices:
                raise ConfigError(f"dataset.{key}: expected one of {', '.join(choices)}, found {value!r}")
        for key, value in (("limit_shards", limit_shards), ("limit_videos", limit_videos)):
            if value is not None and value < 1:
                raise ConfigError(f"dataset.{key}: expected 1 or more, or null for all, found {value}")
        if bucket_by_length and level == "video":
            raise ConfigError(
                "dataset.bucket_by_length: expected frame-level data, found dataset.level=video"
            )
        if num_workers < 0:
            raise ConfigError(f"dataset.num_workers: expected 0 or more, found {num_workers}")
        self.root = Path(root).expanduser()
        self.globs = {"train": train, "validate": validate, "test": test}
        self.level, self.features, self.num_classes = level, dict(features), num_classes
        self.id_key, self.max_frames, self.on_corrupt = id_key, max_frames, on_corrupt
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.shuffle_window, self.pad_to = shuffle_window, pad_to
        self.limit_shards, self.limit_videos = limit_shards, limit_videos
        self.bucket_by_length = bucket_by_length
        self.vocabulary, self.target = self.root / vocabulary if vocabulary else None, target
        self.read_only = False  # `prepare_data` writes nothing: for a root that only a checkpoint names
        self.predicted = "test"  # the partition that `trainer.predict` reads
        self.datasets: dict[str, ShardDataset] = {}
        self._faults: set[str] = set()  # places of the records that were skipped, as errors name them
        self._loaders: dict[str, Loader] = {}
        self._resume: dict[str, Any] | None = None
        self._copying: deque[tuple[torch.cuda.Event, Batch]] = deque()

    def setup(self, stage: str | None = None) -> None:
        """Index the shards of the stage's partitions and try their records."""
        for partition in self._partitions(stage):
            if partition not in self.datasets:
                self.datasets[partition] = self._open(partition)

    def shards(self, partition: str) -> list[Path]:
        """The shard files of a partition, sorted by name."""
        pattern = self.globs[partition]
        if pattern is None:
            raise ConfigError(
                f"dataset.{partition}: this dataset has no such partition; set a glob of its shards"
            )
        if not self.root.is_dir():
            raise ConfigError(
                f"dataset.root: expected the dataset's folder, found nothing at {self.root}; set dataset.root"
            )
        paths = sorted(path for path in self.root.glob(pattern) if path.is_file())
        if not paths:
            raise ConfigError(
                f"dataset.{partition}: expected shards at {self.root / pattern}, found none; "
                f"set dataset.root or dataset.{partition}"
            )
        return paths

    def read(self, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> ShardDataset:
        """Shards as this dataset's configuration has them; `progress` as `ShardDataset` takes it."""
        return ShardDataset(
            paths,
            self.features,
            self.num_classes,
            level=self.level,
            id_key=self.id_key,
            max_frames=self.max_frames,
            on_corrupt=self.on_corrupt,
            progress=progress,
        )

    def max_row_frames(self) -> int:
        """Frames of the longest row that a batch can have: a video, or a segment of one."""
        return SEGMENT_FRAMES if self.level == "segment" else self.max_frames

    def classes(self) -> list[ClassInfo] | None:
        """The vocabulary; None where there is none of these labels."""
        self.prepare_data()  # the sample writes its own
        if self.vocabulary is None or not self.vocabulary.is_file():
            return None
        classes = read_vocabulary(self.vocabulary)
        if len(classes) == self.num_classes:
            return classes
        log.warning(
            "dataset.vocabulary: expected %d classes, found %d in %s; results will have numbers for names",
            self.num_classes,
            len(classes),
            self.vocabulary,
        )
        return None

    def num_targets(self) -> int:
        """C, the outputs of a classifier: as many as labels, or as genres."""
        if self.target == "label":
            return self.num_classes
        genres = genre_names([info.verticals for info in self.classes() or ()])
        if not genres:
            raise ConfigError(
                f"dataset.target: vertical needs a vocabulary of {self.num_classes} classes with verticals, found "
                f"none at {self.vocabulary or self.root}; set dataset.vocabulary, or dataset.target=label"
            )
        return len(genres)

    def train_dataloader(self) -> Loader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> Loader:
        return self._loader("validate", shuffle=False)

    def test_dataloader(self) -> Loader:
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> Loader:
        return self._loader(self.predicted, shuffle=False)

    def teardown(self, stage: str | None = None) -> None:
        """End the stage's reader processes."""
        for partition in self._partitions(stage):
            if partition in self._loaders:
                self._loaders.pop(partition).close()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        self._note(batch.faults)
        moved = batch.to(device, non_blocking=True)
        if device.type == "cuda":
            # The GPU copies when it comes to it. Until then the source must live: dropped, its buffer is refilled.
            done = torch.cuda.Event()
            done.record()
            self._copying.append((done, batch))
            while self._copying and self._copying[0][0].query():
                self._copying.popleft()
        return moved

    def skipped(self) -> dict[str, int]:
        """How many records each damaged shard has lost so far, over all ranks; with `on_corrupt: skip`."""
        return dict(Counter(place.rpartition(" @ byte ")[0] for place in self._skipped_places()))

    def _skipped_places(self) -> list[str]:
        places = self._faults
        if distributed.is_available() and distributed.is_initialized():
            of_ranks: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(of_ranks, places)
            places = set().union(*of_ranks)
        return sorted(places)

    def _note(self, faults: list[str]) -> None:
        """Keep the place of each fault once, also when the next epoch meets it again, and report it."""
        for fault in faults:
            place = fault.partition(": ")[0]
            if place not in self._faults:
                self._faults.add(place)
                log.warning("skipped: %s", fault.removesuffix(f"; {REMEDY}"))

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: the epoch and the batch to go on with, what its order depends on, what was skipped."""
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        started = loop.epoch_progress.current.ready
        if progress.is_last_batch:
            position = {"epoch": started, "batch": 0}
        else:
            position = {"epoch": started - 1, "batch": progress.current.ready}
        return position | {"order": self._order(), "skipped": self._skipped_places()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training go on where the checkpoint's stopped."""
        self._resume = state_dict
        self._faults.update(state_dict.get("skipped", ()))

    def _partitions(self, stage: str | None) -> list[str]:
        if stage == "predict":
            return [self.predicted]
        return [partition for partition in _STAGES[stage] if self.globs[partition]]

    def _open(self, partition: str) -> ShardDataset:
        paths = self.shards(partition)[: self.limit_shards]
        with Progress(console=Console(stderr=True), transient=True, disable=len(paths) < 100) as bar:
            task = bar.add_task(f"indexing {partition}", total=len(paths))
            dataset = self.read(paths, lambda done, _: bar.update(task, completed=done))
        self._note(dataset.faults)
        if self.on_corrupt == "raise":
            self._preflight(dataset)
        log.info("%s: %s records in %s shards", partition, f"{len(dataset):,}", f"{len(dataset.paths):,}")
        if self.limit_videos is not None and self.limit_videos < len(dataset):
            log.info(
                "%s: the first %s records are used (dataset.limit_videos)",
                partition,
                f"{self.limit_videos:,}",
            )
        return dataset

    def _preflight(self, dataset: ShardDataset) -> None:
        """Read records before training, so that what does not fit is told now and not hours later."""
        if sum(os.path.getsize(path) for path in dataset.paths) <= _PREFLIGHT_BYTES:
            numbers = range(len(dataset))
        else:
            first = np.cumsum(dataset.shard_sizes) - dataset.shard_sizes
            numbers = first[dataset.shard_sizes > 0].tolist()
        for begin in range(0, len(numbers), 64):
            dataset.__getitems__(list(numbers[begin : begin + 64]))

    def _shard_sizes(self, partition: str) -> np.ndarray:
        """Records to draw from each shard, int64 `[S]`: all, or the first `limit_videos` of the partition."""
        sizes = self.datasets[partition].shard_sizes
        if self.limit_videos is None:
            return sizes
        return np.diff(np.minimum(np.cumsum(sizes), self.limit_videos), prepend=0)

    def _order(self) -> dict[str, Any]:
        """What the order of an epoch is a function of, beside the epoch."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size * self.trainer.world_size,
            "shuffle_window": self.shuffle_window,
            "bucket_by_length": self.bucket_by_length,
            "records": int(self._shard_sizes("train").sum()),
        }

    def _loader(self, partition: str, *, shuffle: bool) -> Loader:
        dataset = self.datasets[partition]
        sampler = BatchSampler(
            self._shard_sizes(partition),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            window=self.shuffle_window,
            lengths=dataset.record_sizes if shuffle and self.bucket_by_length else None,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        if partition == "train" and self._resume:
            self._resume_at(sampler, self._resume)
        loader = self._loaders[partition] = Loader(dataset, sampler, self.num_workers)
        return loader

    def _resume_at(self, sampler: BatchSampler, state: dict[str, Any]) -> None:
        order = self._order()
        if state["batch"]:
            for key, then in state["order"].items():
                if then != order[key]:
                    raise ConfigError(
                        f"ckpt_path: the checkpoint lies inside an epoch whose order depends on {key} = {then}, "
                        f"found {order[key]}; set it back, or go on from a checkpoint of an epoch's end"
                    )
        sampler.start_at(state["epoch"], state["batch"])
