"""Runs in the order of a metric, as a table for the terminal, for Markdown and for a spreadsheet."""

import csv
import io
from collections import Counter
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yt8m.report.runs import FINISHED, Run, clean


@dataclass(frozen=True)
class Column:
    """A figure of metrics.json under its title in the table; `unit` is part of the heading."""

    title: str
    key: str
    form: str
    unit: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, run: Run) -> str:
        value = run.number(self.key)
        return "–" if value is None else self.form.format(value)


SCORES = (
    Column("Loss", "val/loss", "{:.4f}"),
    Column("Accuracy", "val/hit1", "{:.4f}"),
    Column("GAP", "val/gap", "{:.4f}"),
    Column("PERR", "val/perr", "{:.4f}"),
    Column("mAP", "val/map", "{:.4f}"),
)
SETTINGS = (
    Column("Learn Rate", "lr", "{:g}"),
    Column("Epoch", "epochs", "{:.0f}"),
    Column("Batch Size", "batch_size", "{:.0f}"),
    Column("Parameters", "params", "{:,.0f}"),
)
MACHINE = (
    Column("GPU Usage", "gpu_percent_mean", "{:.0f}", "%"),
    Column("CPU Usage", "cpu_percent_mean", "{:.0f}", "%"),
    Column("System Memory", "memory_gib_peak", "{:.2f}", "GiB"),
    Column("Videos/s", "videos_per_second", "{:,.0f}"),
)
COLUMNS = SCORES + SETTINGS + MACHINE
CAPTION = (
    "Loss and scores are those of the last validation. Accuracy is Hit@1, the share of videos whose best class "
    "is a true label. GPU and CPU Usage are means over the training, System Memory is its peak."
)
_NARROW = 132  # a terminal below so many columns gets three tables


@dataclass
class Leaderboard:
    """Runs with a value of the metric, best first, and the runs that did not finish.

    A run may be in both lists: its figures can be whole where another of its files is damaged.
    """

    metric: str
    ranked: list[Run]
    others: list[Run]

    @classmethod
    def of(cls, runs: list[Run], metric: str) -> "Leaderboard":
        """Higher is better, except for a loss. A finished run that lacks the metric is told of among the others."""
        sign = 1 if lower_is_better(metric) else -1
        ranked = [run for run in runs if run.number(metric) is not None]
        ranked.sort(key=lambda run: sign * run.number(metric))
        others = [run for run in runs if run.status != FINISHED or run not in ranked]
        for run in others:
            run.reason = run.reason or f"metrics.json has no {clean(metric)}"
        return cls(metric, ranked, others)

    @property
    def counts(self) -> str:
        """`7 finished, 1 failed`."""
        counts = Counter(run.status for run in dict.fromkeys([*self.ranked, *self.others]))
        return ", ".join(f"{count} {status}" for status, count in counts.most_common())

    def warnings(self) -> list[str]:
        """What makes the ranking mean less than it seems to."""
        warnings = []
        data = {tuple(run.config.get(f"dataset.{key}") for key in _DATA) for run in self.ranked}
        if len(data) > 1:
            warnings.append(
                f"These runs were not all scored on the same data: dataset.{', dataset.'.join(_DATA)} are not "
                "the same for all. Their scores do not compare."
            )
        losses = {run.config.get("loss._target_") for run in self.ranked}
        if len(losses) > 1:
            warnings.append("These runs have different loss functions: their losses do not compare.")
        return warnings

    def markdown(self) -> str:
        lines = [
            f"# Leaderboard by {_escaped(self.metric)}",
            "",
            _row("", "Network", *(column.heading for column in COLUMNS), "Dataset", "Run"),
            _row("---:", "---", *["---:"] * len(COLUMNS), "---", "---"),
        ]
        for rank, run in enumerate(self.ranked, start=1):
            figures = [column.text(run) for column in COLUMNS]
            lines.append(_row(str(rank), run.model, *figures, run.dataset, run.name))
        lines += ["", CAPTION, *self.warnings()]
        if self.others:
            lines += ["", "## Not finished", "", _row("Status", "Network", "Why", "Run"), _row(*["---"] * 4)]
            lines += [_row(run.status, run.model, run.reason, run.name) for run in self.others]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """A row per run, also those that did not finish; an empty cell where there is no figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["Rank", "Status", "Network", *(column.heading for column in COLUMNS), "Dataset", "Run", "Why"]
        )
        unranked = [run for run in self.others if run not in self.ranked]
        for rank, run in [*enumerate(self.ranked, start=1), *(("", run) for run in unranked)]:
            figures = ["" if run.number(c.key) is None else run.number(c.key) for c in COLUMNS]
            names = map(_cell, (run.dataset, run.name, run.reason))
            writer.writerow([rank, run.status, _cell(run.model), *figures, *names])
        return text.getvalue()

    def print(self, console: Console) -> None:
        parts = [COLUMNS] if console.width >= _NARROW else [SCORES, SETTINGS, MACHINE]
        for columns in parts if self.ranked else []:
            table = Table(
                box=box.SIMPLE_HEAD, pad_edge=False, title=f"by {clean(self.metric)}", title_justify="left"
            )
            table.add_column("", justify="right")
            table.add_column("Network", no_wrap=True)
            for column in columns:
                table.add_column(Text(column.heading.replace(" ", "\n")), justify="right", no_wrap=True)
            for rank, run in enumerate(self.ranked, start=1):
                table.add_row(str(rank), Text(run.model), *(column.text(run) for column in columns))
            console.print(table)
        for warning in self.warnings():
            console.print(warning, style="yellow", highlight=False)
        if self.others:
            table = Table("Not finished", "Network", "Why", "Run", box=box.SIMPLE_HEAD, pad_edge=False)
            for run in self.others:
                name = Text(clean(run.name, 40), overflow="fold")
                table.add_row(run.status, Text(run.model), Text(run.reason, overflow="fold"), name)
            console.print(table)


_DATA = ("root", "validate", "num_classes", "level", "target")


def lower_is_better(metric: str) -> bool:
    return metric.endswith("loss")


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """`text` as Markdown shows it: no markup, no end of the cell."""
    return "".join(f"\\{char}" if char in r"\|<>[]*`_#" else char for char in clean(text))


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
