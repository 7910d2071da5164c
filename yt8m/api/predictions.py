"""What a model says about videos, as objects and as pandas tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from yt8m.errors import require

if TYPE_CHECKING:
    import pandas

_SHOWN = 5  # labels in a representation


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The best K classes of one video, best first.

    - ``id``: the video's, or its number among those that were passed
    - ``classes`` int64 [K], ``names``, and ``scores`` float32 [K], probabilities
    - ``genres`` and ``genre_scores`` float32 [G]: the best five genres; empty if the model knows none
    """

    id: str
    classes: np.ndarray
    names: list[str]
    scores: np.ndarray
    genres: list[str]
    genre_scores: np.ndarray

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per class, best first: `class`, `name`, `score`. Needs pandas."""
        require("pandas", "to_pandas")
        import pandas

        return pandas.DataFrame({"class": self.classes, "name": self.names, "score": self.scores})

    def __repr__(self) -> str:
        pairs = zip(self.names[:_SHOWN], self.scores, strict=False)
        labels = ", ".join(f"{name} {score:.2f}" for name, score in pairs)
        genre = f"; genre {self.genres[0]} {self.genre_scores[0]:.2f}" if self.genres else ""
        return f"<Prediction {self.id}: {labels}{genre}>"


class Predictions(Sequence[Prediction]):
    """The predictions of several videos, in their order."""

    def __init__(self, predictions: Sequence[Prediction]):
        self._predictions = list(predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        found = self._predictions[index]
        return Predictions(found) if isinstance(found, list) else found

    def __len__(self) -> int:
        return len(self._predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._predictions)

    @property
    def ids(self) -> list[str]:
        """The ids of the videos."""
        return [one.id for one in self]

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per video and class, best first: `id`, `class`, `name`, `score`, and the video's best `genre`.

        The genre is None where the model knows none. Needs pandas.
        """
        require("pandas", "to_pandas")
        import pandas

        if not self:
            return pandas.DataFrame({key: [] for key in ("id", "class", "name", "score", "genre")})
        counts = [len(one.classes) for one in self]
        return pandas.DataFrame(
            {
                "id": np.repeat(np.array(self.ids, object), counts),
                "class": np.concatenate([one.classes for one in self]),
                "name": [name for one in self for name in one.names],
                "score": np.concatenate([one.scores for one in self]),
                "genre": np.repeat(np.array([(*one.genres, None)[0] for one in self], object), counts),
            }
        )

    def __repr__(self) -> str:
        rows = [f"  {one!r}" for one in self[:_SHOWN]]
        more = [f"  … {len(self) - _SHOWN:,} more"] if len(self) > _SHOWN else []
        return "\n".join([f"<Predictions of {len(self):,} videos", *rows, *more]) + ">"


@dataclass(frozen=True, eq=False)
class Timeline:
    """Scores over the time of one video.

    - ``starts`` float64 [W]: seconds at which the windows begin
    - ``names``: of K classes, those with the highest score in any window first
    - ``classes`` int64 [K]
    - ``scores`` float32 [W, K], probabilities
    """

    starts: np.ndarray
    classes: np.ndarray
    names: list[str]
    scores: np.ndarray

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per window, a column per class; the index is the start in seconds. Needs pandas."""
        require("pandas", "to_pandas")
        import pandas

        index = pandas.Index(self.starts, name="seconds")
        return pandas.DataFrame(self.scores, index=index, columns=self.names)
