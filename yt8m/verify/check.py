"""Reads shards from end to end: one report per shard, in parallel, and their sum."""

import contextlib
import gzip
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.tfrecord import File, framed, scan, sidecar_of
from yt8m.errors import DataError, FetchError
from yt8m.files import replacing, write_bytes
from yt8m.storage import transport
from yt8m.storage.shard import RemoteShard

MESSAGES = 20  # kept per shard: with a wrong configuration, every record is an error
ALL_FRAMES = 1 << 20  # more than any video has: lengths are counted as stored

_BATCH_BYTES = 4 << 20  # read at a time, so that a batch stays in the processor's cache

Shard = str | os.PathLike[str] | RemoteShard


@dataclass
class ShardReport:
    """Contents of one shard.

    ``rows`` are videos, or segments at segment level. ``ids`` has a 64-bit hash of each row's id in order, int64
    [rows]; ``labels`` the rows per class, int64 [C], or None without labels; ``frames`` the rows by number of frames,
    int64; ``low`` and ``high`` the extremes of each feature, in configured order. Of rated segments, ``labels`` has the
    ratings per class, ``true`` counts those that are true, and ``unrated`` the videos that have none.
    """

    path: str
    bytes: int = 0
    rows: int = 0
    errors: int = 0
    messages: list[str] = field(default_factory=list)
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    labels: np.ndarray | None = None
    true: int = 0
    unrated: int = 0
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    repaired: str | None = None
    kept: int = 0  # records in the repaired shard
    records: int = 0
    crc32c: int | None = None  # of the whole shard, for a manifest


@dataclass
class Summary:
    """Sum over shards; takes 8 bytes of memory per row, for the hashes of the ids, and otherwise a constant amount.

    ``damaged`` has the reports of damaged shards without their ids, ``shards`` (path, rows) of all, and ``entries``
    (path, records, bytes, CRC-32C) of those whose checksum was asked for.
    """

    shards: list[tuple[str, int]] = field(default_factory=list)
    bytes: int = 0
    rows: int = 0
    errors: int = 0
    ids: list[np.ndarray] = field(default_factory=list)
    labels: np.ndarray | None = None
    true: int = 0
    unrated: int = 0
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    damaged: list[ShardReport] = field(default_factory=list)
    entries: list[tuple[str, int, int, int]] = field(default_factory=list)

    def add(self, report: ShardReport) -> None:
        self.shards.append((report.path, report.rows))
        if report.crc32c is not None:
            self.entries.append((report.path, report.records, report.bytes, report.crc32c))
        self.ids.append(report.ids)
        self.bytes += report.bytes
        self.rows += report.rows
        self.errors += report.errors
        self.true += report.true
        self.unrated += report.unrated
        self.frames = _sum(self.frames, report.frames)
        if report.labels is not None:
            self.labels = report.labels if self.labels is None else self.labels + report.labels
        if report.low:
            self.low = [min(pair) for pair in zip(self.low or report.low, report.low, strict=True)]
            self.high = [max(pair) for pair in zip(self.high or report.high, report.high, strict=True)]
        if report.errors:
            self.damaged.append(replace(report, ids=report.ids[:0]))

    def as_json(self, features: Iterable[str]) -> dict[str, Any]:
        """Everything as a JSON object."""
        labels = None
        if self.labels is not None:
            seen = np.flatnonzero(self.labels).tolist()
            extremes = {"min": seen[0], "max": seen[-1]} if seen else {"min": None, "max": None}
            labels = {"total": int(self.labels.sum()), "classes": len(seen), **extremes}
        lengths = np.flatnonzero(self.frames)
        return {
            "shards": len(self.shards),
            "bytes": self.bytes,
            "rows": self.rows,
            "unrated_videos": self.unrated,
            "true_ratings": self.true,
            "unique_ids": repeated(np.concatenate(self.ids))[0],
            "labels": labels,
            "frames": dict(zip(lengths.tolist(), self.frames[lengths].tolist(), strict=True)),
            "features": {
                name: {"min": low, "max": high}
                for name, low, high in zip(features, self.low, self.high, strict=False)
            },
            "damaged_shards": len(self.damaged),
            "damaged_places": self.errors,
            "damaged": [
                {
                    "path": report.path,
                    "places": report.errors,
                    "messages": report.messages,
                    "repaired": report.repaired,
                    "records_kept": report.kept,
                }
                for report in self.damaged
            ],
        }


