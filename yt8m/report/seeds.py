"""Runs that differ only by their seed, as one row: mean ± deviation of the scores."""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yt8m.config import mode_of
from yt8m.errors import ConfigError
from yt8m.files import write_text
from yt8m.report.hyperparameters import is_hyperparameter
from yt8m.report.leaderboard import MACHINE, SETTINGS, TEST, VALIDATION, Column, Leaderboard, table_row
from yt8m.report.run_labels import label_runs
from yt8m.report.runs import Run

CAPTION = (
    "Means over runs that differ only by seed, ± the sample standard deviation. Scores are those of best.ckpt; "
    "Videos/s and seconds are of training."
)

_MEANS = tuple(
    column for column in (*SETTINGS, *MACHINE) if column.key in ("params", "videos_per_second", "seconds")
)
_DATA = ("dataset.root", "dataset.train", "dataset.validate", "dataset.test")


@dataclass(frozen=True)
class Recipe:
    """Runs of one configuration, each with another seed; a label that no other recipe has."""

    label: str
    runs: list[Run]

    def values(self, column: Column) -> list[float]:
        return [value for run in self.runs if (value := run.number(column.key)) is not None]

    def mean(self, column: Column) -> float | None:
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def text(self, column: Column) -> str:
        """`0.6721 ± 0.0008`; of what a run costs, and of a single run, only the mean."""
        values, mean = self.values(column), self.mean(column)
        if mean is None:
            return "–"
        spread = f" ± {statistics.stdev(values):{column.form}}" if len(values) > 1 else ""
        return f"{mean:{column.form}}{'' if column in _MEANS else spread}"


@dataclass(frozen=True)
class OverSeeds:
    """A leaderboard's recipes, best mean first, and the columns that have a value for some of them."""

    metric: str
    recipes: list[Recipe]
    columns: list[Column]

    @classmethod
    def of(cls, board: Leaderboard) -> "OverSeeds":
        """Group the ranked runs. Of two with the same seed, the one whose folder comes later counts."""
        groups: dict[object, dict[object, Run]] = {}
        for run in sorted(board.ranked, key=lambda run: run.name):
            groups.setdefault(_identity(run), {})[run.config.get("seed")] = run
        members = [list(by_seed.values()) for by_seed in groups.values()]
        seedless = [_without_seed(runs[0]) for runs in members]
        label_runs(seedless)
        recipes = [Recipe(one.label, runs) for one, runs in zip(seedless, members, strict=True)]
        by_metric = next((column for column in board.columns if column.key == board.metric), None)
        scores = [column for column in (*VALIDATION, *TEST) if not column.key.endswith("loss")]
        columns = [*scores, *_MEANS]
        if by_metric is not None:
            sign = 1 if mode_of(board.metric) == "min" else -1
            recipes.sort(key=lambda recipe: sign * (recipe.mean(by_metric) or 0.0))
            columns = columns if by_metric in columns else [by_metric, *columns]
        used = [column for column in columns if any(recipe.values(column) for recipe in recipes)]
        return cls(board.title, recipes, used)

    @property
    def is_grouped(self) -> bool:
        """Whether any recipe has several seeds."""
        return any(len(recipe.runs) > 1 for recipe in self.recipes)

    @property
    def caption(self) -> str:
        return f"Ranked by {self.metric}. {CAPTION}"

    def rows(self) -> list[list[str]]:
        """Rank, recipe, seeds, and a cell per column."""
        return [
            [str(rank), one.label, str(len(one.runs)), *(one.text(column) for column in self.columns)]
            for rank, one in enumerate(self.recipes, start=1)
        ]

    def markdown(self) -> str:
        """The table and its caption."""
        headings = ["", "Recipe", "Seeds", *(column.heading for column in self.columns)]
        lines = [table_row(*headings), table_row("---:", "---", *["---:"] * (len(headings) - 2))]
        lines += [table_row(*row) for row in self.rows()]
        return "\n".join([*lines, "", self.caption]) + "\n"

    def print(self, console: Console) -> None:
        title = Text(f"over seeds, by {self.metric}", style="table.title")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        table.add_column("", justify="right")
        table.add_column("Recipe", overflow="fold", min_width=12)
        for heading in ("Seeds", *(column.heading for column in self.columns)):
            table.add_column(Text(heading.replace(" ", "\n")), justify="right")
        for rank, label, *cells in self.rows():
            table.add_row(rank, Text(label), *cells)
        console.print(table)


@dataclass(frozen=True)
class Place:
    """Where a table goes in a Markdown page: between two lines, whose name tells apart the tables of a page."""

    path: Path
    name: str | None = None

    @property
    def lines(self) -> tuple[str, str]:
        name = f" {self.name}" if self.name else ""
        return f"<!-- leaderboard{name} (yt8m.report) -->", f"<!-- end of leaderboard{name} -->"

    def page(self) -> str:
        """The page's text.

        Raises:
            ConfigError: there is no such page, or no such place in it.
        """
        begin, end = self.lines
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"into: expected a Markdown page at {self.path}, found none ({error})"
            ) from None
        if begin not in text or end not in text.partition(begin)[2]:
            raise ConfigError(
                f"into: expected the lines {begin} and {end} in {self.path}, found none; add them"
            )
        return text

    def write(self, table: str) -> None:
        """Replace what is between the two lines. Raises ConfigError, WriteError."""
        begin, end = self.lines
        before, _, rest = self.page().partition(begin)
        write_text(self.path, f"{before}{begin}\n\n{table}\n{end}{rest.partition(end)[2]}")


def _identity(run: Run) -> object:
    """What runs of one recipe share."""
    if not run.config:  # unreadable
        return run.folder
    keys = (key for key in run.config if key != "seed" and (is_hyperparameter(key) or key in _DATA))
    return run.model, run.dataset, tuple((key, str(run.config[key])) for key in sorted(keys))


def _without_seed(run: Run) -> Run:
    parts = ({k: v for k, v in part.items() if k != "seed"} for part in (run.config, run.overrides))
    config, overrides = parts
    return dataclasses.replace(run, config=config, overrides=overrides)
