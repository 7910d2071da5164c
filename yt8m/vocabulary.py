"""Names of the classes: YouTube-8M's `vocabulary.csv` and AudioSet's `class_labels_indices.csv`."""

import csv
from dataclasses import dataclass
from pathlib import Path

from yt8m.errors import ConfigError

_INDEX = ("Index", "index")
_NAME = ("Name", "display_name")
_VERTICALS = ("Vertical1", "Vertical2", "Vertical3")
_MOST_DIGITS = 6  # of an index; a larger one is a mistake in the file, and the list would fill the memory


@dataclass(frozen=True)
class ClassInfo:
    """One class: its index, its name (`class N` where the vocabulary has none), its verticals (0 to 3)."""

    index: int
    name: str
    verticals: tuple[str, ...] = ()

    @classmethod
    def unnamed(cls, index: int) -> "ClassInfo":
        return cls(index, f"class {index}")


def read_vocabulary(path: Path) -> list[ClassInfo]:
    """The classes in index order, from 0 without a gap; the file's rows may come in any order.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or an index is none or comes twice.
    """
    classes: dict[int, ClassInfo] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            index_column, name_column = (_column(path, rows, names) for names in (_INDEX, _NAME))
            for row in rows:
                text = row[index_column] or ""
                index = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else -1
                if index < 0 or index in classes:
                    raise ConfigError(
                        f"{path} @ line {rows.line_num}: expected a new class index, found {text[:40]!r}; "
                        "fetch the vocabulary again, or set dataset.vocabulary"
                    )
                name = (row[name_column] or "").strip() or f"class {index}"
                verticals = tuple(row[key] for key in _VERTICALS if row.get(key))
                classes[index] = ClassInfo(index, name, verticals)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"dataset.vocabulary: expected a CSV file of classes at {path}; {error}; set dataset.vocabulary"
        ) from None
    return [classes.get(index, ClassInfo.unnamed(index)) for index in range(max(classes, default=-1) + 1)]


def _column(path: Path, rows: csv.DictReader, names: tuple[str, ...]) -> str:
    for name in names:
        if name in (rows.fieldnames or ()):
            return name
    raise ConfigError(
        f"{path} @ line 1: expected a column {' or '.join(names)}, found {', '.join(rows.fieldnames or ())}; "
        "set dataset.vocabulary"
    )
