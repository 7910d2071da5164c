"""Scores of submissions from the files and labeled shards alone."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from yt8m.datamodules.shards import find_shards
from yt8m.errors import ConfigError
from yt8m.files import write_json
from yt8m.score.labels import read_labels, read_ratings
from yt8m.score.submission import SEGMENTS, Result, header_of, score_segments, score_videos

_NAMED = 10  # classes in a line of the output


def score(config: dict[str, Any]) -> None:
    """Print the scores of the submissions, as `conf/score.yaml` says.

    Raises:
        ConfigError: an argument is wrong.
        DataError: a shard is damaged, or a line of a submission is.
        WriteError: the JSON file cannot be written.
    """
    names = config["submission"] if isinstance(config["submission"], list) else [config["submission"]]
    paths = [Path(name).expanduser() for name in names]
    target = Path(config["json"]).expanduser() if config["json"] else None
    if target and target.exists() and not config["overwrite"]:
        raise ConfigError(f"json: expected a new file, found one at {target}; set overwrite=true")
    headers = {header_of(path) for path in paths}
    if len(headers) > 1:
        raise ConfigError(
            "submission: expected files of one kind, found segments and videos; score them separately"
        )
    shards = find_shards(Path(), str(Path(config["labels"]).expanduser()), "labels")
    score_one: Callable[[Path], Result]
    if of_segments := headers == {SEGMENTS}:
        ratings = read_ratings(shards, config["id_key"])
        score_one = lambda path: score_segments(path, ratings, config["strict"])  # noqa: E731
    else:
        labels = read_labels(shards, config["id_key"])
        score_one = lambda path: score_videos(path, labels, config["strict"])  # noqa: E731
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    results = []
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for path in paths:
            progress.add_task(f"scoring {path}")
            results.append(score_one(path))
    _print(paths, results, of_segments)
    if target:
        metric = "map_100000" if of_segments else "gap_20"
        found = [
            {"submission": str(path), metric: result.value, **asdict(result)}
            for path, result in zip(paths, results, strict=True)
        ]
        for one in found:
            del one["value"]
        write_json(target, found)


def _print(paths: list[Path], results: list[Result], of_segments: bool) -> None:
    console = Console(emoji=False)
    if not console.is_terminal:
        console = Console(emoji=False, width=10_000)  # cuts and wraps nothing
    table = Table(box=None, pad_edge=False)
    table.add_column("submission", overflow="fold")
    headings = ("MAP@100,000", "classes", "segments") if of_segments else ("GAP@20", "videos", "classes")
    for heading in headings:
        table.add_column(heading, justify="right")
    for path, one in zip(paths, results, strict=True):
        table.add_row(str(path), f"{one.value:.5f}", f"{one.lines:,}", f"{one.listed:,}")
    console.print(table, highlight=False)
    for path, one in zip(paths, results, strict=True):
        told = [f"passed over {kind}: {count:,}" for kind, count in one.mistakes.items()]
        if one.without_positives:
            told.append(f"left out {_classes(one.without_positives)} without positives")
        if isinstance(one.missing, int):
            told += (
                [f"missing videos, whose labels all count as missed: {one.missing:,}"] if one.missing else []
            )
        elif one.missing:
            told.append(f"counted 0 for {_classes(one.missing)} with positives, not in the file")
        for line in told:
            console.print(f"{path}: {line}", soft_wrap=True, highlight=False, markup=False)


def _classes(numbers: list[int]) -> str:
    more = f", and {len(numbers) - _NAMED:,} more" if len(numbers) > _NAMED else ""
    noun = "class" if len(numbers) == 1 else "classes"
    return f"{len(numbers):,} {noun} ({', '.join(map(str, numbers[:_NAMED]))}{more})"
