"""The embedded sample: valid frame-level shards with planted signals, written once and then reused.

Every class can be recognized in one way only, so that networks differ for a reason:

- rgb themes: a fixed direction in rgb, in every frame. The mean over the video shows them.
- audio themes: the same in audio. Networks without audio cannot see them.
- order classes, in pairs: two short events in rgb, A then B or B then A, at random times. Both classes of
  a pair have the same distribution of means, so only a network that sees the order can distinguish them.

Frequencies follow Zipf's law by class index, and every video has a label. The first rgb themes are
parents: themes after the first few of either family occur only together with their parent. The real test
partitions have no labels; this one does, so that test metrics can be computed.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tfrecord.example_pb2 import SequenceExample

from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.parse.windows import SEGMENT_FRAMES
from yt8m.datamodules.tfrecord import framed
from yt8m.errors import ConfigError, WriteError

FORMAT = 1  # of the sample's content: a change here rewrites every sample
MANIFEST = "sample.json"
FEATURES = {"rgb": 1024, "audio": 128}
PARTITIONS = ("train", "validate", "test")

FAMILIES = ("forward", "backward", "rgb", "audio")  # of classes 0 to 3, and so on in turn
GENRES = ("Games", "Autos & Vehicles", "Arts & Entertainment", "Food & Drink")  # one per parent theme
DESCRIPTIONS = {
    "rgb": "A fixed direction in rgb, in every frame.",
    "audio": "A fixed direction in audio, in every frame.",
    "forward": "Event A, later event B, in rgb.",
    "backward": "Event B, later event A, in rgb.",
}
COLUMNS = ["Index", "TrainVideoCount", "KnowledgeGraphId", "Name", "WikiUrl"]
COLUMNS += ["Vertical1", "Vertical2", "Vertical3", "WikiDescription"]
#: Writes a sample with these parameters into a new folder.
Write = Callable[[Path, dict[str, int]], None]
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 4

# Levels of the quantized features: 127 is zero, and one step is 4 / 255.
NOISE = 64  # two uniform draws from 0 to 63 are added: standard deviation 26
THEME = 8
EVENT = 40
EVENT_FRAMES = (3, 5)  # shortest and longest


@dataclass(frozen=True)
class SampleClass:
    """One class of the sample. `other` is the reversed class of an order pair, `parent` a theme's parent."""

    index: int
    family: str
    name: str
    genre: str
    frequency: float
    other: int | None = None
    parent: int | None = None


def sample_classes(num_classes: int) -> list[SampleClass]:
    """The classes in index order, most frequent first.

    `frequency` is the share of videos before those without labels are redrawn.
    """
    families = [FAMILIES[index % len(FAMILIES)] for index in range(num_classes)]
    if families[-1] == "forward":  # its pair would lack the second class
        families[-1] = "rgb"
    parents = [index for index, family in enumerate(families) if family == "rgb"][: len(GENRES)]
    classes: list[SampleClass] = []
    for index, family in enumerate(families):
        number = families[:index].count(family)
        genre = number % len(parents)
        frequency = 1.2 / (index + 3)
        if family in ("forward", "backward"):
            other, name = (1, "A then B") if family == "forward" else (-1, "B then A")
            links: dict[str, Any] = {"other": index + other, "name": f"Order {number}: {name}"}
        else:
            parent = None if number < len(parents) else parents[genre]
            links = {"parent": parent, "name": f"{family.capitalize()} theme {number}"}
        classes.append(SampleClass(index, family, genre=GENRES[genre], frequency=frequency, **links))
    return classes


def draw_labels(rng: np.random.Generator, num_videos: int, classes: list[SampleClass]) -> np.ndarray:
    """Labels, bool [num_videos, C], at least one per video."""
    labels = np.zeros((num_videos, len(classes)), dtype=bool)
    empty = np.arange(num_videos)
    while empty.size:
        drawn = np.zeros((empty.size, len(classes)), dtype=bool)
        for sample_class, chance in zip(classes, rng.random(drawn.shape[::-1]), strict=True):
            index, frequency = sample_class.index, sample_class.frequency
            if sample_class.family == "backward":
                frequency /= 1 - classes[sample_class.other].frequency
                drawn[:, index] = ~drawn[:, sample_class.other] & (chance < frequency)
            elif sample_class.parent is not None:
                frequency /= classes[sample_class.parent].frequency
                drawn[:, index] = drawn[:, sample_class.parent] & (chance < frequency)
            else:
                drawn[:, index] = chance < frequency
        labels[empty] = drawn
        empty = np.flatnonzero(~labels.any(axis=1))
    return labels


