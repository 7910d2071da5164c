"""How far extracted features are from shipped ones of the same videos."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from yt8m.api.records import open_shards
from yt8m.errors import ConfigError
from yt8m.files import write_json

REPORT = "compare.json"
STEP = 4 / 255  # between two quantized values


def compare(output: Path, shipped: Path, console: Console) -> None:
    """Print the distance to the shipped features with the same ids, and write it to `compare.json` in `output`.

    An id of the output is the last part of a file's name, without its ending, or the whole id.

    Args:
        output: folder of this program's shards.
        shipped: folder with frame-level shards, at any depth.

    Raises:
        ConfigError: there are no shards, or no id is in both.
        DataError: a shard is damaged.
    """
    paths = sorted(shipped.rglob("*.tfrecord"))
    if not paths:
        raise ConfigError(
            f"compare: expected a folder with frame-level *.tfrecord shards, found none in {shipped}"
        )
    ours = {}
    for record in open_shards(output / "2" / "frame"):
        ours[record.id] = record.features
        ours.setdefault(Path(record.id).name, record.features)
    results, previous = [], None
    for path in paths:
        shard = open_shards(path)
        for record in shard if shard.level == "frame" else ():
            if record.id in ours:
                results.append(distances(record.id, ours[record.id], record.features, previous))
            previous = record.features
    if not results:
        raise ConfigError(
            f"compare: expected files named as the id of a video in {shipped}, such as AbCd.mp4, found none "
            f"among those of {output}"
        )
    write_json(output / REPORT, {"shipped": str(shipped), "videos": results})
    console.print(_table(results))


def distances(
    identifier: str,
    ours: dict[str, np.ndarray],
    shipped: dict[str, np.ndarray],
    other: dict[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Distances of each feature over the frames that both have.

    Args:
        identifier: of the video.
        ours, shipped: uint8 [T, D] of each feature.
        other: of another video, to know how far apart unrelated features are.

    Returns:
        for each feature: `mean_difference` of the dequantized values; `equal`, the share of equal bytes; `near`, that
        of bytes that differ by 1 at most; `cosine`, the mean over frames; `other`, `mean_difference` to `other`.
    """
    result: dict[str, Any] = {"id": identifier}
    for feature in ours.keys() & shipped.keys():
        count = min(len(ours[feature]), len(shipped[feature]))
        a, b = (one[feature][:count].astype(np.float64) for one in (ours, shipped))
        steps, (x, y) = np.abs(a - b), (a - 127.5, b - 127.5)
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        result[feature] = {
            "frames": [len(ours[feature]), len(shipped[feature])],
            "mean_difference": float(steps.mean() * STEP),
            "equal": float((steps == 0).mean()),
            "near": float((steps <= 1).mean()),
            "cosine": float(((x * y).sum(axis=1) / norms).mean()),
            "other": None,
        }
        if other is not None and feature in other:
            common = min(count, len(other[feature]))
            unrelated = np.abs(a[:common] - other[feature][:common].astype(np.float64))
            result[feature]["other"] = float(unrelated.mean() * STEP)
    return result


def _table(results: list[dict[str, Any]]) -> Table:
    columns = (
        "feature",
        "videos",
        "mean difference",
        "to another video",
        "equal bytes",
        "within 1",
        "cosine",
    )
    table = Table(*columns, title="Distance to the shipped features")
    for feature in ("rgb", "audio"):
        rows = [one[feature] for one in results if feature in one]
        if rows:
            others = [row["other"] for row in rows if row["other"] is not None]
            means = {
                key: np.mean([row[key] for row in rows])
                for key in ("mean_difference", "equal", "near", "cosine")
            }
            table.add_row(
                feature,
                str(len(rows)),
                f"{means['mean_difference']:.4f}",
                f"{np.mean(others):.4f}" if others else "",
                f"{means['equal']:.1%}",
                f"{means['near']:.1%}",
                f"{means['cosine']:.4f}",
            )
    return table
