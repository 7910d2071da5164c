"""Prediction files: Kaggle's CSV, names and scores, JSON lines, Parquet, SQLite; that of segments is in `segments`.

A writer takes one batch of predictions at a time and keeps none. Scores in text have six significant digits.
"""

import csv
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Predictions:
    """Predictions for B videos or segments, best first in each row.

    - ``ids``: one per row; ``"id:start"`` for segments
    - ``classes`` int64 [B, k] and ``scores`` float32 [B, k]
    - ``genres`` int64 [B, g] and ``genre_scores`` float32 [B, g]; g = 0 if genres are unknown
    """

    ids: list[str]
    classes: np.ndarray
    scores: np.ndarray
    genres: np.ndarray
    genre_scores: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, list[int], list[float], list[int], list[float]]]:
        arrays = (self.classes, self.scores, self.genres, self.genre_scores)
        return zip(self.ids, *(array.tolist() for array in arrays), strict=True)


class Writer:
    """Writes predictions to a new file at `path`.

    Args:
        path: the file; created or overwritten.
        names: of the classes.
        genres: names of the genres.
    """

    #: Whether the format lists genres.
    lists_genres = True

    def __init__(self, path: Path, names: list[str], genres: list[str]):
        self.path, self.names, self.genres = path, names, genres
        self.file: Any = path.open("w", encoding="utf-8", newline="")

    def write(self, predictions: Predictions) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Finish the file."""
        self.file.close()

    def abandon(self) -> None:
        """Close the file unfinished."""
        self.file.close()


class KaggleWriter(Writer):
    """The CSV of the 2017 and 2018 challenges: `id,class score class score …`."""

    lists_genres = False

    def __init__(self, path: Path, names: list[str], genres: list[str]):
        super().__init__(path, names, genres)
        self.file.write("VideoId,LabelConfidencePairs\n")

    def write(self, predictions: Predictions) -> None:
        rows, k = predictions.classes.shape
        # One format for a whole row takes a third of the time of one per number.
        line = f"%s,{' '.join(['%d %g'] * k)}\n"
        fields = np.empty((rows, 1 + 2 * k), object)
        fields[:, 0] = predictions.ids
        fields[:, 1::2] = predictions.classes
        fields[:, 2::2] = predictions.scores
        self.file.writelines(line % tuple(row) for row in fields.tolist())


class NamesWriter(Writer):
    """A CSV table for people: one row per video and class, with the video's best genre."""

    def __init__(self, path: Path, names: list[str], genres: list[str]):
        super().__init__(path, names, genres)
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["VideoId", "Genre", "GenreScore", "Class", "Name", "Score"])

    def write(self, predictions: Predictions) -> None:
        for name, classes, scores, genres, genre_scores in predictions:
            genre = (self.genres[genres[0]], f"{genre_scores[0]:g}") if genres else ("", "")
            self.table.writerows(
                (name, *genre, c, self.names[c], f"{s:g}") for c, s in zip(classes, scores, strict=True)
            )


class JSONLinesWriter(Writer):
    """One object per video: `id`, `genres` of `name` and `score`, `labels` of `class`, `name` and `score`."""

    def write(self, predictions: Predictions) -> None:
        for name, classes, scores, genres, genre_scores in predictions:
            video = {
                "id": name,
                "genres": [
                    {"name": self.genres[g], "score": float(f"{s:g}")}
                    for g, s in zip(genres, genre_scores, strict=True)
                ],
                "labels": [
                    {"class": c, "name": self.names[c], "score": float(f"{s:g}")}
                    for c, s in zip(classes, scores, strict=True)
                ],
            }
            self.file.write(json.dumps(video, ensure_ascii=False) + "\n")


class ParquetWriter(Writer):
    """One row per video, lists best first: `id`, `classes`, `names`, `scores`, `genres`, `genre_scores`.

    Scores are float32, as computed. Rows are written by the thousand, because each group of rows has a header.
    """

    ROWS = 8192

    def __init__(self, path: Path, names: list[str], genres: list[str]):
        import pyarrow  # of the extra `parquet`
        import pyarrow.parquet

        self.path, self.names, self.genres = path, names, genres
        texts, floats = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float32())
        self.schema = pyarrow.schema(
            {
                "id": pyarrow.string(),
                "classes": pyarrow.list_(pyarrow.int32()),
                "names": texts,
                "scores": floats,
                "genres": texts,
                "genre_scores": floats,
            }
        )
        self.table = pyarrow.Table
        self.file = pyarrow.parquet.ParquetWriter(path, self.schema)
        self.rows: list[dict[str, Any]] = []

    def write(self, predictions: Predictions) -> None:
        self.rows += (
            {
                "id": name,
                "classes": classes,
                "names": [self.names[c] for c in classes],
                "scores": scores,
                "genres": [self.genres[g] for g in genres],
                "genre_scores": genre_scores,
            }
            for name, classes, scores, genres, genre_scores in predictions
        )
        if len(self.rows) >= self.ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        self.file.write_table(self.table.from_pylist(self.rows, self.schema))
        self.rows.clear()


class SQLiteWriter(Writer):
    """A database in which a video is found without reading the rest: what `teacher=FILE` of training takes.

    Table `predictions`, indexed by `id`: `id`, `classes` (int32) and `scores` (float32), both as little-endian bytes,
    best first. Table `classes`: `class` and `name`.
    """

    lists_genres = False

    def __init__(self, path: Path, names: list[str], genres: list[str]):
        self.path, self.names, self.genres = path, names, genres
        path.unlink(missing_ok=True)
        self.file = sqlite3.connect(path, isolation_level=None)
        # Of a file that is renamed when it is complete, no half needs to survive a crash.
        self.file.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
            "CREATE TABLE classes (class INTEGER PRIMARY KEY, name TEXT NOT NULL);"
            "CREATE TABLE predictions (id TEXT NOT NULL, classes BLOB NOT NULL, scores BLOB NOT NULL)"
        )
        self.file.executemany("INSERT INTO classes VALUES (?, ?)", enumerate(names))

    def write(self, predictions: Predictions) -> None:
        arrays = (predictions.classes.astype("<i4"), predictions.scores.astype("<f4"))
        self.file.executemany(
            "INSERT INTO predictions VALUES (?, ?, ?)",
            (
                (name, classes.tobytes(), scores.tobytes())
                for name, classes, scores in zip(predictions.ids, *arrays, strict=True)
            ),
        )

    def close(self) -> None:
        self.file.execute("CREATE INDEX predictions_by_id ON predictions (id)")
        self.file.execute("COMMIT")
        self.file.close()


WRITERS: dict[str, type[Writer]] = {
    "csv": KaggleWriter,
    "names": NamesWriter,
    "jsonl": JSONLinesWriter,
    "parquet": ParquetWriter,
    "sqlite": SQLiteWriter,
}
ENDINGS = {
    "csv": ".csv",
    "names": ".names.csv",
    "jsonl": ".jsonl",
    "parquet": ".parquet",
    "sqlite": ".sqlite",
}
