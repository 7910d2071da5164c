"""Records of TFRecord shards as arrays: `yt8m.open`."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from google.protobuf.message import DecodeError
from tfrecord.example_pb2 import Example, SequenceExample

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.tfrecord import File, scan
from yt8m.errors import ConfigError, DataError
from yt8m.storage import transport
from yt8m.storage.shard import RemoteShard
from yt8m.storage.storage import Storage

if TYPE_CHECKING:
    from yt8m.video.extractor import VideoFeatures

_AT_A_TIME = 64  # records read together
OPEN_SHARDS = 2  # remote ones, which the cache must hold
_ID_KEYS = ("id", "video_id")
_MOST_CLASSES = 10_000_000
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """One video, or one segment of one.

    - ``id``: ``"id:start"`` for a segment
    - ``features``: by name, frames uint8 or float32 [T, D], or a video vector float32 [D]
    - ``labels``: int64 [L], ascending; None for an unlabeled record
    """

    id: str
    features: dict[str, np.ndarray]
    labels: np.ndarray | None

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {one.dtype} {list(one.shape)}" for name, one in self.features.items())
        labels = "no labels" if self.labels is None else f"labels {self.labels.tolist()}"
        return f"<Record {self.id}: {shapes}; {labels}>"


class Records(Sequence[Record]):
    """The records of shards, in the order of the shards' names; made by `yt8m.open`.

    - ``level``: ``"frame"``, ``"video"``, or ``"segment"``
    - ``feature_sizes``: names and sizes of the features
    - ``paths``: the shards
    """

    def __init__(self, dataset: ShardDataset):
        self._dataset = dataset
        self.level, self.paths = dataset.level, list(dataset.paths)
        self.feature_sizes = dict(dataset.features)

    def __len__(self) -> int:
        """How many records there are; at segment level a record may hold several segments."""
        return len(self._dataset)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """A record, or a slice of them.

        Raises:
            DataError: the record is damaged.
        """
        if isinstance(index, slice):
            return [one for number in range(len(self))[index] for one in self._read([number])]
        batch = self._dataset.__getitems__([range(len(self))[index]])
        if not len(batch):
            raise DataError(
                batch.errors[0] if batch.errors else f"record {index}: expected segments, found none"
            )
        return next(self._rows(batch))

    def __iter__(self) -> Iterator[Record]:
        """All records; those that are damaged raise a DataError, or are left out with ``on_corrupt="skip"``."""
        first = 0
        # Shard by shard: those with labels and those without do not mix in a batch.
        for size in self._dataset.shard_sizes.tolist():
            for begin in range(first, first + size, _AT_A_TIME):
                yield from self._read(range(begin, min(begin + _AT_A_TIME, first + size)))
            first += size

    def _read(self, numbers: Sequence[int]) -> Iterator[Record]:
        yield from self._rows(self._dataset.__getitems__(numbers))

    def _rows(self, batch: Batch) -> Iterator[Record]:
        columns = np.cumsum(list(self.feature_sizes.values()))[:-1]
        ends = np.cumsum(batch.num_frames.numpy())
        for row, (name, end, count) in enumerate(
            zip(batch.ids, ends.tolist(), batch.num_frames.tolist(), strict=True)
        ):
            # A record owns its memory: kept alone, it does not hold on to the batch.
            values = batch.features.numpy()[end - count : end].copy()
            parts = np.split(values[0] if self.level == "video" else values, columns, axis=-1)
            labels = None
            if batch.label_index is not None:
                labels = batch.label_index[batch.label_index[:, 0] == row, 1].numpy()
            yield Record(name, dict(zip(self.feature_sizes, parts, strict=True)), labels)

    def __repr__(self) -> str:
        features = ", ".join(f"{name} {size}" for name, size in self.feature_sizes.items())
        return f"<Records: {len(self):,} of {self.level} level in {len(self.paths):,} shards; {features}>"


def open_shards(
    path: str | os.PathLike[str],
    *,
    level: str | None = None,
    on_corrupt: str = "raise",
) -> Records:
    """The records of TFRecord shards as arrays, read on demand, both checksums of each verified.

    ```python
    for video in yt8m.open("data/*.tfrecord"):
        print(video.id, video.features["rgb"].shape, video.labels)
    ```

    The names, sizes, and types of the features are those of the first record.

    Args:
        path: a shard, a folder of `.tfrecord` files (at any depth), or a glob; also at an address such as
            s3://bucket/2/frame/*.tfrecord, whose shards come through the cache. Those whose number of records neither
            a manifest at the folder nor a `.tfindex` tells are fetched at once, to count them.
        level: `segment` yields the rated five-frame segments of the 2019 records; None whole videos.
        on_corrupt: `raise` a DataError for a damaged record, or `skip` it.

    Raises:
        ConfigError: no shards are found, or `level` or `on_corrupt` is none.
        FetchError: a bucket cannot be read.
        DataError: the first record is damaged or is no video.
    """
    if level not in (None, "segment"):
        raise ConfigError(f"level: expected None or segment, found {level!r}")
    paths = shard_paths(path, "path")
    found, features, dtype, id_key = _layout(paths, skip=on_corrupt == "skip")
    if level == "segment" and found == "video":
        raise ConfigError(
            f"level: expected frame-level records for segments, found video vectors in {os.fspath(paths[0])}"
        )
    dataset = ShardDataset(
        paths,
        features,
        _MOST_CLASSES,
        level=level or found,
        id_key=id_key,
        max_frames=_MOST_FRAMES,
        on_corrupt=on_corrupt,
        dtype=dtype,
        window=OPEN_SHARDS,
    )
    if dataset.remote:
        dataset.remote.count_all()
    return Records(dataset)


def shard_paths(path: str | os.PathLike[str], key: str) -> Sequence[Path | RemoteShard]:
    """The shards that a path means: itself, the `.tfrecord` files below a folder, or those that match a glob.

    Raises:
        ConfigError: there are none, or the address cannot be used.
        FetchError: the bucket cannot be listed.
    """
    pattern = os.path.expanduser(os.fspath(path))
    if transport.is_remote(pattern):
        transport.check_address(pattern, key)
        if glob.has_magic(pattern) or pattern.endswith(".tfrecord"):
            return Storage("").find(pattern, key, window=OPEN_SHARDS)
        return Storage(pattern).find("**/*.tfrecord", key, window=OPEN_SHARDS)
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "**", "*.tfrecord")
    if os.path.isfile(pattern):
        return [Path(pattern)]
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    if not paths:
        raise ConfigError(
            f"{key}: expected a shard, a folder of .tfrecord files or a glob, found none at {pattern}"
        )
    return paths


def video_record(found: "VideoFeatures", feature_sizes: Mapping[str, int], name: str) -> Record:
    """The features of a video file, under the names that a model has for them, without labels.

    Args:
        found: from `yt8m.video`.
        feature_sizes: the model's; video-level records name their features mean_rgb and mean_audio.
        name: the record's id.

    Raises:
        ConfigError: a feature of the model was not extracted.
    """
    names = {feature: feature.removeprefix("mean_") for feature in feature_sizes}
    if missing := [short for short in names.values() if short not in found.frames]:
        raise ConfigError(
            f"weights: expected networks for {', '.join(names.values())}, found none for {missing[0]}; add its weights"
        )
    return Record(name, {feature: found.frames[short] for feature, short in names.items()}, None)


def _layout(paths: Sequence[Path | RemoteShard], skip: bool) -> tuple[str, dict[str, int], str, str]:
    """Level, features, dtype, and key of the id, from the first record that can be read."""
    for path in paths:
        index = scan(path)
        if index.errors and not skip:
            raise DataError(index.errors[0])
        file = File(path)
        for offset, size in index.records.tolist():
            try:
                return _describe(file.record(offset, size), f"{os.fspath(path)} @ byte {offset}")
            except DataError:
                if not skip:
                    raise
    raise DataError(
        f"{os.fspath(paths[0])} @ byte 0: expected a record, found none that can be read in {len(paths)} shards"
    )


def _describe(payload: bytes, where: str) -> tuple[str, dict[str, int], str, str]:
    try:
        sequence = SequenceExample.FromString(payload)
        lists = {
            name: one.feature for name, one in sequence.feature_lists.feature_list.items() if one.feature
        }
        context = (sequence.context if lists else Example.FromString(payload).features).feature
    except DecodeError as error:
        raise DataError(f"{where}: expected a tf.train.Example or SequenceExample, found {error}") from None
    id_key = next((key for key in _ID_KEYS if key in context), _ID_KEYS[0])
    if lists:
        frames = {name: _frame(features[0]) for name, features in sorted(lists.items(), key=_rgb_first)}
        kinds = {dtype for dtype, _ in frames.values()}
        if len(kinds) > 1:
            raise DataError(f"{where}: expected frames of one type, uint8 or float32, found {sorted(kinds)}")
        return "frame", {name: size for name, (_, size) in frames.items()}, kinds.pop(), id_key
    vectors = {
        name: len(value.float_list.value)
        for name, value in sorted(context.items(), key=_rgb_first)
        if value.float_list.value
    }
    if not vectors:
        raise DataError(
            f"{where}: expected frames or a vector of floats, found keys {', '.join(sorted(context))}"
        )
    return "video", vectors, "uint8", id_key


def _frame(feature: Any) -> tuple[str, int]:
    if feature.bytes_list.value:
        return "uint8", len(feature.bytes_list.value[0])
    return "float32", len(feature.float_list.value)


def _rgb_first(item: tuple[str, Any]) -> tuple[bool, str]:
    """The dataset's order: rgb, then audio; protobuf keeps none."""
    return "rgb" not in item[0].split("_"), item[0]
