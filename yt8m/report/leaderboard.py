"""Runs ranked by a metric, as a table for the terminal, Markdown, and a spreadsheet."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yt8m.config import mode_of
from yt8m.metric_table import METRICS, metric_of
from yt8m.report.run_labels import label_runs
from yt8m.report.runs import FINISHED, Run, clean


@dataclass(frozen=True)
class Column:
    """A value of metrics.json: title, key, format, and unit, which is part of the heading."""

    title: str
    key: str
    form: str
    unit: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, run: Run) -> str:
        value = run.number(self.key)
        return "–" if value is None else f"{value:{self.form}}"


def _metric_column(name: str) -> Column:
    """The column of a logged metric, such as `test/gap`."""
    try:
        row = metric_of(name)
    except KeyError:
        return Column(clean(name, 40), name, "g")
    partition, _, key = name.rpartition("/")
    words = [
        *(() if partition == "val" else partition.split("/")),
        *(("genre",) if key != row.key else ()),
        row.title,
    ]
    title = " ".join(words)
    return Column(
        title[0].upper() + title[1:] if title != row.title or title.islower() else title, name, row.format
    )


VALIDATION = tuple(_metric_column(f"val/{key}") for key in METRICS)
TEST = tuple(_metric_column(f"test/{key}") for key in METRICS)
SETTINGS = (
    Column("Best epoch", "best_epoch", ".0f"),
    Column("Epochs", "epochs", ".0f"),
    Column("Learning rate", "lr", "g"),
    Column("Batch size", "batch_size", ".0f"),
    Column("Parameters", "params", ",.0f"),
)
MACHINE = (
    Column("GPU use", "gpu_percent_mean", ".0f", "%"),
    Column("CPU use", "cpu_percent_mean", ".0f", "%"),
    Column("Memory", "memory_gib_peak", ".2f", "GiB"),
    Column("Videos/s", "videos_per_second", ",.0f"),
    Column("Seconds", "seconds", ",.0f"),
)
TIME = (
    Column("Input wait", "input_seconds", ",.0f", "s"),
    Column("Steps", "step_seconds", ",.0f", "s"),
    Column("Validation", "validation_seconds", ",.0f", "s"),
    Column("Checkpoints", "checkpoint_seconds", ",.0f", "s"),
)
CAPTION = (
    "Loss and scores are those of best.ckpt on the validation data and, where marked “Test”, on the test data. Hit@1 "
    "is the share of videos whose top class is correct. GPU and CPU use are means over training; memory is its peak. "
    "Input wait and checkpoints are the seconds for which they kept training waiting."
)


@dataclass
class Leaderboard:
    """Runs with a value of the metric, best first, and the runs that did not finish.

    A run can be in both lists: it may have a metrics.json although another of its files is unreadable.

    Attributes:
        parts: columns that have a value for some run, in groups that fit a narrow terminal.
    """

    metric: str
    ranked: list[Run]
    others: list[Run]
    parts: list[tuple[Column, ...]]

    @classmethod
    def of(cls, runs: list[Run], metric: str) -> "Leaderboard":
        """Rank runs by a key of metrics.json, in the metric's own direction, and label all of them."""
        label_runs(runs)
        sign = 1 if mode_of(metric) == "min" else -1
        scores = {id(run): run.number(metric) for run in runs}
        ranked = [run for run in runs if scores[id(run)] is not None]
        ranked.sort(key=lambda run: sign * (scores[id(run)] or 0.0))
        others = [run for run in runs if run.status != FINISHED or run not in ranked]
        for run in others:
            run.reason = run.reason or f"metrics.json has no {clean(metric)}"
        first = () if metric in {column.key for column in VALIDATION + TEST} else (_metric_column(metric),)
        groups = (first + VALIDATION, TEST, SETTINGS, MACHINE, TIME)
        used = (
            tuple(c for c in group if any(run.number(c.key) is not None for run in ranked))
            for group in groups
        )
        return cls(metric, ranked, others, list(filter(None, used)))

    @property
    def trained(self) -> list[Run]:
        """The ranked runs without ensembles, which have no settings, no curves, and no checkpoint of their own."""
        return [run for run in self.ranked if not run.is_ensemble]

    @property
    def columns(self) -> list[Column]:
        return [column for part in self.parts for column in part]

    @property
    def title(self) -> str:
        """The metric as people call it."""
        return _metric_column(self.metric).title

    @property
    def counts(self) -> str:
        """`7 finished, 1 failed`."""
        counts = Counter(run.status for run in dict.fromkeys([*self.ranked, *self.others]))
        return ", ".join(f"{count} {status}" for status, count in counts.most_common())

    def warnings(self) -> list[str]:
        """Reasons not to compare the scores."""
        warnings = []
        data = {tuple(run.config.get(f"dataset.{key}") for key in _DATA) for run in self.ranked}
        if len(data) > 1:
            warnings.append(
                f"These runs were scored on different data (dataset.{', dataset.'.join(_DATA)} differ): "
                "do not compare their scores."
            )
        losses = {run.config.get("loss._target_") for run in self.trained}
        if len(losses) > 1:
            warnings.append("These runs have different loss functions: do not compare their losses.")
        old = [run for run in self.trained if run.number("best_epoch") is None]
        if old:
            warnings.append(
                f"{len(old)} of {len(self.trained)} runs do not record their best epoch: their validation scores are "
                "those of the last epoch, not of best.ckpt."
            )
        return warnings

    def markdown(self) -> str:
        columns = self.columns
        lines = [
            f"# Leaderboard by {_escaped(self.title)}",
            "",
            table_row("", "Run", *(column.heading for column in columns), "Network", "Dataset", "Folder"),
            table_row("---:", "---", *["---:"] * len(columns), *["---"] * 3),
        ]
        for rank, run in enumerate(self.ranked, start=1):
            values = [column.text(run) for column in columns]
            lines.append(table_row(str(rank), run.label, *values, run.model, run.dataset, run.name))
        lines += ["", CAPTION, *(line for warning in self.warnings() for line in ("", warning))]
        if self.others:
            lines += [
                "",
                "## Not finished",
                "",
                table_row("Status", "Run", "Why", "Folder"),
                table_row(*["---"] * 4),
            ]
            lines += [table_row(run.status, run.label, run.reason, run.name) for run in self.others]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """One row per run, including those that did not finish; a cell without a value is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        headings = [column.heading for column in self.columns]
        writer.writerow(["Rank", "Status", "Run", *headings, "Network", "Dataset", "Folder", "Why"])
        unranked = [run for run in self.others if run not in self.ranked]
        for rank, run in [*enumerate(self.ranked, start=1), *(("", run) for run in unranked)]:
            values = ["" if run.number(c.key) is None else run.number(c.key) for c in self.columns]
            names = map(_cell, (run.model, run.dataset, run.name, run.reason))
            writer.writerow([rank, run.status, _cell(run.label), *values, *names])
        return text.getvalue()

    def print(self, console: Console) -> None:
        """One table where it fits the terminal, else one per group of columns; a pipe has any width."""
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        whole = self._table(self.columns)
        options = console.options.update(max_width=_PIPE_WIDTH)  # else a table measures at most the terminal
        fits = console.measure(whole, options=options).maximum <= console.width
        tables = [whole] if fits else [self._table(part) for part in self.parts]
        for table in tables if self.ranked else []:
            console.print(table)
        for warning in self.warnings():
            console.print(
                warning, style="yellow", markup=False, highlight=False, soft_wrap=not console.is_terminal
            )
        if self.others:
            table = Table("Not finished", "Run", "Why", "Folder", box=box.SIMPLE_HEAD, pad_edge=False)
            for run in self.others:
                texts = (Text(clean(text), overflow="fold") for text in (run.label, run.reason, run.name))
                table.add_row(run.status, *texts)
            console.print(table)

    def _table(self, columns: Sequence[Column]) -> Table:
        title = Text(f"by {self.title}", style="table.title")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        table.add_column("", justify="right")
        table.add_column("Run", overflow="fold", min_width=12)
        for column in columns:
            table.add_column(Text(column.heading.replace(" ", "\n")), justify="right", no_wrap=True)
        for rank, run in enumerate(self.ranked, start=1):
            table.add_row(str(rank), Text(run.label), *(column.text(run) for column in columns))
        return table


_DATA = ("root", "validate", "num_classes", "level", "target")
_PIPE_WIDTH = 100_000  # columns


def table_row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """`text` without markup, which could also end the cell."""
    return "".join(f"\\{char}" if char in r"\|<>[]*`_#" else char for char in clean(text))


def _cell(text: str) -> str:
    """`text` that no spreadsheet reads as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
