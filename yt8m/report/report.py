"""Compare runs: a leaderboard in the terminal, and as Markdown, CSV, and an HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from yt8m.errors import ConfigError
from yt8m.files import write_text
from yt8m.report.leaderboard import Leaderboard
from yt8m.report.page import render
from yt8m.report.runs import find_runs

if TYPE_CHECKING:
    from yt8m.report.per_class import ClassFigures

FILES = ("leaderboard.md", "leaderboard.csv", "report.html")


def report(config: dict[str, Any]) -> None:
    """Read the runs, print their leaderboard, write the files of the report.

    Args:
        config: as in `conf/report.yaml`.

    Raises:
        ConfigError: an argument is wrong, or there is no run.
        OSError: the files cannot be written.
    """
    output = Path(config["output"]).expanduser()
    there = [str(output / name) for name in FILES if (output / name).exists()]
    if there and not config["overwrite"]:
        raise ConfigError(f"output: {there[0]} is there already; set overwrite=true, or another output")
    folders = [Path(str(folder)).expanduser() for folder in config["runs"]]
    board = Leaderboard.of(find_runs(folders), config["metric"])
    console = Console()
    board.print(console)
    classes = "classes=false was set." if not config["classes"] else _class_figures(board, config)
    if config["classes"] and isinstance(classes, str):
        console.print(
            f"figures of classes left out: {classes}", markup=False, highlight=False, soft_wrap=True
        )
    pages = (board.markdown(), board.csv(), render(board, classes))
    for name, text in zip(FILES, pages, strict=True):
        write_text(output / name, text)
    console.print(
        f"{board.counts}; written to {output / FILES[-1]}", markup=False, highlight=False, soft_wrap=True
    )


def _class_figures(board: Leaderboard, config: dict[str, Any]) -> "ClassFigures | str":
    """Figures of the best run's classes, or why there are none."""
    if not board.ranked:
        return "no run finished."
    from yt8m.report.per_class import class_figures  # imports torch

    try:
        return class_figures(board.ranked[0].checkpoint, config["dataset"], config["trusted_packages"])
    except (
        Exception
    ) as error:  # whatever is wrong with a checkpoint or its data, the rest of the report stands
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return kind + " ".join(str(error).split())
