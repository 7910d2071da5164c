"""Labels: names of the classes (YouTube-8M's `vocabulary.csv`, AudioSet's `class_labels_indices.csv`), and genres.

A video's genre ("Games", "Arts & Entertainment") comes from the verticals of its labels, 24 in YouTube-8M's
vocabulary.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from yt8m.errors import ConfigError
from yt8m.metric_table import TOP_K
from yt8m.ranking import top_classes

_INDEX = ("Index", "index")
_NAME = ("Name", "display_name")
_VERTICALS = ("Vertical1", "Vertical2", "Vertical3")
_MOST_DIGITS = 6  # of an index; a larger one is a mistake in the file, and the list would fill the memory
SEGMENT_LABEL_IDS = "segment_label_ids.csv"  # where `yt8m.download` puts it, below the dataset's root
UNKNOWN = "(Unknown)"  # the official vocabulary's mark on classes that belong to no vertical


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


def read_segment_classes(path: Path, num_classes: int) -> list[int]:
    """The classes that the 2019 segments were rated for, from `segment_label_ids.csv` (one column, `Index`).

    Raises:
        ConfigError: the file is missing or has other content.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"segment_label_ids: expected the classes of a segment submission at {path}; {error}; yt8m.download "
            "fetches them, or set segment_label_ids"
        ) from None
    header, *values = lines or ("",)
    bad = [v for v in values if not (v.isdecimal() and len(v) <= _MOST_DIGITS and int(v) < num_classes)]
    if header != "Index" or not values or bad:
        found = "no classes" if header == "Index" and not values else repr((bad or [header])[0][:40])
        raise ConfigError(
            f"segment_label_ids: expected a column Index of classes 0..{num_classes - 1} in {path}, found {found}; "
            "fetch the file again"
        )
    return sorted({int(value) for value in values})


def _column(path: Path, rows: "csv.DictReader[str]", names: tuple[str, ...]) -> str:
    for name in names:
        if name in (rows.fieldnames or ()):
            return name
    raise ConfigError(
        f"{path} @ line 1: expected a column {' or '.join(names)}, found {', '.join(rows.fieldnames or ())}; "
        "set dataset.vocabulary"
    )


def genre_names(verticals: Sequence[Sequence[str]]) -> list[str]:
    """The genres among the verticals of all labels, in alphabetical order; `(Unknown)` is none."""
    return sorted({name for names in verticals for name in names} - {UNKNOWN})


def dense_labels(label_index: Tensor, rows: int, num_classes: int) -> Tensor:
    """The (row, class) pairs int64 `[M, 2]` as bool `[rows, C]`, on their device; copies nothing from the host."""
    dense = torch.zeros(rows * num_classes, dtype=torch.bool, device=label_index.device)
    # Assigning True by index would copy it to a GPU, and wait for the copy.
    return dense.index_fill_(0, label_index[:, 0] * num_classes + label_index[:, 1], True).view(
        rows, num_classes
    )


class Genres(torch.nn.Module):
    """Which of G genres each of C labels has, and from there what a video has. Without parameters.

    A video has the genres of all its labels. One whose labels are all of unknown vertical has none: it stays
    in training and evaluation as a negative of every genre.

    Args:
        verticals: of each label in index order, 0 to 3 names.
    """

    members: Tensor

    def __init__(self, verticals: Sequence[Sequence[str]]):
        super().__init__()
        self.names = genre_names(verticals)
        rows = [[genre in names for genre in self.names] for names in verticals]
        members = torch.tensor(rows, dtype=torch.bool).view(len(verticals), len(self.names))
        # Made from the vocabulary, which the checkpoint carries: not part of the weights.
        self.register_buffer("members", members, persistent=False)  # [C, G]

    def __len__(self) -> int:
        return len(self.names)

    def of_labels(self, label_index: Tensor, batch_size: int) -> Tensor:
        """Genres of the videos whose (row, label) pairs are int64 `[M, 2]`: bool `[B, G]`."""
        counts = torch.zeros(batch_size, len(self), dtype=torch.int32, device=label_index.device)
        return counts.index_add_(0, label_index[:, 0], self.members[label_index[:, 1]].int()) > 0

    def of_scores(self, scores: Tensor, top: Tensor | None = None) -> Tensor:
        """Probabilities of the genres, float32 `[B, G]`, from those of the labels, float32 `[B, C]`.

        `top` is `top_classes(scores, 20)`, where it is known already.

        Noisy-or over the video's 20 best labels: a genre is missing where each of its labels among them is,
        1 - Π(1 - p). Of the rules tried on real videos this one ranked genres best (see the README): with all
        labels, hundreds of small probabilities add up; the largest alone forgets that labels agree. And what
        a prediction file holds suffices to compute it.
        """
        if not len(self):
            return scores.new_empty(len(scores), 0)
        if top is None:
            top = top_classes(scores, min(TOP_K, scores.shape[1]))
        missing = 1 - scores.gather(1, top)[:, :, None] * self.members[top]  # [B, 20, G]
        return 1 - missing.prod(dim=1)