def check_shards(
    paths: Sequence[Shard],
    options: dict[str, Any],
    repair: Path | None,
    jobs: int,
    *,
    checksum: bool = False,
    index: bool = False,
) -> Iterator[ShardReport]:
    """Reports of the shards in order, from ``jobs`` processes that read one shard each at a time.

    Args:
        paths: the shards.
        options: `features`, `num_classes`, `level`, `id_key`, `dtype`, and for segments `segments` and `max_frames`, as
            `ShardDataset` takes them.
        repair: folder for new shards with the good records of damaged ones, or None.
        jobs: processes; forked, so that all of them hash ids the same way.
        checksum: also compute the CRC-32C of each shard.
        index: also write a `.tfindex` beside each sound shard.

    Raises:
        BrokenProcessPool: a process was killed.
    """
    pool = ProcessPoolExecutor(min(jobs, len(paths)), get_context("fork"), initializer=_start_worker)
    # Submitted, and therefore forked, before the caller starts threads of its own.
    check = partial(check_shard, options=options, repair=repair, checksum=checksum, index=index)
    reports = pool.map(check, paths)

    def ending_the_pool() -> Iterator[ShardReport]:
        try:
            yield from reports
        finally:
            pool.shutdown(cancel_futures=True)

    return ending_the_pool()


def check_options(path: Shard, options: dict[str, Any]) -> None:
    """Raise ConfigError for options that `ShardDataset` rejects, whatever is in the shard at ``path``."""
    with contextlib.suppress(DataError):
        _open(path, options)


def size_of(path: Shard) -> int:
    """Bytes of a shard."""
    return path.size if isinstance(path, RemoteShard) else os.path.getsize(path)


def check_shard(
    path: Shard,
    options: dict[str, Any],
    repair: Path | None = None,
    *,
    checksum: bool = False,
    index: bool = False,
) -> ShardReport:
    """Read a shard from end to end; damage is reported, never raised."""
    report = ShardReport(os.fspath(path))
    try:
        report.bytes = size_of(path)
        dataset = _open(path, options)
        if dataset.remote:
            dataset.remote.count_all()
            if not len(dataset):
                raise DataError(f"{path} @ byte 0: expected records, found none")
    except FetchError as error:
        _record_errors(report, [str(error)])
        return report
    except DataError as error:  # not one record
        with contextlib.suppress(DataError, FetchError):
            _record_errors(report, scan(path).errors)
        if not report.errors:
            _record_errors(report, [str(error)])
        return report
    except OSError as error:
        _record_errors(report, [f"{path} @ byte 0: expected a readable shard, found: {error.strerror}"])
        return report
    _record_errors(report, dataset.errors)
    ids: list[np.ndarray] = []
    bad: set[int] = set()
    for batch in _batches(dataset, report.bytes):
        _record_errors(report, batch.errors)
        bad.update(map(_offset, batch.errors))
        ids.append(hash_ids(batch.ids))
        _count(report, dataset, batch)
    report.ids = np.concatenate(ids)
    if report.errors and repair:
        _repair(path, report, bad, repair)
    report.records = len(dataset)
    if checksum:
        report.crc32c = _checksum(path)
    if index and not report.errors:
        _write_sidecar(path)
    return report


def _checksum(path: Shard) -> int:
    """CRC-32C of the whole file, as it is stored."""
    crc, file = 0, File(path, unpack=False)
    for offset in range(0, file.size, _BATCH_BYTES):
        crc = google_crc32c.extend(crc, file.read(offset, _BATCH_BYTES))
    return crc


