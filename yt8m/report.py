"""Compare runs: `python -m yt8m.report RUN [RUN ...]`, folders of runs or multiruns."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from yt8m.cli import end, launch
from yt8m.config import CONFIG_DIR
from yt8m.errors import ConfigError

if TYPE_CHECKING:
    from yt8m.reports.classes import ClassFigures
    from yt8m.reports.leaderboard import Leaderboard

FILES = ("leaderboard.md", "leaderboard.csv", "report.html")
# Hydra's flags that take the next argument for their value.
_TAKE_A_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"}
_TAKE_A_VALUE |= {"--config-dir", "-cd"}


def report(cfg: DictConfig) -> None:
    """Read the runs, print their leaderboard, write the files of the report.

    Args:
        cfg: as in `conf/report.yaml`.

    Raises:
        ConfigError: an argument is wrong, or there is no run.
        OSError: the files cannot be written.
    """
    check(cfg)
    output = Path(cfg.output).expanduser()
    there = [str(output / name) for name in FILES if (output / name).exists()]
    if there and not cfg.overwrite:
        raise ConfigError(f"output: {there[0]} is there already; set overwrite=true, or another output")

    # Imported here: `--help` and a misspelt argument must not wait for them.
    from rich.console import Console

    from yt8m.reports.leaderboard import Leaderboard
    from yt8m.reports.page import render
    from yt8m.reports.runs import find_runs

    # Unresolved: a `${` in a folder's name is no interpolation.
    folders = [Path(str(folder)).expanduser() for folder in OmegaConf.to_container(cfg.runs, resolve=False)]
    board = Leaderboard.of(find_runs(folders), cfg.metric)
    console = Console()
    board.print(console)
    classes = "classes=false was set." if not cfg.classes else _class_figures(board, cfg)
    if cfg.classes and isinstance(classes, str):
        console.print(
            f"figures of classes left out: {classes}", markup=False, highlight=False, soft_wrap=True
        )
    pages = (board.markdown(), board.csv(), render(board, classes))
    output.mkdir(parents=True, exist_ok=True)
    for name, text in zip(FILES, pages, strict=True):
        partial = output / f"{name}.part"
        partial.write_text(text, encoding="utf-8")
        partial.replace(output / name)
    console.print(
        f"{board.counts}; written to {output / FILES[-1]}", markup=False, highlight=False, soft_wrap=True
    )


def _class_figures(board: "Leaderboard", cfg: DictConfig) -> "ClassFigures | str":
    """Figures of the best run's classes, or why there are none."""
    if not board.ranked:
        return "no run finished."
    from yt8m.reports.classes import class_figures

    try:
        return class_figures(board.ranked[0].checkpoint, OmegaConf.to_container(cfg.dataset))
    except (
        Exception
    ) as error:  # whatever is wrong with a checkpoint or its data, the rest of the report stands
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return kind + " ".join(str(error).split())


def check(cfg: DictConfig) -> None:
    """Raise `ConfigError` for the first argument of a wrong kind."""
    if OmegaConf.is_missing(cfg, "runs") or not OmegaConf.is_list(cfg.runs) or not cfg.runs:
        raise ConfigError(
            "runs: expected folders of runs, found none; try python -m yt8m.report outputs/train"
        )
    for key in ("output", "metric"):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise ConfigError(f"{key}: expected a text, found {cfg[key]!r}; see --help")
    for key in ("classes", "overwrite"):
        if not isinstance(cfg[key], bool):
            raise ConfigError(f"{key}: expected true or false, found {cfg[key]!r}")


def as_overrides(arguments: list[str]) -> list[str]:
    """The arguments with all folders gathered into one `runs=[...]`, quoted for Hydra's grammar.

    What exists is a folder, even with a `=` in its name, as the jobs of a multirun have.
    """
    folders, others = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_override = re.match(r"[+~]{0,2}[\w.@/]+=", argument) and not Path(argument).exists()
        if is_override or argument.startswith("-") or before in _TAKE_A_VALUE:
            others.append(argument)
        else:
            folders.append(argument)
    return [*others, f"runs=[{','.join(map(_quoted, folders))}]"] if folders else others


def _quoted(text: str) -> str:
    # Backslashes are themselves except before a single quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="report")
def _command(cfg: DictConfig) -> None:
    try:
        report(cfg)
    except ConfigError as error:
        end(2, f"error: {error}")
    except OSError as error:
        end(1, f"error: {error.filename or cfg.output}: {error.strerror or error}")


def main() -> None:
    """The command."""
    sys.argv[1:] = as_overrides(sys.argv[1:])
    launch(_command)


if __name__ == "__main__":
    main()
