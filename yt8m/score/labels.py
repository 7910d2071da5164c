"""What is true, from shards: ratings of segments, labels of videos. Frames are not read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from yt8m.datamodules.parse.wire import ExampleError, Value, parse_sequence
from yt8m.datamodules.shards import Shards
from yt8m.datamodules.tfrecord import REMEDY, scan
from yt8m.errors import DataError

_REMEDY = "re-download the shard"  # nothing is skipped here, because a score of a part would be another
_RATING_KEYS = ("segment_start_times", "segment_labels", "segment_scores")


@dataclass
class Ratings:
    """Ratings of segments.

    ``of_class`` has for each class whether it is true of a segment, `id:start`; of a pair that was rated twice, the
    last rating. ``videos`` are the ids of all videos, rated or not.
    """

    of_class: dict[int, dict[str, bool]] = field(default_factory=dict)
    videos: set[str] = field(default_factory=set)

    def positives(self) -> dict[int, int]:
        """Number of true segments of each class that has any."""
        counts = {label: sum(ratings.values()) for label, ratings in self.of_class.items()}
        return {label: count for label, count in sorted(counts.items()) if count}


def read_ratings(paths: Sequence[Path], id_key: str) -> Ratings:
    """The ratings in shards.

    Raises:
        DataError: a record is damaged, or no segment is rated.
    """
    found = Ratings()
    for where, name, (starts, labels, scores) in _records(paths, id_key, _RATING_KEYS):
        found.videos.add(name)
        if labels is None:
            continue
        lengths = {len(part) for part in (starts, labels, scores) if part is not None}
        if starts is None or scores is None or len(lengths) > 1:
            raise DataError(
                f"{where}: expected starts, labels and scores of one length, found others; {_REMEDY}"
            )
        for start, label, score in zip(starts, labels, scores, strict=True):
            found.of_class.setdefault(int(label), {})[f"{name}:{int(start)}"] = bool(score > 0)
    if not found.of_class:
        raise DataError(
            f"{paths[0]} @ byte 0: expected rated segments, found none in {len(found.videos):,} videos; set labels to "
            "the shards of 3/frame/validate"
        )
    return found


def read_labels(paths: Sequence[Path], id_key: str) -> dict[str, frozenset[int]]:
    """The labels of every video in shards, of video or frame level.

    Raises:
        DataError: a record is damaged, or has no labels.
    """
    found: dict[str, frozenset[int]] = {}
    for where, name, (labels,) in _records(paths, id_key, ("labels",)):
        if not isinstance(labels, list):
            raise DataError(f"{where}: expected labels, found none; set labels to shards that have some")
        found[name] = frozenset(map(int, labels))
    return found


def _records(
    paths: Sequence[Path], id_key: str, keys: Sequence[str]
) -> Iterator[tuple[str, str, list[Value]]]:
    """Place, id, and values of every record."""
    indices = [scan(str(path)) for path in paths]
    if errors := [error for one in indices for error in one.errors]:
        raise DataError(f"{errors[0].removesuffix(REMEDY)}{_REMEDY}")
    shards = Shards(indices)
    console = Console(stderr=True)
    numbers = track(
        range(len(shards)),
        "reading labels",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    for number in numbers:
        (location,) = shards.locate([number])
        where = shards.describe(location)
        try:
            # A video-level record has no feature lists, and is otherwise the same message.
            (name, *values), _ = parse_sequence(shards.record(location), (id_key, *keys), ())
        except ExampleError as error:
            raise DataError(f"{where}: {error}; {_REMEDY}") from None
        except DataError as error:
            raise DataError(f"{str(error).removesuffix(REMEDY)}{_REMEDY}") from None
        if not isinstance(name, list) or len(name) != 1 or not isinstance(name[0], bytes):
            raise DataError(f"{where}: expected an id in {id_key}, found none; set id_key")
        for key, value in zip(keys, values, strict=True):
            floats = isinstance(value, np.ndarray)
            integers = isinstance(value, list) and not (value and isinstance(value[0], bytes))
            if value is not None and not (floats if key == "segment_scores" else integers):
                raise DataError(f"{where}: expected {key} of numbers, found something else; {_REMEDY}")
        yield where, name[0].decode("utf-8", "replace"), values