def _write_sidecar(path: Shard) -> None:
    """Write the shard's `.tfindex`; a gzip shard has none."""
    if File(path, unpack=False).gzip:
        return
    content = sidecar_of(scan(path, cache=False).records)
    target = f"{os.path.splitext(os.fspath(path))[0]}.tfindex"
    if isinstance(path, RemoteShard):
        transport.write(target, content)
    else:
        write_bytes(target, content)


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """64-bit hashes, int64 [len(ids)]: two of 6 million ids collide once in a million datasets.

    Python's own hashes, which differ between runs, but not between a process and the ones it forks.
    """
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def repeated(hashes: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of unique hashes, and those that occur more than once, int64, ascending."""
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return len(ordered) - len(again), np.unique(again)


def name_repeated(
    summaries: Sequence[Summary],
    hashes: np.ndarray,
    options: dict[str, Any],
    shards_by_path: Mapping[str, Shard],
) -> dict[str, list[str]]:
    """Ids of `hashes` and the shards that contain each, found by reading those shards again."""
    shards = [shard for summary in summaries for shard in summary.shards]
    found: dict[str, list[str]] = {}
    every = [part for summary in summaries for part in summary.ids]
    for (path, _), part in zip(shards, every, strict=True):
        if not np.isin(part, hashes).any():
            continue
        dataset = _open(shards_by_path[path], options)
        if dataset.remote:
            dataset.remote.count_all()
        for batch in _batches(dataset, size_of(shards_by_path[path])):
            for row in np.flatnonzero(np.isin(hash_ids(batch.ids), hashes)).tolist():
                found.setdefault(batch.ids[row], []).append(dataset.paths[0])
    return found


def _open(path: Shard, options: dict[str, Any]) -> ShardDataset:
    return ShardDataset([path], **{"max_frames": ALL_FRAMES} | options, on_corrupt="skip")


def _batches(dataset: ShardDataset, size: int) -> Iterator[Batch]:
    """All records in order; each batch's features overwrite those of the previous one."""
    records = min(max(_BATCH_BYTES * len(dataset) // size, 1), len(dataset))
    for begin in range(0, len(dataset), records):
        numbers = range(begin, min(begin + records, len(dataset)))
        rows = 1 << dataset.max_rows(numbers).bit_length()
        yield dataset.read_into(numbers, _buffer(rows, dataset.feature_size, dataset.dtype))


@lru_cache(maxsize=2)
def _buffer(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """The same memory each time, also for the next shard: a new tensor costs a page fault every 4 KiB."""
    return torch.empty(rows, columns, dtype=dtype)


def _count(report: ShardReport, dataset: ShardDataset, batch: Batch) -> None:
    report.rows += len(batch)
    report.unrated += batch.unrated
    if not len(batch):
        return
    report.frames = _sum(report.frames, np.bincount(batch.num_frames.numpy()))
    pairs = batch.label_index
    if batch.label_mask is not None:  # rated segments
        report.true += len(batch.label_index)
        pairs = batch.label_mask
    if pairs is not None:
        counts = np.bincount(pairs[:, 1].numpy(), minlength=dataset.num_classes)
        report.labels = counts if report.labels is None else report.labels + counts
    values = batch.features.numpy()
    if not report.low:
        report.low, report.high = ([bound] * len(dataset.features) for bound in (np.inf, -np.inf))
    end = 0
    for place, size in enumerate(dataset.features.values()):
        begin, end = end, end + size
        if values.dtype == np.uint8 and (report.low[place], report.high[place]) == (0, 255):
            continue  # already the full range
        part = values[:, begin:end]
        report.low[place] = min(report.low[place], np.minimum.reduce(part).min().item())
        report.high[place] = max(report.high[place], np.maximum.reduce(part).max().item())


def _repair(path: Shard, report: ShardReport, bad: set[int], folder: Path) -> None:
    """Write the records of a shard that are not at the offsets `bad`, in order."""
    places = [(offset, size) for offset, size in scan(path).records.tolist() if offset not in bad]
    if not places:
        return
    target = folder / Path(report.path).name
    shard = File(path)
    opener = gzip.open if shard.gzip else open
    with replacing(target) as part, opener(part, "wb") as file:
        for offset, size in places:
            file.write(framed(shard.record(offset, size)))
    report.repaired, report.kept = str(target), len(places)


def _record_errors(report: ShardReport, errors: Sequence[str]) -> None:
    report.errors += len(errors)
    report.messages += errors[: MESSAGES - len(report.messages)]


def _offset(error: str) -> int:
    """Offset of the record in an error message of a batch."""
    return int(re.search(r" @ byte (\d+): ", error)[1])


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sum of two histograms of different lengths."""
    total = np.zeros(max(len(one), len(other)), np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)
