"""What the demo shows: search, a video's labels with bars, genres, and scores over time."""

from dataclasses import dataclass
from pathlib import Path

from yt8m.api.model import Model
from yt8m.api.predictions import Prediction, Timeline
from yt8m.api.records import Record
from yt8m.demo.catalog import Catalog
from yt8m.demo.uploads import Uploads
from yt8m.html.render import render
from yt8m.report import charts

_FOLDER = Path(__file__).parent
_LISTED = 50  # videos that a search shows
_SUGGESTED = 500  # labels
_EXAMPLES = 12  # labels to start with
_LINES = 6  # of the chart: as many as there are colors that everyone can tell apart
_TOP = 15
_SECONDS = 5


@dataclass(frozen=True)
class Label:
    """A label with its probability, whether it is a true one, and its rank among the predictions, from 1."""

    name: str
    score: float
    is_true: bool
    rank: int


@dataclass(frozen=True)
class Result:
    """What the page shows of a video; `true` is None where the true labels are unknown, `notes` are of the file."""

    id: str
    frames: int
    predicted: list[Label]
    true: list[Label] | None
    genres: list[tuple[str, float]]
    timeline: Timeline | None
    notes: tuple[str, ...]


class Page:
    """The demo's page.

    Args:
        model: what predicts.
        catalog: the dataset's videos.
        checkpoint: the model's file.
        uploads: None offers no upload.
    """

    def __init__(self, model: Model, catalog: Catalog, checkpoint: str, uploads: Uploads | None):
        self.model, self.catalog, self.checkpoint, self.uploads = model, catalog, checkpoint, uploads

    def result(self, record: Record, labels: tuple[int, ...] | None, notes: tuple[str, ...] = ()) -> Result:
        """The predictions for a video beside its true labels."""
        everything = self.model.predict(record, top_k=None)
        true = None if labels is None else self._true_classes(labels)
        ranked = [
            Label(name, float(score), true is not None and int(index) in true, rank)
            for rank, (name, score, index) in enumerate(
                zip(everything.names, everything.scores, everything.classes, strict=True), start=1
            )
        ]
        timeline, frames = None, len(next(iter(record.features.values())))
        if self.model.level == "video" and next(iter(record.features.values())).ndim == 1:
            frames = 0
        elif frames > _SECONDS:
            timeline = self.model.timeline(record, seconds=_SECONDS, top_k=_LINES)
        return Result(
            record.id,
            frames,
            ranked[:_TOP],
            None if true is None else [label for label in ranked if label.is_true],
            _genres(everything),
            timeline,
            notes,
        )

    def render(self, query: str = "", result: Result | None = None, error: str = "") -> str:
        """The page with the videos that `query` finds, with a result, or with an error."""
        found = self.catalog.find(query) if query else []
        scripts = [(_FOLDER / "page.js").read_text(encoding="utf-8")] if self.uploads else []
        if result is not None and result.timeline is not None:
            scripts += [
                charts.bokeh_script(),
                (Path(charts.__file__).parent / "page.js").read_text(encoding="utf-8"),
            ]
        return render(
            _FOLDER / "page.html",
            scripts=scripts,
            network=type(self.model.module.model).__name__,
            classes=len(self.model.classes),
            checkpoint=self.checkpoint,
            catalog=self.catalog,
            suggestions=self.catalog.common(_SUGGESTED),
            examples=self.catalog.common(_EXAMPLES),
            uploads=self.uploads,
            query=query,
            found=found[:_LISTED],
            found_count=len(found),
            result=result,
            chart=_chart(result.timeline) if result and result.timeline else None,
            hue=charts.hue,
            seconds=_SECONDS,
            error=error,
        )

    def _true_classes(self, labels: tuple[int, ...]) -> set[int]:
        if self.model.module.hparams["target"] == "label":
            return set(labels)
        members = self.model.module.genres.members[list(labels)].any(dim=0)
        return {index for index, is_member in enumerate(members.tolist()) if is_member}


def _genres(prediction: Prediction) -> list[tuple[str, float]]:
    return [
        (name, float(score)) for name, score in zip(prediction.genres, prediction.genre_scores, strict=True)
    ]


def _chart(timeline: Timeline) -> charts.Chart:
    lines = [
        charts.Line(rank, name, "score", list(zip(timeline.starts.tolist(), column.tolist(), strict=True)))
        for rank, (name, column) in enumerate(zip(timeline.names, timeline.scores.T, strict=True), start=1)
    ]
    return charts.line_chart(lines, "seconds", "score", named="label", lowest=0)
