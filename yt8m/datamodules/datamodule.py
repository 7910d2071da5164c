"""YouTube-8M for Lightning: shards found by glob, one loader per partition, a position that can be saved."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from yt8m.datamodules.dataset import Batch, ShardDataset
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
        self._resume: dict[str, Any] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Index the shards of the stage's partitions and try their records."""
        for partition in _STAGES[stage]:
            if self.globs[partition] and partition not in self.datasets:
                self.datasets[partition] = self._open(partition)

    def shards(self, partition: str) -> list[Path]:
        """The shard files of a partition, sorted by name."""
        pattern = self.globs[partition]
        if pattern is None:
            raise ConfigError(f"dataset.{partition}: this dataset has no such partition; set a glob of its shards")
        if not self.root.is_dir():
            raise ConfigError(f"dataset.root: expected the dataset's folder, found nothing at {self.root}; set dataset.root")
        paths = sorted(path for path in self.root.glob(pattern) if path.is_file())
        if not paths:
            raise ConfigError(
                f"dataset.{partition}: expected shards at {self.root / pattern}, found none; "
                f"set dataset.root or dataset.{partition}"
            )
        return paths

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("validate", shuffle=False)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", shuffle=False)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, Batch):
            return batch.to(device, non_blocking=True)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

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

    def _loader(self, partition: str, *, shuffle: bool) -> DataLoader:
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
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # The loader draws a seed for its workers from its generator. With one of its own, the default
            # generator serves the network alone, and dropout is the same for any number of workers.
            generator=torch.Generator(),
        )

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


def _as_it_is(batch: Batch) -> Batch:
    return batch
