"""The record of a run: versions and commit, and its results in the terminal."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from yt8m.metric_table import METRICS, PREFIX
from yt8m.module import VideoClassifier


def count_parameters(classifier: VideoClassifier) -> int:
    return sum(p.numel() for p in classifier.model.parameters())


def provenance() -> dict[str, Any]:
    """With what a result was made: versions of the packages, and the source's git commit where there is one."""
    packages = ("yt8m", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": git.stdout.strip() or None,
    }


def print_results(record: dict[str, Any], folder: Path) -> None:
    """The run's figures as a table, and where everything lies."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for partition, prefix in PREFIX.items():
        for genre, of_genres in (("", ""), ("genre_", " of genres")):
            for key, metric in METRICS.items():
                value = record.get(f"{prefix}/{genre}{key}")
                if value is not None:
                    table.add_row(f"{partition} {metric.title}{of_genres}", f"{value:{metric.format}}")
    for key, (title, form) in _FIGURES.items():
        if record.get(key) is not None:
            table.add_row(title, form.format(record[key]))
    table.add_row("output folder", str(folder))
    Console().print(table)


_FIGURES = {
    "params": ("parameters", "{:,}"),
    "lr": ("learning rate", "{:g}"),
    "epochs": ("epochs", "{}"),
    "batch_size": ("batch size", "{}"),
    "videos_per_second": ("videos/s", "{:,.0f}"),
    "seconds": ("seconds", "{:.1f}"),
    "skipped_records": ("records skipped", "{:,}"),
    "cpu_percent_mean": ("CPU use, mean", "{:.0f} %"),
    "cpu_percent_peak": ("CPU use, peak", "{:.0f} %"),
    "memory_gib_mean": ("memory, mean", "{:.2f} GiB"),
    "memory_gib_peak": ("memory, peak", "{:.2f} GiB"),
    "gpu_percent_mean": ("GPU use, mean", "{:.0f} %"),
    "gpu_percent_peak": ("GPU use, peak", "{:.0f} %"),
    "gpu_memory_gib_mean": ("GPU memory, mean", "{:.2f} GiB"),
    "gpu_memory_gib_peak": ("GPU memory, peak", "{:.2f} GiB"),
}
