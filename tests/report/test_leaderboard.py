"""The leaderboard: order, columns, and its three forms."""

import csv
import io
from pathlib import Path

from rich.console import Console

from yt8m.report.leaderboard import Leaderboard
from yt8m.report.runs import Run


def run(name="run", config=None, **metrics) -> Run:
    """A finished run; `val_gap` is `val/gap`."""
    keys = {key: key.replace("_", "/", 1) if key.startswith(("val_", "test_")) else key for key in metrics}
    values = {keys[key]: value for key, value in metrics.items()}
    return Run(Path(name), name=name, config=config or {}, metrics=values)


def test_best_run_comes_first_in_the_metrics_own_direction():
    runs = [
        run("a", val_gap=0.1, val_loss=1.0),
        run("b", val_gap=0.3, val_loss=3.0),
        run("c", val_gap=0.2, val_loss=2.0),
    ]
    for metric, order in (("val/gap", "bca"), ("val/loss", "acb")):
        board = Leaderboard.of([*runs, run("d")], metric)
        assert "".join(one.name for one in board.ranked) == order, metric
        assert [(one.name, one.reason) for one in board.others] == [("d", f"metrics.json has no {metric}")]


def test_gap_is_the_first_column_and_titles_come_from_the_metric_table():
    values = {
        f"{part}_{key}": 0.5 for part in ("val", "test") for key in ("loss", "hit1", "gap", "perr", "map")
    }
    board = Leaderboard.of([run(**values, best_epoch=3, epochs=9, lr=0.1)], "val/gap")
    validation = ["GAP", "Hit@1", "PERR", "mAP", "Loss"]
    test = ["Test GAP", "Test Hit@1", "Test PERR", "Test mAP", "Test loss"]
    headings = [column.heading for column in board.columns]
    assert headings == [*validation, *test, "Best epoch", "Epochs", "Learning rate"]
    other = Leaderboard.of([run(**{"val/genre_gap": 0.3, "val_gap": 0.2})], "val/genre_gap")
    assert [column.heading for column in other.columns] == ["Genre GAP", "GAP"]


def test_columns_without_any_value_are_left_out():
    board = Leaderboard.of(
        [run(val_gap=0.5), run("b", val_gap=0.4, lr=0.1, gpu_percent_mean=None)], "val/gap"
    )
    assert [column.heading for column in board.columns] == ["GAP", "Learning rate"]


def test_csv_and_markdown_hold_every_run_and_escape_names():
    evil = run("=cmd|' /C calc'!A1 <b>*", val_gap=0.5, params=12)
    failed = Run(Path("f"), name="f", status="failed", reason="a | b\nc")
    board = Leaderboard.of([evil, failed], "val/gap")
    rows = list(csv.DictReader(io.StringIO(board.csv())))
    assert [(row["Rank"], row["Status"], row["GAP"], row["Parameters"]) for row in rows] == [
        ("1", "finished", "0.5", "12"),
        ("", "failed", "", ""),
    ]
    assert rows[0]["Folder"].startswith("'=cmd")
    assert r"=cmd\|' /C calc'!A1 \<b\>\*" in board.markdown()
    assert r"a \| b c" in board.markdown()


def printed(board: Leaderboard, **options) -> str:
    console = Console(file=io.StringIO(), color_system=None, **options)
    board.print(console)
    return console.file.getvalue()


def test_terminal_table_fits_the_terminal_and_a_pipe_cuts_nothing():
    config = {"model._target_": "yt8m.models.keras_nn_stream_lstm.X", "optimizer.lr": 0.00045}
    values = {f"{part}_{key}": 0.51234 for part in ("val", "test") for key in ("gap", "hit1", "perr", "map")}
    values |= {"params": 228186118, "lr": 0.00045, "memory_gib_peak": 1.5}
    failed = Run(Path("f"), name="deep/" * 30 + "end", status="failed", reason="because " * 20 + "of this")
    board = Leaderboard.of([run("r", config, **values), failed], "val/gap")
    words = ("keras_nn_stream_lstm", "0.5123", "228,186,118", "0.00045", "Hit@1", "Memory")
    for width in (80, 160):
        text = printed(board, width=width, force_terminal=True)
        assert all(word in text for word in words), text
        assert max(map(len, text.splitlines())) <= width
    text = printed(board, width=80)
    assert all(word in text for word in (*words, failed.name, failed.reason))
    assert "…" not in text


def test_incomparable_scores_are_warned_of():
    same = [run("a", {"dataset.root": "x"}, val_gap=0.1, best_epoch=1)]
    same += [run("b", {"dataset.root": "x"}, val_gap=0.2, best_epoch=2)]
    assert Leaderboard.of(same, "val/gap").warnings() == []
    other = [*same, run("c", {"dataset.root": "y"}, val_gap=0.3, best_epoch=0)]
    assert "do not compare their scores" in Leaderboard.of(other, "val/gap").warnings()[0]


def test_records_of_before_best_and_last_were_told_apart_are_warned_of():
    runs = [run("new", val_gap=0.1, best_epoch=0, **{"last/val/gap": 0.05}), run("old", val_gap=0.2)]
    (warning,) = Leaderboard.of(runs, "val/gap").warnings()
    assert warning.startswith("1 of 2 runs do not record their best epoch")