def draw_noise(rng: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """Frames without a signal, int16 [num_frames, size], around 128."""
    # What `rng.integers(0, NOISE, dtype=np.uint8)` draws, in half the time: the upper bits of each byte.
    drawn = np.frombuffer(rng.bytes(2 * num_frames * size), np.uint8) // (256 // NOISE)
    first, second = drawn.reshape(2, num_frames, size)
    return np.asarray((first + second + (128 - NOISE)).astype(np.int16))


def draw_video(
    rng: np.random.Generator, num_frames: int, labelled: list[SampleClass], patterns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Frames of one video, uint8 [num_frames, D] per feature; integers only, so the same on every machine.

    `patterns` has a direction per class and feature, int16 [C, D] of -1 and 1. An order class's direction is the
    event that comes first in it.
    """
    frames = {name: draw_noise(rng, num_frames, size) for name, size in FEATURES.items()}
    for sample_class in labelled:
        if sample_class.family in FEATURES:
            feature = sample_class.family
            frames[feature] += THEME * patterns[feature][sample_class.index]
        else:
            first, second = rng.integers(EVENT_FRAMES[0], EVENT_FRAMES[1] + 1, size=2)
            start, later = np.sort(rng.integers(0, num_frames - first - second + 1, size=2))
            later += first
            frames["rgb"][start : start + first] += EVENT * patterns["rgb"][sample_class.index]
            frames["rgb"][later : later + second] += EVENT * patterns["rgb"][sample_class.other]
    return {name: np.clip(values, 0, 255).astype(np.uint8) for name, values in frames.items()}


def serialize(
    video_id: str,
    labels: np.ndarray,
    frames: dict[str, np.ndarray],
    ratings: Iterable[tuple[int, int, bool]] = (),
) -> bytes:
    """A frame-level record; `ratings` are (start, class, truth) of segments."""
    record = SequenceExample()
    record.context.feature["id"].bytes_list.value.append(video_id.encode())
    record.context.feature["labels"].int64_list.value.extend(labels.tolist())
    for start, label, truth in ratings:
        for name, number in (
            ("start_times", start),
            ("end_times", start + SEGMENT_FRAMES),
            ("labels", label),
        ):
            record.context.feature[f"segment_{name}"].int64_list.value.append(number)
        record.context.feature["segment_scores"].float_list.value.append(truth)
    for name, rows in frames.items():
        features = record.feature_lists.feature_list[name].feature
        for row in rows:
            features.add().bytes_list.value.append(row.tobytes())
    return record.SerializeToString(deterministic=True)  # otherwise the order of map keys varies


def draw_ids(rng: np.random.Generator, count: int) -> list[str]:
    base = len(ALPHABET)
    numbers = rng.choice(base**ID_LENGTH, size=count, replace=False).tolist()
    return [
        "".join(ALPHABET[number // base**place % base] for place in range(ID_LENGTH)) for number in numbers
    ]


def _write_vocabulary(
    path: Path, rng: np.random.Generator, classes: list[SampleClass], counts: np.ndarray
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for index in rng.permutation(len(classes)):  # the official rows are not in index order either
            entry = classes[index]
            description = DESCRIPTIONS[entry.family]
            if entry.parent is not None:
                description += f" Occurs only together with {classes[entry.parent].name}."
            graph_id = f"/sample/{index}"
            table.writerow([index, counts[index], graph_id, entry.name, "", entry.genre, "", "", description])


def _write(folder: Path, parameters: dict[str, int]) -> None:
    """Write a whole sample into the new folder."""
    classes = sample_classes(parameters["num_classes"])
    # One random stream per partition: the size of one does not change the frames of another.
    shared, *streams = (
        np.random.default_rng([parameters["seed"], part]) for part in range(1 + len(PARTITIONS))
    )
    patterns = {
        name: 2 * shared.integers(0, 2, size=(len(classes), size), dtype=np.int16) - 1
        for name, size in FEATURES.items()
    }
    total = sum(parameters[f"{partition}_videos"] for partition in PARTITIONS)
    video_ids = iter(draw_ids(shared, total))
    for partition, rng in zip(PARTITIONS, streams, strict=True):
        labels = draw_labels(rng, parameters[f"{partition}_videos"], classes)
        if partition == "train":
            _write_vocabulary(folder / "vocabulary.csv", shared, classes, labels.sum(axis=0))
        (folder / partition).mkdir()
        for shard, rows in enumerate(np.array_split(labels, parameters["shards"])):
            with (folder / partition / f"{partition}{shard:04d}.tfrecord").open("wb") as file:
                for row in rows:
                    num_frames = rng.integers(parameters["min_frames"], parameters["max_frames"] + 1)
                    indices = np.flatnonzero(row)
                    frames = draw_video(rng, num_frames, [classes[index] for index in indices], patterns)
                    file.write(framed(serialize(next(video_ids), indices, frames)))


def _sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every file below the folder, by relative path, without the indices that `verify` writes."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    paths = sorted(path for path in found if path.suffix != ".tfindex")
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in paths}


def _manifest(root: Path) -> dict:
    """The manifest of the sample at root; empty if this module did not write one."""
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        is_ours = manifest.keys() == {"format", "parameters", "files"} and isinstance(manifest["files"], dict)
    except (OSError, ValueError, AttributeError):
        return {}
    return manifest if is_ours else {}


def _is_current(root: Path, parameters: dict[str, int]) -> bool:
    manifest = _manifest(root)
    if (manifest.get("format"), manifest.get("parameters")) != (FORMAT, parameters):
        return False
    try:
        return all((root / path).stat().st_size == size for path, size in manifest["files"].items())
    except OSError:
        return False


def _check_replaceable(root: Path) -> None:
    """Raise ConfigError if root holds anything that is not part of an earlier sample."""
    if not root.exists():
        return
    manifest = _manifest(root)
    ours = {MANIFEST, *manifest["files"]} if manifest else set()
    found = _sizes(root).keys() if root.is_dir() else {root.name}
    if foreign := sorted(found - ours):
        raise ConfigError(
            f"dataset.root: expected an absent or empty folder, or a sample, at {root}, found {foreign[0]}, "
            "which is not part of a sample; move it away or choose another dataset.root"
        )


def _check(parameters: dict[str, int]) -> None:
    """Raise ConfigError if a parameter is out of range."""
    least = dict.fromkeys(parameters, 1)
    least |= {"num_classes": len(FAMILIES), "min_frames": 2 * EVENT_FRAMES[1], "seed": 0}
    least["max_frames"] = parameters["min_frames"]
    for name, lowest in least.items():
        key = "dataset.num_classes" if name == "num_classes" else f"dataset.sample.{name}"
        value = parameters[name]
        if not isinstance(value, int) or value < lowest:
            raise ConfigError(f"{key}: expected a whole number, {lowest} or more, found {value!r}")
    fewest = min(PARTITIONS, key=lambda partition: parameters[f"{partition}_videos"])
    videos = parameters[f"{fewest}_videos"]
    if parameters["shards"] > videos:
        raise ConfigError(
            f"dataset.sample.shards: expected at most one per video, found {parameters['shards']} for the "
            f"{videos} videos of {fewest}; lower it or raise dataset.sample.{fewest}_videos"
        )


def _replace(target: Path, parameters: dict[str, int], write: Write) -> None:
    """Write the sample beside `target` and swap it in; the caller holds the lock."""
    fresh, stale = (target.with_name(f".{target.name}.{state}") for state in ("fresh", "stale"))

    def clear() -> None:
        for folder in (fresh, stale):
            shutil.rmtree(folder, ignore_errors=True)

    clear()  # leftovers of a killed process
    try:
        fresh.mkdir()
        write(fresh, parameters)
        manifest = {"format": FORMAT, "parameters": parameters, "files": _sizes(fresh)}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(stale)
        fresh.rename(target)
    finally:
        clear()


def write_once(root: Path, parameters: dict[str, int], write: Write) -> Path:
    """Let `write` fill `root`, unless it has already done so with these parameters; returns `root`.

    Several processes may call this at once: one writes beside `root` and renames, the others wait, and none ever sees
    half a sample. Raises as `write_sample` does.
    """
    root = Path(root)
    try:
        target = root.resolve()  # a symbolic link stays one
        if _is_current(target, parameters):
            return root
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not _is_current(target, parameters):  # another process may have written it meanwhile
                _check_replaceable(target)
                _replace(target, parameters, write)
    except OSError as error:
        raise WriteError(
            f"dataset.root: the sample could not be written to {root} ({error.strerror or error}); free space on the "
            "disk or choose another dataset.root"
        ) from error
    return root


def write_sample(
    root: Path,
    *,
    train_videos: int = 2400,
    validate_videos: int = 400,
    test_videos: int = 300,
    num_classes: int = 40,
    min_frames: int = 12,
    max_frames: int = 32,
    shards: int = 4,
    seed: int = 0,
) -> Path:
    """Write the sample with these parameters to `root`, unless it is there already.

    The content depends only on the parameters. Several processes may call this at once (`write_once`).

    Args:
        root: folder of `train/`, `validate/`, `test/`, `vocabulary.csv` and `sample.json`.
        train_videos, validate_videos, test_videos: videos per partition.
        num_classes: C, at least 4.
        min_frames, max_frames: range of the videos' lengths, both inclusive; at least 10.
        shards: files per partition.
        seed: of everything that is random.

    Returns:
        `root`.

    Raises:
        ConfigError: a parameter is out of range, or `root` contains files that are not part of a sample; those are
            never deleted.
        WriteError: the disk is full, or `root` cannot be written.
    """
    parameters = {
        "train_videos": train_videos,
        "validate_videos": validate_videos,
        "test_videos": test_videos,
        "num_classes": num_classes,
        "min_frames": min_frames,
        "max_frames": max_frames,
        "shards": shards,
        "seed": seed,
    }
    _check(parameters)
    return write_once(root, parameters, _write)


class SampleDataModule(YT8MDataModule):
    """`YT8MDataModule` of the embedded sample, which `prepare_data` writes if it is missing.

    Args:
        sample: arguments of `write_sample`, except the number of classes.
        arguments: those of `YT8MDataModule`.
    """

    write: Callable[..., Path] = staticmethod(write_sample)

    def __init__(self, *, sample: dict[str, Any], **arguments: Any):
        super().__init__(**arguments)
        self.sample = sample

    def prepare_data(self) -> None:
        if not self.read_only and isinstance(self.root, Path):
            self.write(self.root, num_classes=self.num_classes, **self.sample)
