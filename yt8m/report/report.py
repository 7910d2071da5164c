"""Compare runs: a leaderboard in the terminal, as Markdown and CSV, and an HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from yt8m.errors import ConfigError
from yt8m.files import write_text
from yt8m.report.leaderboard import Leaderboard
from yt8m.report.page import render
from yt8m.report.runs import clean, find_runs
from yt8m.report.seeds import OverSeeds, Place

if TYPE_CHECKING:
    from yt8m.report.per_class import ClassStats

FILES = ("leaderboard.md", "leaderboard.csv", "report.html")


def report(config: dict[str, Any]) -> None:
    """Read the runs, print the leaderboard, and write the report's files.

    Args:
        config: as in `conf/report.yaml`.

    Raises:
        ConfigError: a setting is wrong, or there is no run.
        WriteError: a file cannot be written.
    """
    output = Path(config["output"]).expanduser()
    existing = [str(output / name) for name in FILES if (output / name).exists()]
    if existing and not config["overwrite"]:
        raise ConfigError(
            f"output: {existing[0]} already exists; set overwrite=true or choose another output"
        )
    into = Place(Path(config["into"]).expanduser(), config["place"]) if config["into"] else None
    if into:
        into.page()
    folders = [Path(str(folder)).expanduser() for folder in config["runs"]]
    board = Leaderboard.of(find_runs(folders), config["metric"])
    console = Console()
    board.print(console)
    seeds = OverSeeds.of(board)
    if seeds.is_grouped:
        seeds.print(console)
    classes = _class_stats(board, config) if config["classes"] else "classes=false was set."
    if config["classes"] and isinstance(classes, str):
        _print(console, f"class statistics left out: {classes}")
    over_seeds = f"\n## Over seeds\n\n{seeds.markdown()}" if seeds.is_grouped else ""
    pages = (board.markdown() + over_seeds, board.csv(), render(board, classes))
    for name, text in zip(FILES, pages, strict=True):
        write_text(output / name, text)
    if into:
        into.write(seeds.markdown())
    _print(console, f"{board.counts}; written to {output / FILES[-1]}")


def _class_stats(board: Leaderboard, config: dict[str, Any]) -> "ClassStats | str":
    """Statistics of the best run's classes, or one line on why there are none."""
    if not board.trained:
        return "no run finished."
    from yt8m.report.per_class import class_stats  # imports torch

    try:
        return class_stats(board.trained[0].checkpoint, config["dataset"], config["trusted_packages"])
    except Exception as error:  # a broken checkpoint or dataset must not cost the rest of the report
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return clean(f"{kind}{error}")


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
