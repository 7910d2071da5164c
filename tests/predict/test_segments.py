"""A submission of segments: the best of each class in the order of their scores, however many come and how."""

import numpy as np
import pytest

from yt8m.predict import segments
from yt8m.predict.segments import SegmentRanking, SegmentsWriter
from yt8m.predict.writers import Predictions


@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_the_best_are_those_of_a_whole_sort(monkeypatch, order):
    monkeypatch.setattr(segments, "_ROWS", 16)
    rng = np.random.default_rng(0)
    for count, limit, batch in ((500, 40, 7), (30, 40, 64), (41, 40, 1), (400, 1, 400)):
        scores = rng.random((count, 3)).astype(np.float32).round(2)  # with ties, which stay in order
        scores[:, 2] = -0.0
        if order != "random":
            scores = np.sort(scores, axis=0)[:: 1 if order == "rising" else -1].copy()
        ids = [f"v{'x' * (row % 5)}{row // 7}:{row % 7 * 5}" for row in range(count)]
        ranking = SegmentRanking(3, limit)
        for begin in range(0, count, batch):
            ranking.add(ids[begin : begin + batch], scores[begin : begin + batch])
        for number in range(3):
            best = np.argsort(-scores[:, number], kind="stable")[:limit]
            assert [name.decode() for name in ranking.best(number)] == [ids[row] for row in best]


def test_the_file(tmp_path):
    none = np.empty((3, 0))
    scores = np.array([[0.9, 0.5], [0.7, 0.6], [0.8, 0.8]], dtype=np.float32)
    writer = SegmentsWriter(tmp_path / "s.csv", [], [], [4, 21], limit=2)
    writer.write(Predictions(["a:0", "ü:0", "c:5"], none, scores, none, none))
    writer.close()
    assert (tmp_path / "s.csv").read_text() == "Class,Segments\n4,a:0 c:5\n21,c:5 ü:0\n"
    SegmentsWriter(tmp_path / "empty.csv", [], [], [4]).close()
    assert (tmp_path / "empty.csv").read_text() == "Class,Segments\n"
