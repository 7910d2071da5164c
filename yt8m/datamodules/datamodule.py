"""YouTube-8M for Lightning: shards found by glob, one loader per partition, a position that can be saved."""

import logging
import os
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import distributed

from yt8m.datamodules.dataset import Batch, ShardDataset
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import ConfigError

log = logging.getLogger(__name__)

PARTITIONS = ("train", "validate", "test")
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
        num_classes: C; a label outside 0…C-1 is an error.
        id_key: the record's key of the video id (`video_id` in 2017's shards and in AudioSet).
        max_frames: longer videos are cut.
        batch_size: videos per step and device.
        num_workers: reader processes per loader; 0 reads in the training process.
        on_corrupt: `raise`, or `skip` to drop, count and report damaged records.
        shuffle_window: shards whose records are mixed with each other (see `BatchSampler`).
        pad_to: `longest` video of the batch, or `max` for `max_frames` (static shapes).
        vocabulary: CSV of class names, relative to `root`.
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
        seed: int = 0,
    ):
        super().__init__()
        for key, value, choices in (
            ("level", level, ("frame", "video", "segment")),
            ("on_corrupt", on_corrupt, ("raise", "skip")),
            ("pad_to", pad_to, ("longest", "max")),
        ):
            if value not in choices:
                raise ConfigError(f"dataset.{key}: expected one of {', '.join(choices)}, found {value!r}")
        if num_workers < 0:
            raise ConfigError(f"dataset.num_workers: expected 0 or more, found {num_workers}")
        self.root = Path(root).expanduser()
        self.globs = {"train": train, "validate": validate, "test": test}
        self.level, self.features, self.num_classes = level, dict(features), num_classes
        self.id_key, self.max_frames, self.on_corrupt = id_key, max_frames, on_corrupt
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.shuffle_window, self.pad_to = shuffle_window, pad_to
        self.vocabulary = self.root / vocabulary if vocabulary else None
        self.datasets: dict[str, ShardDataset] = {}
        self._faults: dict[str, str] = {}  # message by place, for each record that was skipped
        self._loaders: dict[str, Loader] = {}
        self._resume: dict[str, Any] | None = None
        self._copying: deque[tuple[torch.cuda.Event, Batch]] = deque()

    def setup(self, stage: str | None = None) -> None:
        """Index the shards of the stage's partitions and try their records."""
        for partition in _STAGES[stage]:
            if self.globs[partition] and partition not in self.datasets:
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

    def train_dataloader(self) -> Loader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> Loader:
        return self._loader("validate", shuffle=False)

    def test_dataloader(self) -> Loader:
        return self._loader("test", shuffle=False)

    def teardown(self, stage: str | None = None) -> None:
        """End the stage's reader processes."""
        for partition in _STAGES[stage]:
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
            while self._copying[0][0].query():
                self._copying.popleft()
                if not self._copying:
                    break
        return moved

    def skipped(self) -> dict[str, int]:
        """How many records each damaged shard has lost so far, over all ranks; with `on_corrupt: skip`."""
        places = set(self._faults)
        if distributed.is_available() and distributed.is_initialized():
            of_ranks: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(of_ranks, places)
            places = set().union(*of_ranks)
        return dict(sorted(Counter(place.rpartition(" @ byte ")[0] for place in places).items()))

    def _note(self, faults: list[str]) -> None:
        """Keep each fault once, also when the next epoch meets it again, and report it."""
        for fault in faults:
            place = fault.partition(": ")[0]
            if place not in self._faults:
                self._faults[place] = fault
                log.warning("skipped: %s", fault)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: the epoch and the batch to go on with, and what its order depends on."""
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        started = loop.epoch_progress.current.ready
        if progress.is_last_batch:
            position = {"epoch": started, "batch": 0}
        else:
            position = {"epoch": started - 1, "batch": progress.current.ready}
        return position | {"order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training go on where the checkpoint's stopped."""
        self._resume = state_dict

    def _open(self, partition: str) -> ShardDataset:
        dataset = ShardDataset(
            self.shards(partition),
            self.features,
            self.num_classes,
            level=self.level,
            id_key=self.id_key,
            max_frames=self.max_frames,
            on_corrupt=self.on_corrupt,
        )
        self._note(dataset.faults)
        if self.on_corrupt == "raise":
            self._try(dataset)
        log.info("%s: %s records in %s shards", partition, f"{len(dataset):,}", f"{len(dataset.paths):,}")
        return dataset

    def _try(self, dataset: ShardDataset) -> None:
        """Read records before training, so that what does not fit is told now and not hours later."""
        if sum(os.path.getsize(path) for path in dataset.paths) <= _PREFLIGHT_BYTES:
            numbers = range(len(dataset))
        else:
            first = np.cumsum(dataset.shard_sizes) - dataset.shard_sizes
            numbers = first[dataset.shard_sizes > 0].tolist()
        for begin in range(0, len(numbers), 64):
            dataset.__getitems__(list(numbers[begin : begin + 64]))

    def _order(self) -> dict[str, int]:
        """What the order of an epoch is a function of, beside the epoch."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size * self.trainer.world_size,
            "shuffle_window": self.shuffle_window,
            "records": len(self.datasets["train"]),
        }

    def _loader(self, partition: str, *, shuffle: bool) -> Loader:
        dataset = self.datasets[partition]
        sampler = BatchSampler(
            dataset.shard_sizes,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            window=self.shuffle_window,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        if partition == "train" and self._resume:
            self._go_on(sampler, self._resume)
        loader = self._loaders[partition] = Loader(dataset, sampler, self.num_workers)
        return loader

    def _go_on(self, sampler: BatchSampler, state: dict[str, Any]) -> None:
        order = self._order()
        if state["batch"]:
            for key, then in state["order"].items():
                if then != order[key]:
                    raise ConfigError(
                        f"ckpt_path: the checkpoint lies inside an epoch whose order depends on {key} = {then}, "
                        f"found {order[key]}; set it back, or go on from a checkpoint of an epoch's end"
                    )
        sampler.start_at(state["epoch"], state["batch"])
