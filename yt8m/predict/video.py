"""Prediction for a video file: what it is about, and when."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yt8m.api.model import Model, load
from yt8m.api.predictions import Prediction, Timeline
from yt8m.api.records import Record, video_record
from yt8m.errors import ConfigError, require
from yt8m.files import write_bytes, write_text
from yt8m.predict.timeline import clock, draw
from yt8m.video.extractor import FeatureExtractor

SHOWN = 8  # classes in the table over time and in the picture
TOP_GENRES = 3


def predict_video(config: dict[str, Any]) -> None:
    """Print the labels of a video file and their scores over time, and write both as a table and a picture.

    Args:
        config: as in `conf/predict.yaml`, with `video`.

    Raises:
        ConfigError: an argument is wrong, a weight file is missing, or the output exists.
        DataError: the file holds no video that can be decoded.
    """
    require("av", "video")
    require("matplotlib", "video")
    if not isinstance(config["ckpt_path"], str):
        raise ConfigError(f"ckpt_path: expected one checkpoint beside video, found {config['ckpt_path']}")
    if not isinstance(config["weights"], str) or config["weights"] == "fit":
        raise ConfigError(
            f"weights: expected the folder of weight files beside video, found {config['weights']}; see docs/extract.md"
        )
    video = Path(config["video"]).expanduser()
    if not video.is_file():
        found = "a folder" if video.is_dir() else "none"
        raise ConfigError(f"video: expected a local file, found {found} at {config['video']}")
    table, picture = outputs(config["output"], video, overwrite=config["overwrite"])
    device = "cpu" if config["trainer"].get("accelerator") == "cpu" else None
    extractor = FeatureExtractor.load(config["weights"], audio=config["audio"], device=device)
    model = load(config["ckpt_path"], device=device, trusted_packages=config["trusted_packages"])
    record, notes = extract(model, extractor, video)
    prediction = model.predict(record, top_k=config["top_k"])
    timeline = model.timeline(record, seconds=config["seconds"], top_k=SHOWN)

    seconds = len(next(iter(record.features.values())))
    ends = np.minimum(timeline.starts + config["seconds"], seconds)
    console = Console(highlight=False)
    for note in notes:
        console.print(f"note: {video}: {note}", markup=False, soft_wrap=True)
    _print_labels(console, prediction, video, seconds)
    _print_timeline(console, timeline, ends)
    write_text(table, as_csv(prediction, timeline, ends, seconds))
    write_bytes(picture, draw(video.name, timeline, ends))
    console.print(f"written: {table} and {picture}", markup=False, soft_wrap=True)


def outputs(output: str | None, video: Path, *, overwrite: bool) -> tuple[Path, Path]:
    """The paths of the table and the picture: `NAME.csv` and `NAME.png`. Raises ConfigError for a wrong one."""
    table = Path(output).expanduser() if output else Path(f"{video.stem}.predictions.csv")
    if table.suffix != ".csv":
        raise ConfigError(f"output: expected a name that ends in .csv, found {table}")
    if not table.absolute().parent.is_dir():
        raise ConfigError(f"output: expected a folder at {table.absolute().parent}, found none; make it")
    for path in (table, table.with_suffix(".png")):
        if path.is_dir() or (path.exists() and not overwrite):
            raise ConfigError(
                f"output: expected a new file, found one at {path}; set output or overwrite=true"
            )
    return table, table.with_suffix(".png")


def extract(model: Model, extractor: FeatureExtractor, video: Path) -> tuple[Record, tuple[str, ...]]:
    """The features of `video` that the model reads, and what to say of the file.

    Raises:
        ConfigError: the model reads a feature that is not extracted.
        DataError: the file holds no video that can be decoded.
    """
    sizes = extractor.feature_sizes
    names = {name: name.removeprefix("mean_") for name in model.feature_sizes}  # video-level names
    for name, extracted in names.items():
        if sizes.get(extracted) != model.feature_sizes[name]:
            hint = "; add VGGish to weights, or set audio=zeros" if extracted == "audio" else ""
            raise ConfigError(
                f"video: expected {extracted} of {model.feature_sizes[name]} values, as the checkpoint reads, found "
                f"{sizes.get(extracted, 'none')}{hint}"
            )
    found = extractor(video, max_frames=model.max_frames)
    return video_record(found, model.feature_sizes, video.name), found.notes


def as_csv(prediction: Prediction, timeline: Timeline, ends: np.ndarray, seconds: int) -> str:
    """A row per class and window: of the whole video first, then of each window."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["Start", "End", "Class", "Name", "Score"])
    whole = zip(prediction.classes.tolist(), prediction.names, prediction.scores.tolist(), strict=True)
    rows.writerows((0, seconds, index, name, f"{score:g}") for index, name, score in whole)
    for start, end, scores in zip(timeline.starts, ends, timeline.scores.tolist(), strict=True):
        window = zip(timeline.classes.tolist(), timeline.names, scores, strict=True)
        rows.writerows((f"{start:g}", f"{end:g}", index, name, f"{score:g}") for index, name, score in window)
    return text.getvalue()


def _print_labels(console: Console, prediction: Prediction, video: Path, seconds: int) -> None:
    table = Table(
        "label", "score", title=escape(f"{video.name}, the first {clock(seconds)}"), title_justify="left"
    )
    for name, score in zip(prediction.names, prediction.scores.tolist(), strict=True):
        table.add_row(escape(name), f"{score:.3f}")
    console.print(table)
    genres = zip(prediction.genres[:TOP_GENRES], prediction.genre_scores.tolist(), strict=False)
    if text := ", ".join(f"{name} {score:.3f}" for name, score in genres):
        console.print(f"genres: {text}", markup=False)


def _print_timeline(console: Console, timeline: Timeline, ends: np.ndarray) -> None:
    table = Table("from", "to", "best labels then", title="When", title_justify="left")
    for start, end, scores in zip(timeline.starts, ends, timeline.scores, strict=True):
        best = np.argsort(-scores, kind="stable")[:3]
        text = ", ".join(f"{timeline.names[i]} {scores[i]:.2f}" for i in best)
        table.add_row(clock(start), clock(end), escape(text))
    console.print(table)
