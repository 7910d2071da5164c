"""Check every record of a dataset, print a summary and everything that is damaged."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from yt8m.build import build
from yt8m.cpus import available_cpus
from yt8m.errors import ConfigError, DataError, ReaderError
from yt8m.files import write_json
from yt8m.metric_table import PARTITIONS
from yt8m.storage.shard import RemoteShard
from yt8m.verify.check import Summary, check_options, check_shards, name_repeated, repeated, size_of
from yt8m.verify.manifest import OutputManifest

NAMED = 10  # of the ids that occur more than once, this many are named; all are counted
BINS = 10  # of the printed histogram of lengths; the JSON file has every length


def verify(config: dict[str, Any]) -> None:
    """Read all records of the partitions; print a summary and each damaged place.

    Args:
        config: as in `conf/verify.yaml`.

    Raises:
        DataError: something is damaged.
        ConfigError: an argument is wrong, or a file would be overwritten.
        WriteError: `repair`, `json`, `manifest` or a sidecar cannot be written.
        ReaderError: a reading process was killed.
    """
    jobs, json_file, repair = parse_arguments(config)

    datamodule = build(config["dataset"], "dataset", trusted=config["trusted_packages"], seed=0)
    if isinstance(datamodule.root, Path) and not datamodule.root.exists():
        datamodule.prepare_data()  # writes the embedded sample on first use; existing files are not touched
    if config["manifest"]:
        datamodule.storage.manifest = None  # a new one describes what is there
    names = PARTITIONS if config["partition"] == "all" else (config["partition"],)
    shards = {name: datamodule.shards(name) for name in names if datamodule.globs[name] or len(names) == 1}
    if not shards:
        raise ConfigError(
            "dataset.train: expected shards in at least one partition, found none; set its glob"
        )
    options = {
        "features": datamodule.features,
        "num_classes": datamodule.num_classes,
        "level": datamodule.level,
        "id_key": datamodule.id_key,
        "dtype": datamodule.dtype,
    }
    if datamodule.level == "segment":  # which are read as for training
        options |= {"segments": datamodule.segments or "rated", "max_frames": datamodule.max_frames}
    paths = [path for part in shards.values() for path in part]
    check_options(paths[0], options)
    if repair:
        prepare_repair(repair, paths, config["overwrite"])
    manifest = OutputManifest(config["manifest"], datamodule.root, config["overwrite"])
    manifest.check(paths)
    started = time.perf_counter()
    try:
        summaries = read_all(
            shards, options, repair, jobs, checksum=bool(config["manifest"]), index=config["index"]
        )
    except BrokenExecutor:
        raise ReaderError("jobs: a reading process was killed; if memory ran out, lower jobs") from None
    seconds = time.perf_counter() - started

    unique, hashes = repeated(np.concatenate([part for s in summaries.values() for part in s.ids]))
    results = {
        "ok": not any(summary.damaged for summary in summaries.values()),
        "root": str(datamodule.root),
        "level": datamodule.level,
        "segments": options.get("segments"),
        "num_classes": datamodule.num_classes,
        "seconds": seconds,
        "gigabytes_per_second": sum(s.bytes for s in summaries.values()) / seconds / 1e9,
        "unique_ids": unique,
        "repeated_ids": len(hashes),
        "repeated_ids_named": name_repeated(
            list(summaries.values()), hashes[:NAMED], options, {os.fspath(path): path for path in paths}
        ),
        "partitions": {name: s.as_json(datamodule.features) for name, s in summaries.items()},
    }
    print_results(results)
    print_damage(results)
    if json_file:
        write_json(json_file, results)
    if results["ok"]:
        manifest.write([entry for summary in summaries.values() for entry in summary.entries])
    else:
        raise DataError("found damage; repair=FOLDER copies the good records to new shards")


def parse_arguments(config: dict[str, Any]) -> tuple[int, Path | None, Path | None]:
    """The number of processes, the JSON file, and the folder for repaired shards. Raises ConfigError."""
    paths = {}
    for key in ("json", "repair"):
        paths[key] = Path(config[key]).expanduser() if config[key] else None
    if (file := paths["json"]) is not None:
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise ConfigError(f"json: expected a file in an existing folder, found {file}")
        if file.exists() and not config["overwrite"]:
            raise ConfigError(f"json: {file} exists; choose another file, or set overwrite=true")
    return config["jobs"] or available_cpus(), paths["json"], paths["repair"]


def prepare_repair(folder: Path, shards: Sequence[Path | RemoteShard], overwrite: bool) -> None:
    """Create the folder. Raises ConfigError if repaired shards would end up among the data or overwrite files."""
    names: dict[str, Path | RemoteShard] = {}
    for shard in shards:
        own = {shard.absolute().parent, shard.resolve().parent} if isinstance(shard, Path) else set()
        for source in own:
            if folder.resolve().is_relative_to(source):
                raise ConfigError(
                    f"repair: expected a folder outside the dataset's, found {folder} in {source}"
                )
        if shard.name in names:
            raise ConfigError(
                f"repair: {names[shard.name]} and {shard} would become one file; repair one partition at a time"
            )
        names[shard.name] = shard
        if (folder / shard.name).exists() and not overwrite:
            raise ConfigError(
                f"repair: {folder / shard.name} exists; choose another folder, or set overwrite=true"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"repair: expected a folder to write to, found {folder}: {error.strerror}"
        ) from None


def read_all(
    shards: dict[str, list[Path] | list[RemoteShard]],
    options: dict[str, Any],
    repair: Path | None,
    jobs: int,
    **also: bool,
) -> dict[str, Summary]:
    """A summary per partition, with a progress bar over the bytes of each; `also` as `check_shards` takes it."""
    paths_of_all = [path for paths in shards.values() for path in paths]
    reports = check_shards(paths_of_all, options, repair, jobs, **also)
    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    summaries = {name: Summary() for name in shards}
    with (
        closing(reports),
        Progress(*columns, "{task.fields[damaged]}", console=Console(stderr=True)) as progress,
    ):
        for (name, paths), summary in zip(shards.items(), summaries.values(), strict=True):
            size = sum(map(size_of, paths))
            task = progress.add_task(name, total=size, damaged="")
            for report in islice(reports, len(paths)):
                summary.add(report)
                damaged = f"{len(summary.damaged)} damaged shards" if summary.damaged else ""
                progress.update(task, advance=report.bytes, damaged=damaged)
    return summaries


def print_results(results: dict[str, Any]) -> None:
    """Print the partitions side by side, and the reading speed."""
    parts = results["partitions"]
    rows = "segments" if results["level"] == "segment" else "videos"
    table = Table("", *(Column(name, justify="right") for name in parts), box=None, pad_edge=False)

    def add(title: str, text: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(title, *map(text, parts.values()))

    rated = results["segments"] == "rated"

    def of_labels(text: str) -> Callable[[dict[str, Any]], str]:
        return lambda part: text.format(**part["labels"]) if part["labels"] else "none"

    add("shards", lambda part: f"{part['shards']:,}")
    add("damaged shards", lambda part: f"{part['damaged_shards']:,}")
    add("damaged places", lambda part: f"{part['damaged_places']:,}")
    add("size", lambda part: decimal(part["bytes"]))
    add(rows, lambda part: f"{part['rows']:,}")
    add("unique ids", lambda part: f"{part['unique_ids']:,}")
    if rated:
        add("videos without a rated segment", lambda part: f"{part['unrated_videos']:,}")
    add("ratings" if rated else "labels", of_labels("{total:,}"))
    if rated:
        add("ratings that are true", lambda part: f"{part['true_ratings']:,}")
    add(f"classes seen, of {results['num_classes']:,}", of_labels("{classes:,}"))
    add("lowest and highest label", of_labels("{min} … {max}"))
    if results["level"] != "video":
        for low, high in bins([int(n) for part in parts.values() for n in part["frames"]]):
            add(
                f"{rows} by frames: {low}–{high}" if high > low else f"{rows} by frames: {low}",
                lambda part, low=low, high=high: (
                    f"{sum(count for n, count in part['frames'].items() if low <= n <= high):,}"
                ),
            )
    for name in dict.fromkeys(name for part in parts.values() for name in part["features"]):
        add(f"range of {name}", lambda part, name=name: range_of(part["features"].get(name)))
    console = Console()
    console.print(table)
    size = sum(part["bytes"] for part in parts.values())
    speed = f"{results['gigabytes_per_second']:.2f} GB/s"
    console.print(f"{decimal(size)} in {results['seconds']:.1f} s: {speed}", highlight=False)


def bins(lengths: list[int]) -> list[tuple[int, int]]:
    """At most `BINS` ranges of equal width, both ends included, that cover the lengths."""
    if not lengths:
        return []
    first, last = min(lengths), max(lengths)
    width = -(-(last - first + 1) // BINS)
    return [(low, min(low + width - 1, last)) for low in range(first, last + 1, width)]


def range_of(extremes: dict[str, float] | None) -> str:
    return f"{extremes['min']:g} … {extremes['max']:g}" if extremes else "none"


def print_damage(results: dict[str, Any]) -> None:
    """Print a line per damaged place, per repaired shard, and for the first ids that occur more than once."""
    for part in results["partitions"].values():
        for shard in part["damaged"]:
            for message in shard["messages"]:
                print(f"damaged: {message}")
            if shard["places"] > len(shard["messages"]):
                print(f"damaged: {shard['path']}: {shard['places'] - len(shard['messages']):,} more places")
            if shard["repaired"]:
                print(f"repaired: {shard['repaired']}: {shard['records_kept']:,} good records")
    for name, shards in results["repeated_ids_named"].items():
        print(f"id {name} occurs {len(shards)} times: {', '.join(dict.fromkeys(shards))}")
    if results["repeated_ids"] > len(results["repeated_ids_named"]):
        print(f"{results['repeated_ids']:,} ids in total occur more than once")
    if results["ok"]:
        print("all good")
