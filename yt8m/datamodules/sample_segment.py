"""A made-up dataset of rated segments, whose answer only the right five seconds carry.

Every class has two directions, in rgb. Its theme is in all frames of a video with the label, its event in the frames of
a few of the video's segments, and only these segments are true. So a network that learns from whole videos knows which
videos have a class, and does not learn where: theme and event tell it the same. In some videos the label was a mistake
of the machine that labeled them: the theme is there, and no event.

As in YouTube-8M's segments of 2019, ratings are of a video's labels, for a few segments each, some true and some false;
every second training video has none; and a part of the classes is never rated (`segment_label_ids.csv` has the others).
"""

import csv
from itertools import count
from pathlib import Path

import numpy as np

from yt8m.datamodules.parse.windows import SEGMENT_FRAMES, every_start
from yt8m.datamodules.sample import (
    COLUMNS,
    FEATURES,
    PARTITIONS,
    SampleDataModule,
    draw_ids,
    draw_noise,
    serialize,
    write_once,
)
from yt8m.datamodules.tfrecord import framed
from yt8m.errors import ConfigError
from yt8m.labels import SEGMENT_LABEL_IDS

THEME, EVENT = 8, 4  # in levels of the quantized features, as in `yt8m.datamodules.sample`
MOST_LABELS = 3  # of a video
MOST_EVENTS = 3  # segments with a class's event
MISTAKEN = 0.2  # share of the labels without an event
RATED = 5  # segments of a video that are rated for a class, at most
RATED_EVERY = 2  # of the training videos, one in so many is rated
UNRATED_CLASSES = 4  # of the classes, one in so many is never rated


def write_sample_segment(
    root: Path,
    *,
    train_videos: int = 1000,
    validate_videos: int = 200,
    test_videos: int = 200,
    num_classes: int = 20,
    min_frames: int = 42,
    max_frames: int = 60,
    shards: int = 2,
    seed: int = 0,
) -> Path:
    """Write the dataset with these parameters to `root`, unless it is there already; see `sample.write_once`.

    Args:
        root: folder of `train/`, `validate/`, `test/`, `vocabulary.csv` and `segment_label_ids.csv`.
        train_videos, validate_videos, test_videos: videos per partition.
        num_classes: C, at least 4.
        min_frames, max_frames: range of the videos' lengths, both inclusive; at least 20.
        shards: files per partition.
        seed: of everything that is random.

    Raises:
        ConfigError: a parameter is out of range, or `root` holds files that are not part of a sample.
        WriteError: the disk is full, or `root` cannot be written.
    """
    parameters = {name: value for name, value in locals().items() if name != "root"}
    least = dict.fromkeys(parameters, 1) | {"num_classes": 4, "min_frames": 20, "seed": 0}
    least["max_frames"] = min_frames
    for partition in PARTITIONS:
        least[f"{partition}_videos"] = shards
    for name, lowest in least.items():
        if not isinstance(parameters[name], int) or parameters[name] < lowest:
            key = "dataset.num_classes" if name == "num_classes" else f"dataset.sample.{name}"
            raise ConfigError(f"{key}: expected a whole number, {lowest} or more, found {parameters[name]!r}")
    return write_once(root, parameters | {"segments": 1}, _write)


def _write(folder: Path, parameters: dict[str, int]) -> None:
    classes = parameters["num_classes"]
    # One random stream per partition: the size of one does not change the frames of another.
    shared, *streams = (
        np.random.default_rng([parameters["seed"], part]) for part in range(1 + len(PARTITIONS))
    )
    directions = 2 * shared.integers(0, 2, (2, classes, FEATURES["rgb"]), np.int16) - 1
    ids = iter(draw_ids(shared, sum(parameters[f"{partition}_videos"] for partition in PARTITIONS)))
    counts = np.zeros(classes, np.int64)
    for partition, rng in zip(PARTITIONS, streams, strict=True):
        (folder / partition).mkdir()
        numbers = count()
        for shard, videos in enumerate(
            np.array_split(np.arange(parameters[f"{partition}_videos"]), parameters["shards"])
        ):
            with (folder / partition / f"{partition}{shard:04d}.tfrecord").open("wb") as file:
                for _ in videos:
                    length = int(rng.integers(parameters["min_frames"], parameters["max_frames"] + 1))
                    labels, frames, ratings = _draw_video(rng, length, directions)
                    if partition == "train":
                        counts[labels] += 1
                        ratings = ratings if next(numbers) % RATED_EVERY == 0 else []
                    file.write(framed(serialize(next(ids), labels, frames, ratings)))
    with (folder / "vocabulary.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for index in range(classes):
            table.writerow({"Index": index, "TrainVideoCount": counts[index], "Name": f"Event {index}"})
    listed = "".join(f"{index}\n" for index in range(classes) if _is_rated(index))
    (folder / SEGMENT_LABEL_IDS).write_text(f"Index\n{listed}", encoding="utf-8")


def _draw_video(
    rng: np.random.Generator, length: int, directions: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], list[tuple[int, int, bool]]]:
    """Labels, frames, and ratings of a video of `length` frames."""
    frames = {name: draw_noise(rng, length, size) for name, size in FEATURES.items()}
    themes, events = directions
    labels = np.sort(rng.choice(len(themes), rng.integers(1, MOST_LABELS + 1), replace=False))
    starts = np.array(every_start(length))
    ratings: list[tuple[int, int, bool]] = []
    for label in labels.tolist():
        frames["rgb"] += THEME * themes[label]
        number = 0 if rng.random() < MISTAKEN else rng.integers(1, MOST_EVENTS + 1)
        true = rng.choice(starts, number, replace=False)
        for start in true.tolist():
            frames["rgb"][start : start + SEGMENT_FRAMES] += EVENT * events[label]
        false = rng.choice(
            np.setdiff1d(starts, true), min(RATED - number, len(starts) - number), replace=False
        )
        if _is_rated(label):
            ratings += [(start, label, True) for start in true.tolist()]
            ratings += [(start, label, False) for start in false.tolist()]
    return labels, {name: np.clip(rows, 0, 255).astype(np.uint8) for name, rows in frames.items()}, ratings


def _is_rated(label: int) -> bool:
    return label % UNRATED_CLASSES != UNRATED_CLASSES - 1


class SampleSegmentDataModule(SampleDataModule):
    """`SampleDataModule` of the made-up segments; `sample` has arguments of `write_sample_segment`."""

    write = staticmethod(write_sample_segment)
