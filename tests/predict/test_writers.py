"""How predictions are written, without a network."""

import numpy as np

from yt8m.predict import writers
from yt8m.predict.writers import Predictions


def test_scores_have_six_significant_digits(tmp_path):
    writer = writers.KaggleWriter(tmp_path / "p.csv", [], [])
    scores = np.array([[0.123456789, 1.25e-7]], dtype=np.float32)
    none = np.empty((1, 0))
    writer.write(Predictions(["a"], np.array([[3, 1]]), scores, none, none))
    writer.close()
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "a,3 0.123457 1 1.25e-07"
