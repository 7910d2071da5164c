"""The record of a run: versions and commit, and its results in the terminal."""

import importlib.metadata
import platform
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from yt8m.metric_table import METRICS
from yt8m.module import VideoClassifier


def count_parameters(classifier: VideoClassifier) -> int:
    return sum(p.numel() for p in classifier.model.parameters())


def provenance() -> dict[str, Any]:
    """What produced a result: versions of the packages, and the git commit if the package runs from its checkout."""
    packages = ("yt8m", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    # The version of torch's package may leave out for which CUDA it was built.
    versions = {"python": platform.python_version(), "torch": torch.__version__, **versions}
    return {
        "versions": versions,
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
    }


def git_commit(checkout: Path) -> str | None:
    """HEAD of this project's checkout; None for an installed package (even in a foreign repository) and without git."""
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
        if project != "yt8m" or not (checkout / ".git").exists():
            return None
        git = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, KeyError, ValueError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()


def print_results(record: dict[str, Any], folder: Path) -> None:
    """Print a run's metrics, a column per checkpoint and partition, then its stats and its folder."""
    console = make_console()
    console.print(_metrics_table(record))
    stats = Table(show_header=False, box=None, pad_edge=False)
    for key, (title, form) in _STATS.items():
        if record.get(key) is not None:
            stats.add_row(title, form.format(record[key]))
    console.print(stats)
    # Not in a table, which would cut a long path.
    console.print(f"output folder: {folder}", soft_wrap=True, highlight=False, markup=False)


def make_console() -> Console:
    """A console for results; it cuts or wraps nothing where the output is piped."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(emoji=False, width=10_000)


def _metrics_table(record: dict[str, Any]) -> Table:
    """Rows are metrics; columns are the best and the last validation, test and training, if the record has them."""
    best_epoch, epochs = record.get("best_epoch"), record.get("epochs")
    columns = {
        "val/": f"validate, best (epoch {best_epoch})" if best_epoch else "validate",
        "last/val/": f"validate, last (epoch {epochs})",
        "test/": "test",
        "train/": "train",
    }
    columns = {
        prefix: title for prefix, title in columns.items() if any(key.startswith(prefix) for key in record)
    }
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in columns.values():
        table.add_column(title, justify="right")
    for genre, of_genres in (("", ""), ("genre_", " of genres")):
        for key, metric in METRICS.items():
            values = [record.get(f"{prefix}{genre}{key}") for prefix in columns]
            if any(value is not None for value in values):
                cells = ("" if value is None else f"{value:{metric.format}}" for value in values)
                title = metric.title if genre else metric.title_at(record.get("level"))
                table.add_row(f"{title}{of_genres}", *cells)
    return table


_STATS = {
    "params": ("parameters", "{:,}"),
    "lr": ("learning rate", "{:g}"),
    "epochs": ("epochs", "{}"),
    "batch_size": ("batch size", "{}"),
    "videos_per_second": ("videos/s", "{:,.0f}"),
    "seconds": ("seconds", "{:.1f}"),
    "compile_seconds": ("  compiling", "{:.1f}"),
    "input_seconds": ("  waiting for input", "{:.1f}"),
    "step_seconds": ("  steps", "{:.1f}"),
    "validation_seconds": ("  validation", "{:.1f}"),
    "checkpoint_seconds": ("  waiting for checkpoints", "{:.1f}"),
    "cache_wait_seconds": ("readers waiting for shards", "{:.1f}"),
    "download_bytes": ("bytes downloaded", "{:,.0f}"),
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
