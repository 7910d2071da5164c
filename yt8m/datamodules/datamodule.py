"""YouTube-8M for Lightning: shards found by glob, one loader per partition, a position that can be saved."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import Progress

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.loader import DeviceCopies, Loader
from yt8m.datamodules.parse.windows import SEGMENT_FRAMES, Context
from yt8m.datamodules.partition import fingerprint, is_checked, keep_check
from yt8m.datamodules.position import position, resume_at, step_size
from yt8m.datamodules.preflight import read_sample
from yt8m.datamodules.quantization import RANGE
from yt8m.datamodules.ranks import gather
from yt8m.datamodules.sampler import BatchSampler
from yt8m.datamodules.shards import find_shards
from yt8m.datamodules.streaming import StreamingSampler
from yt8m.datamodules.tfrecord import REMEDY
from yt8m.datamodules.turns import one_at_a_time
from yt8m.errors import ConfigError
from yt8m.labels import SEGMENT_LABEL_IDS, ClassInfo, genre_names, read_segment_classes, read_vocabulary
from yt8m.metric_table import PARTITIONS
from yt8m.schema import Dataset, check
from yt8m.storage.shard import RemoteShard
from yt8m.storage.storage import Storage

log = logging.getLogger(__name__)

_STAGES = {"fit": ("train", "validate"), "validate": ("validate",), "test": ("test",), None: PARTITIONS}


class YT8MDataModule(pl.LightningDataModule):
    """Partitions of TFRecord shards below one root.

    Args:
        root: folder of the dataset; `~` is expanded. Or an address such as `s3://bucket/yt8m`.
        features: the record's feature keys and their sizes, in the order of their columns.
        num_classes: labels of the data; one outside 0…num_classes-1 is an error.
        train, validate, test: globs of the shards, relative to `root` or absolute; None if there is no such partition.
        level: `frame`, `video` or `segment`.
        dtype: how frames are stored, `uint8` or `float32`; video-level features are always float32.
        quantization: (min, max) of features stored as uint8.
        id_key: the record's key of the video id (`video_id` in 2017's shards and in AudioSet).
        max_frames: longer videos are cut.
        batch_size: videos per step and device.
        num_workers: reader processes per loader; 0 reads in the training process.
        on_corrupt: `raise`, or `skip` to drop, count, and report damaged records.
        shuffle_window: number of shards whose records are mixed with each other (see `BatchSampler`).
        pad_to: `longest` video of the batch, or `max` for `max_frames` (static shapes).
        vocabulary: CSV of class names and verticals, relative to `root`.
        target: what to predict, `label` or `vertical` (the genres of the labels, from the vocabulary).
        limit_shards, limit_videos: use only the first ones of each partition; None uses all.
        bucket_by_length: train on batches of videos of similar length, which cuts padding (see `BatchSampler`).
        segments: `rated` ones, or `all`; None: rated to train and evaluate, all to predict.
        context: frames before and after a segment that its network sees, too, or `video` for all of them.
        seed: seed of the epochs' orders.
        predict_partition: the partition that `trainer.predict` reads.
        manifest, cache_dir, cache_limit: of a remote root, see `yt8m.storage.storage.Storage`.

    Raises:
        ConfigError: an argument is invalid, or (from `setup`) a folder is missing or a glob has no match.
        DataError: from `setup`, for shards that are damaged or do not fit the arguments.
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
        dtype: str = "uint8",
        quantization: Sequence[float] = RANGE,
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
        segments: str | None = None,
        context: Context = 0,
        seed: int = 0,
        predict_partition: str = "test",
        manifest: str | None = None,
        cache_dir: str | None = None,
        cache_limit: str | int | None = None,
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        arguments |= {"root": os.fspath(root), "quantization": [*quantization]}
        check(Dataset, arguments, prefix="dataset.")
        if bucket_by_length and level == "video":
            raise ConfigError(
                "dataset.bucket_by_length: expected frame-level data, found dataset.level=video"
            )
        if level != "segment" and (segments or context):
            key = "segments" if segments else "context"
            raise ConfigError(f"dataset.{key}: expected dataset.level=segment with it, found {level}; set it")
        low, high = quantization
        if low >= high:
            raise ConfigError(f"dataset.quantization: expected [min, max], found [{low}, {high}]")
        self.storage = Storage(root, manifest, cache_dir, cache_limit)
        self.root = self.storage.root
        self.globs = {"train": train, "validate": validate, "test": test}
        self.level, self.features, self.num_classes = level, dict(features), num_classes
        self.dtype, self.quantization = dtype, (float(low), float(high))
        self.id_key, self.max_frames, self.on_corrupt = id_key, max_frames, on_corrupt
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.shuffle_window, self.pad_to = shuffle_window, pad_to
        self.limit_shards, self.limit_videos = limit_shards, limit_videos
        self.bucket_by_length, self.segments, self.context = bucket_by_length, segments, context
        self.vocabulary, self.target, self.predict_partition = vocabulary, target, predict_partition
        self.read_only = False  # `prepare_data` writes nothing: for a root that only a checkpoint names
        self.datasets: dict[str, ShardDataset] = {}
        self._skipped_records: set[str] = set()  # locations of skipped records, as errors name them
        self._slow_records: Counter[str] = Counter()  # by partition, of loaders that were closed
        self._unrated: Counter[str] = Counter()  # likewise
        self._loaders: dict[str, Loader] = {}
        self._copies = DeviceCopies()
        self._train_sampler: BatchSampler | None = None
        self._resume: dict[str, Any] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Index the shards of the stage's partitions and read some of their records. Does nothing the second time."""
        segments = self._segments(stage)
        for partition in self._partitions(stage):
            if partition not in self.datasets or self.datasets[partition].segments != segments:
                self.datasets[partition] = self._open(partition, segments)

    def shards(self, partition: str) -> list[Path] | list[RemoteShard]:
        """The shards of a partition, sorted by name.

        Raises:
            ConfigError: the dataset has no such partition, or no shards are found.
        """
        pattern = self.globs[partition]
        if pattern is None:
            raise ConfigError(
                f"dataset.{partition}: this dataset has no such partition; set a glob of its shards"
            )
        if self.storage.is_remote(pattern):
            return self.storage.find(pattern, f"dataset.{partition}", self.shuffle_window)
        root = self.root if isinstance(self.root, Path) else Path("/")
        return find_shards(root, pattern, f"dataset.{partition}")

    def read(
        self,
        paths: Sequence[Path | RemoteShard],
        progress: Callable[[int, int], None] | None = None,
        segments: str | None = None,
        context: Context = 0,
    ) -> ShardDataset:
        """A dataset of these shards, configured as this data module; the rest as `ShardDataset` takes it."""
        return ShardDataset(
            paths,
            self.features,
            self.num_classes,
            level=self.level,
            id_key=self.id_key,
            max_frames=self.max_frames,
            on_corrupt=self.on_corrupt,
            progress=progress,
            dtype=self.dtype,
            window=self.shuffle_window,
            segments=segments or self.segments or "rated",
            context=context,
        )

    def max_row_frames(self) -> int:
        """The most frames that a row of a batch can have: of a video, or of a segment with its context."""
        if self.level != "segment" or self.context == "video":
            return self.max_frames
        return min(SEGMENT_FRAMES + 2 * self.context, self.max_frames)

    def segment_classes(self) -> list[int] | None:
        """At segment level the classes in `segment_label_ids.csv`; None without that file, and for genres."""
        of_labels = self.level == "segment" and self.target == "label"
        path = self.storage.file(SEGMENT_LABEL_IDS) if of_labels else None
        return None if path is None else read_segment_classes(path, self.num_classes)

    def classes(self) -> list[ClassInfo] | None:
        """The vocabulary; None if there is none, or not of these classes. Call `prepare_data` first."""
        path = self.storage.file(self.vocabulary) if self.vocabulary else None
        if path is None:
            return None
        classes = read_vocabulary(path)
        if len(classes) == self.num_classes:
            return classes
        log.warning(
            "dataset.vocabulary: expected %d classes, found %d in %s; results will show numbers instead of names",
            self.num_classes,
            len(classes),
            path,
        )
        return None

    def num_targets(self) -> int:
        """C, the outputs of a classifier: the number of labels, or of genres."""
        if self.target == "label":
            return self.num_classes
        genres = genre_names([info.verticals for info in self.classes() or ()])
        if not genres:
            raise ConfigError(
                f"dataset.target: vertical needs a vocabulary of {self.num_classes} classes with verticals, found "
                f"none at {self.root / (self.vocabulary or '')}; set dataset.vocabulary, or dataset.target=label"
            )
        return len(genres)

    def train_dataloader(self) -> Loader:
        # Overfitting means the same batches in every epoch.
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0
        return self._loader("train", shuffle=not overfit)

    def training_sample(self, limit: int | None) -> Iterator[Batch]:
        """This rank's share of the training partition, or of `limit` of its records drawn by the seed; each once."""
        sampler = self._sampler("train", shuffle=True)
        if limit is not None:
            sampler.num_records = min(max(limit, sampler.world_size), sampler.num_records)
        loader = Loader(self.datasets["train"], sampler, self.num_workers, "train")
        try:
            yield from loader
        finally:
            loader.close()

    def val_dataloader(self) -> Loader:
        return self._loader("validate", shuffle=False)

    def test_dataloader(self) -> Loader:
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> Loader:
        return self._loader(self.predict_partition, shuffle=False)

    def teardown(self, stage: str | None = None) -> None:
        """Stop the stage's reader processes."""
        for partition in self._partitions(stage):
            if partition in self._loaders:
                loader = self._loaders.pop(partition)
                loader.close()
                self._slow_records[partition] = max(self._slow_records[partition], loader.slow_records)
                self._unrated[partition] = max(self._unrated[partition], loader.unrated)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        self._record_errors(batch.errors)
        return self._copies.move(batch, device)

    def skipped(self) -> dict[str, int]:
        """How many records of each damaged shard were skipped so far, over all ranks; with `on_corrupt: skip`."""
        return dict(Counter(place.rpartition(" @ byte ")[0] for place in self._all_skipped_records()))

    def slow_records(self) -> int:
        """How many records of one pass over all partitions had to be parsed one by one, over all ranks."""
        slow = self._slow_records | Counter({name: one.slow_records for name, one in self._loaders.items()})
        return sum(of_rank.total() for of_rank in gather(slow))

    def unrated_videos(self) -> dict[str, int]:
        """How many videos of each partition had no rated segment in one pass over it, over all ranks."""
        mine = self._unrated | Counter({name: one.unrated for name, one in self._loaders.items()})
        return dict(sum(gather(mine), Counter()))

    def _all_skipped_records(self) -> list[str]:
        return sorted(set().union(*gather(self._skipped_records)))

    def _record_errors(self, errors: list[str]) -> None:
        """Log each skipped record once, also if the next epoch meets it again."""
        for error in errors:
            location = error.partition(": ")[0]
            if location not in self._skipped_records:
                self._skipped_records.add(location)
                log.warning("skipped: %s", error.removesuffix(f"; {REMEDY}"))

    def state_dict(self) -> dict[str, Any]:
        """Position of the training, what its order depends on, and what was skipped."""
        place = position(cast(pl.Trainer, self.trainer), self._train_sampler)
        return place | {"order": self._order(), "skipped": self._all_skipped_records()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the next training where the checkpoint's stopped."""
        self._resume = state_dict
        self._skipped_records.update(state_dict.get("skipped", ()))

    def resumes_with_other_steps(self) -> bool:
        """Whether an optimizer step of the checkpoint's training had another number of records."""
        accumulate = self.trainer.accumulate_grad_batches
        then = self._resume["order"] if self._resume else self._order()
        return step_size(then, accumulate) != step_size(self._order(), accumulate)

    def batches_done(self) -> int | None:
        """How many of a rank's batches the place stands for at which training resumes; None for a new training."""
        return self._train_sampler.first_batch if self._train_sampler and self._resume else None

    def _partitions(self, stage: str | None) -> list[str]:
        if stage == "predict":
            return [self.predict_partition]
        return [partition for partition in _STAGES[stage] if self.globs[partition]]

    def _segments(self, stage: str | None) -> str:
        """Which segments a stage reads."""
        if stage != "predict" and self.level == "segment" and self.segments == "all":
            raise ConfigError(
                "dataset.segments: expected rated, because only these have labels, found all; set it for predict alone"
            )
        return "rated" if self.level != "segment" or stage != "predict" else self.segments or "all"

    def _open(self, partition: str, segments: str) -> ShardDataset:
        paths = self.shards(partition)[: self.limit_shards]
        layout = [self.features, self.num_classes, self.level, self.dtype, self.id_key, self.max_frames]
        layout += [segments, self.context]
        with (
            one_at_a_time(fingerprint(*paths), f"indexing {partition}") as turn,
            Progress(console=Console(stderr=True), transient=True, disable=len(paths) < 100) as bar,
        ):
            task = bar.add_task(f"indexing {partition}", total=len(paths))

            def progress(done: int, _: int) -> None:
                bar.update(task, completed=done)
                turn.progress()

            dataset = self.read(paths, progress, segments, self.context)
            check = None if dataset.remote else fingerprint(*paths, *dataset.stamps, *layout)
            if self.on_corrupt == "raise" and not (check and is_checked(check)):
                read_sample(dataset, partition, turn.progress)
                if check:
                    keep_check(check)
        self._record_errors(dataset.errors)
        counted = (dataset.shard_sizes >= 0).all()
        records = f"{len(dataset):,}" if counted else "an unknown number of"
        log.info("%s: %s records in %s shards", partition, records, f"{len(dataset.paths):,}")
        limit = self.limit_videos
        if limit is not None and not (counted and limit >= len(dataset)):
            log.info("%s: using the first %s records (dataset.limit_videos)", partition, f"{limit:,}")
        return dataset

    def _shard_sizes(self, partition: str) -> np.ndarray:
        """Records to use of each shard, int64 `[S]`: all, or the first `limit_videos` of the partition."""
        dataset = self.datasets[partition]
        if self.limit_videos is None:
            return dataset.shard_sizes
        sizes = dataset.remote.first_sizes(self.limit_videos) if dataset.remote else dataset.shard_sizes
        return np.diff(np.minimum(np.cumsum(sizes), self.limit_videos), prepend=0)

    def _order(self) -> dict[str, Any]:
        """What the order of an epoch depends on, besides the epoch; and what may change inside of one."""
        counted = (self._shard_sizes("train") >= 0).all()
        return {
            "seed": self.seed,
            "shuffle_window": self.shuffle_window,
            "bucket_by_length": self.bucket_by_length,
            "records": int(self._shard_sizes("train").sum()) if counted else None,
            "batch_size": self.batch_size * self.trainer.world_size,
            "accumulate": self.trainer.accumulate_grad_batches,
        }

    def _sampler(self, partition: str, *, shuffle: bool, bucket: bool = False) -> BatchSampler:
        sizes, remote = self._shard_sizes(partition), self.datasets[partition].remote
        arguments: dict[str, Any] = {
            "shuffle": shuffle,
            "seed": self.seed,
            "window": self.shuffle_window,
            "rank": self.trainer.global_rank if self.trainer else 0,
            "world_size": self.trainer.world_size if self.trainer else 1,
            "accumulate": self.trainer.accumulate_grad_batches if self.trainer else 1,
        }
        if remote and not bucket:
            return StreamingSampler(
                sizes, self.batch_size, starts=remote.starts, count=remote.count, **arguments
            )
        lengths = self.datasets[partition].record_sizes if bucket else None
        return BatchSampler(sizes, self.batch_size, lengths=lengths, **arguments)

    def _loader(self, partition: str, *, shuffle: bool) -> Loader:
        sampler = self._sampler(partition, shuffle=shuffle, bucket=shuffle and self.bucket_by_length)
        if partition == "train":
            self._train_sampler = sampler
            if self._resume:
                resume_at(sampler, self._resume, self._order())
        self._loaders[partition] = Loader(self.datasets[partition], sampler, self.num_workers, partition)
        return self._loaders[partition]
