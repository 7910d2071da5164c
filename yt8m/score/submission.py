"""Submissions, read line by line and scored: MAP@100,000 of segments, GAP@20 of videos."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from yt8m.errors import ConfigError, DataError
from yt8m.metric_table import MAX_SEGMENTS, TOP_K
from yt8m.score.labels import Ratings

SEGMENTS, VIDEOS = "Class,Segments", "VideoId,LabelConfidencePairs"  # headers
_MOST_DIGITS = 9  # of a class or a start


@dataclass
class Result:
    """Score of a submission.

    Attributes:
        value: MAP@100,000 or GAP@20.
        lines: classes, or videos, that the file has.
        listed: segments, or classes, of all lines together that count.
        aps: average precision of each class with positives; none of videos.
        without_positives: classes of the file that are left out of the mean.
        missing: classes with positives, or number of videos, that the file does not have.
        mistakes: how many of each kind were passed over; none with `strict`.
    """

    value: float = 0.0
    lines: int = 0
    listed: int = 0
    aps: dict[int, float] = field(default_factory=dict)
    without_positives: list[int] = field(default_factory=list)
    missing: list[int] | int = field(default_factory=list)
    mistakes: dict[str, int] = field(default_factory=dict)


class _Lines:
    """The lines of a submission after its header, and what to do about a mistake in one."""

    def __init__(self, path: Path, file: TextIO, strict: bool):
        self.path, self.strict, self.number = path, strict, 1
        self.mistakes: Counter[str] = Counter()
        self._file = file

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """First field, and the rest, of each line."""
        for line in self._file:
            self.number += 1
            text = line.rstrip("\r\n")
            key, comma, rest = text.partition(",")
            if not comma:
                if not text:
                    continue  # an empty line at the end
                raise self.error("a comma after the first field", repr(text[:40]))
            yield key.strip(), rest.strip()

    def error(self, expected: str, found: str) -> DataError:
        return DataError(
            f"{self.path} @ line {self.number}: expected {expected}, found {found}; correct the file"
        )

    def mistake(self, kind: str, expected: str, found: str, count: int = 1) -> None:
        """Raise DataError, or count what the score can do without."""
        if self.strict:
            error = self.error(expected, found)
            raise DataError(f"{error}, or set strict=false")
        self.mistakes[kind] += count

    def whole_number(self, text: str, what: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
            raise self.error(what, repr(text[:40]))
        return int(text)


@contextmanager
def _open(path: Path) -> Iterator[tuple[str, TextIO]]:
    """The header of a submission, and the rest of the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            header = file.readline(200).rstrip("\r\n")
            if header not in (SEGMENTS, VIDEOS):
                raise DataError(
                    f"{path} @ line 1: expected the header {SEGMENTS} or {VIDEOS}, found {header[:80]!r}; choose a "
                    "submission"
                )
            yield header, file
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} @ byte {error.start}: expected text in UTF-8, found other bytes; choose a submission"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"submission: expected a CSV file at {path}; {error.strerror}; set submission"
        ) from None


def header_of(path: Path) -> str:
    """`SEGMENTS` or `VIDEOS`. Raises DataError for a file with another first line, ConfigError without a file."""
    with _open(path) as (header, _):
        return header


def score_segments(path: Path, ratings: Ratings, strict: bool) -> Result:
    """MAP@100,000 of a file of segments.

    Raises:
        DataError: a line is malformed, or with `strict` breaks a rule.
    """
    result, positives = Result(), ratings.positives()
    classes: set[int] = set()
    known: set[str] = set()  # segments of known videos
    with _open(path) as (_, file):
        lines = _Lines(path, file, strict)
        for key, rest in lines:
            label = lines.whole_number(key, "a class")
            if label in classes:
                lines.mistake("classes that come twice", "each class once", f"class {label} again")
                continue
            classes.add(label)
            segments = _segments(lines, rest.split(), ratings, known)
            result.listed += len(segments)
            if label not in positives:
                result.without_positives.append(label)
                continue
            rated = ratings.of_class[label]
            hits = np.array([rated[segment] for segment in segments if segment in rated], bool)
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            result.aps[label] = float(precision[hits].sum()) / min(positives[label], MAX_SEGMENTS)
    result.lines, result.mistakes = len(classes), dict(lines.mistakes)
    result.missing = [label for label in positives if label not in classes]
    result.aps |= dict.fromkeys(result.missing, 0.0)
    result.value = sum(result.aps.values()) / len(result.aps) if result.aps else math.nan
    result.without_positives.sort()
    return result


