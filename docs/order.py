"""Writes docs/order.md, which networks tell the order of events: `make order`.

python docs/order.py RUN [RUN ...]    folders of runs on the embedded sample
"""

import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.progress import track

from yt8m.datamodules.sample import write_sample
from yt8m.report.per_class import ClassScore, class_stats
from yt8m.report.runs import FINISHED, find_runs

PAGE = Path(__file__).parent / "order.md"
FAMILIES = {"Order": "order only", "Rgb": "in rgb", "Audio": "in audio"}  # first word of a class's name
VIDEOS = signature(write_sample).parameters["train_videos"].default
TEXT = """\
# Which networks tell the order of events

Half of the embedded sample's classes come in pairs: event A, then event B, or B, then A, at random times. Both
classes of a pair have the same frames, so a network that pools frames finds the pair but guesses which of the two it
is: an average precision (AP) of about a half. Other classes show in the mean of rgb, or of audio. The table has the
mean AP of each kind on the validation videos, by `best.ckpt` of the finished runs of `make order` and, if there, `make
study`.

Of the networks with recurrent layers, `stream_lstm` passes what these found through one number per feature, by the
study's definition. `nn_stream_lstm`, `keras_stream_lstm`, and `keras_nn_stream_lstm` overfit 2,400 videos, and
`keras_bi_lstm` is still learning when its 15 epochs of them are over, so these four are also trained on more.
"""


class Row(NamedTuple):
    """One network: its mean AP of the families' classes, parameters, videos to train on, and epochs."""

    network: str
    aps: tuple[float, ...]
    parameters: float
    videos: int
    epochs: float


def family_aps(classes: Sequence[ClassScore]) -> tuple[float, ...]:
    """Mean AP of each family's classes, in the order of `FAMILIES`."""
    words = [one.name.partition(" ")[0] for one in classes]
    return tuple(
        fmean(one.average_precision for one, word in zip(classes, words, strict=True) if word == family)
        for family in FAMILIES
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown with a row per network, the best at order first."""
    lines = [
        f"| network | {' | '.join(FAMILIES.values())} | parameters | videos | epochs |",
        "|---|" + "---:|" * 6,
    ]
    for row in sorted(rows, key=lambda row: -row.aps[0]):
        cells = " | ".join(f"{ap:.3f}" for ap in row.aps)
        size = f"{row.parameters / 1e6:.2f} M"
        lines.append(f"| `{row.network}` | {cells} | {size} | {row.videos:,} | {row.epochs:.0f} |")
    return "\n".join(lines) + "\n"


def main(folders: Sequence[str]) -> None:
    rows = []
    runs = [run for run in find_runs([Path(folder) for folder in folders]) if run.status == FINISHED]
    for run in track(runs, "Scoring", transient=True):
        aps = family_aps(class_stats(run.checkpoint, {}).classes)
        videos = int(run.config.get("dataset.sample.train_videos", VIDEOS))
        rows.append(Row(run.model, aps, run.number("params") or 0, videos, run.number("epochs") or 0))
    PAGE.write_text(f"{TEXT}\n{table(rows)}", encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {len(rows)} networks\n")


if __name__ == "__main__":
    main(sys.argv[1:])
