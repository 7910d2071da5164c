"""The embedded sample: valid frame-level shards with planted signals, written once and then re-used.

Every class is visible in one way only, so that networks differ for a reason:

- rgb themes: a fixed direction in rgb, in every frame. The mean over the video shows them.
- audio themes: the same in audio. Networks that drop audio cannot see them.
- order classes, in pairs: two short events in rgb, A then B or B then A, at random times. Both classes of
  a pair have the same distribution of means, so only a network that sees the order can tell them apart.

Frequencies fall like Zipf's law with the class index. Every video has a label; the first rgb themes are
parents, and each later theme occurs only together with its parent. The real test partitions carry no
labels; this one does, so that test metrics can be computed.
"""

import csv
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from google_crc32c import value as crc32c
from tfrecord.example_pb2 import SequenceExample

from yt8m.errors import ConfigError

FORMAT = 1  # of the sample's content: a change here has every sample written anew
MANIFEST = "sample.json"
FEATURES = {"rgb": 1024, "audio": 128}
PARTITIONS = ("train", "validate", "test")

FAMILIES = ("forward", "backward", "rgb", "audio", "rgb")  # of classes 0 to 4, and so on in turn
GENRES = ("Games", "Autos & Vehicles", "Arts & Entertainment", "Food & Drink")  # one per parent theme
DESCRIPTIONS = {
    "rgb": "A fixed direction in rgb, in every frame.",
    "audio": "A fixed direction in audio, in every frame.",
    "forward": "Event A, later event B, in rgb.",
    "backward": "Event B, later event A, in rgb.",
}
COLUMNS = (
    "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription"
).split(",")
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 4

# Levels of the quantised features, of which 127 is zero and one is 4 / 255.
NOISE = 64  # two uniform draws from 0 to 63 are added: standard deviation 26
THEME = 6
EVENT = 16
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
    """The classes in index order, which is the order of falling `frequency` (expected share of videos)."""
    families = [FAMILIES[index % len(FAMILIES)] for index in range(num_classes)]
    if families[-1] == "forward":  # the pair would lack its second class
        families[-1] = "rgb"
    parents = [index for index, family in enumerate(families) if family == "rgb"][: len(GENRES)]
    classes: list[SampleClass] = []
    for index, family in enumerate(families):
        number = families[:index].count(family)
        genre = number % len(parents)
        frequency = 1.2 / (index + 3)
        if family in ("forward", "backward"):
            other, name = (1, "A then B") if family == "forward" else (-1, "B then A")
            links = {"other": index + other, "name": f"Order {number}: {name}"}
        else:
            parent = None if index in parents else parents[genre]
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


def draw_video(
    rng: np.random.Generator, num_frames: int, labelled: list[SampleClass], patterns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Frames of one video, uint8 [num_frames, D] per feature; integers only, so equal on every machine.

    `patterns` has a direction per class and feature, int16 [C, D] of -1 and 1. That of an order class is
    the event which comes first in it.
    """
    frames = {}
    for name, size in FEATURES.items():
        noise = rng.integers(0, NOISE, size=(2, num_frames, size), dtype=np.uint8)
        frames[name] = noise.sum(axis=0, dtype=np.int16) + (128 - NOISE)
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