def _segments(lines: _Lines, segments: list[str], ratings: Ratings, known: set[str]) -> list[str]:
    """The segments of a line that count, after its checks."""
    if len(segments) > MAX_SEGMENTS:
        lines.mistake(
            "segments beyond 100,000",
            f"at most {MAX_SEGMENTS:,} segments",
            f"{len(segments):,}",
            len(segments) - MAX_SEGMENTS,
        )
        segments = segments[:MAX_SEGMENTS]
    unique = dict.fromkeys(segments)
    if len(unique) < len(segments):
        seen: set[str] = set()
        twice = next(segment for segment in segments if segment in seen or seen.add(segment))  # type: ignore[func-returns-value]
        lines.mistake(
            "segments that come twice",
            "each segment once",
            f"{twice[:80]} again",
            len(segments) - len(unique),
        )
    unknown = set()
    for segment in unique.keys() - known:
        video, colon, start = segment.rpartition(":")
        if not colon or not (start.isascii() and start.isdecimal() and len(start) <= _MOST_DIGITS):
            raise lines.error("segments as id:start", repr(segment[:80]))
        if video in ratings.videos:
            known.add(segment)
        else:
            unknown.add(segment)
    if unknown:
        first = next(segment for segment in segments if segment in unknown)
        lines.mistake(
            "segments of unknown videos", "segments of the videos in labels", first[:80], len(unknown)
        )
    return [segment for segment in unique if segment not in unknown]


def score_videos(path: Path, labels: Mapping[str, frozenset[int]], strict: bool) -> Result:
    """GAP@20 of a file of videos. Raises as `score_segments`."""
    import torch  # takes a second

    from yt8m.metrics import gap

    result, videos = Result(), set()
    scores: list[float] = []
    hits: list[bool] = []
    with _open(path) as (_, file):
        lines = _Lines(path, file, strict)
        for video, rest in lines:
            if video in videos:
                lines.mistake("videos that come twice", "each video once", f"{video[:80]} again")
                continue
            if video not in labels:
                lines.mistake("unknown videos", "a video in labels", video[:80])
                continue
            videos.add(video)
            for label, score in _pairs(lines, rest.split()):
                scores.append(score)
                hits.append(label in labels[video])
    result.lines, result.listed, result.mistakes = len(videos), len(scores), dict(lines.mistakes)
    result.missing = len(labels) - len(videos)
    positives = torch.tensor([sum(map(len, labels.values()))])
    result.value = (
        float(gap(torch.tensor(scores), torch.tensor(hits, dtype=torch.bool), positives)) if scores else 0.0
    )
    return result


def _pairs(lines: _Lines, words: list[str]) -> list[tuple[int, float]]:
    """The (class, score) pairs of a line that count: at most 20, best first."""
    if len(words) % 2:
        raise lines.error("pairs of a class and its score", f"{len(words)} words")
    pairs: dict[int, float] = {}
    for word, number in zip(words[::2], words[1::2], strict=True):
        label = lines.whole_number(word, "a class")
        try:
            score = float(number)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise lines.error("a score", repr(number[:40]))
        if label in pairs:
            lines.mistake("classes that come twice", "each class once", f"class {label} again")
            continue
        pairs[label] = score
    if len(pairs) > TOP_K:
        lines.mistake("classes beyond 20", f"at most {TOP_K} classes", str(len(pairs)), len(pairs) - TOP_K)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_K]
