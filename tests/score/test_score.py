"""score: the challenge's numbers by an oracle, a line named for each broken rule, and what is told."""

import json

import numpy as np
import pytest
import torch

from tests.datamodules.records import example, sequence_example, write_shard
from tests.segment_oracle import mean_average_precision
from tests.training import run_command
from yt8m.errors import ConfigError, DataError
from yt8m.metrics import GAP
from yt8m.predict.segments import SegmentsWriter
from yt8m.predict.writers import Predictions
from yt8m.score.score import score

CONFIG = {"labels": "*.tfrecord", "id_key": "id", "strict": True, "json": None, "overwrite": True}
FRAMES = {"rgb": np.zeros((12, 3), np.uint8)}


def write_rated(path, ratings):
    """A shard of (id, [(start, class, score)]) or (id, None) for a video that was not rated."""
    payloads = []
    for name, of_video in ratings:
        context = {"id": name, "labels": [1]}
        if of_video is not None:
            starts, classes, scores = zip(*of_video, strict=True)
            context |= {"segment_start_times": starts, "segment_labels": classes}
            context["segment_scores"] = np.array(scores, np.float32)
        payloads.append(sequence_example(context, FRAMES))
    return write_shard(path, payloads)


def scored(capsys, submission, **changes):
    """The output and the results of the command."""
    score(CONFIG | {"submission": submission, "json": "found.json"} | changes)
    with open("found.json") as file:
        return capsys.readouterr().out, json.load(file)


def refused(kind, **changes):
    """The error's message."""
    with pytest.raises(kind) as error:
        score(CONFIG | changes)
    return str(error.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_segments_as_the_oracle_has_them(here, capsys):
    """Made-up ratings, repeated ones among them, and a submission from scores by this project's writer."""
    rng = np.random.default_rng(0)
    ratings, rated = {}, []
    for video in range(40):
        of_video = [
            (int(start), int(label), int(rng.random() < 0.4))
            for start, label in zip(rng.integers(0, 12, 9) * 5, rng.integers(0, 6, 9), strict=True)
        ]
        rated.append((f"v{video}", None if video % 5 == 4 else of_video))
        if video % 5 != 4:
            ratings |= {(f"v{video}:{start}", label): bool(good) for start, label, good in of_video}
    ratings = {pair: good and pair[1] != 3 for pair, good in ratings.items()}  # class 3 has no positives
    rated = [(n, r and [(s, c, int(g and c != 3)) for s, c, g in r]) for n, r in rated]
    write_rated(here / "a.tfrecord", rated)
    segments = [f"v{video}:{5 * start}" for video in range(40) for start in range(12)]
    scores = rng.random((len(segments), 5)).astype(np.float32).round(2)  # with ties
    nothing = np.empty((len(segments), 0))
    writer = SegmentsWriter(here / "s.csv", [], [], [0, 1, 3, 4, 9])
    writer.write(Predictions(segments, nothing, scores, nothing, nothing))
    writer.close()
    lists = {
        label: [segments[row] for row in np.argsort(-scores[:, column], kind="stable")]
        for column, label in enumerate([0, 1, 3, 4, 9])
    }
    output, (found,) = scored(capsys, "s.csv")
    assert found["map_100000"] == pytest.approx(mean_average_precision(lists, ratings), abs=1e-9)
    assert found["aps"]["2"] == found["aps"]["5"] == 0
    assert (found["lines"], found["listed"], found["missing"]) == (5, 5 * 480, [2, 5])
    assert f"{found['map_100000']:.5f}" in output
    assert "s.csv: left out 2 classes (3, 9) without positives" in output
    assert "s.csv: counted 0 for 2 classes (2, 5) with positives, not in the file" in output


BROKEN = {  # lines after the header → the message at line 2 or 3; and the score with strict=false
    "1,a:0 b:0\n1,a:5\n": ("line 3: expected each class once, found class 1 again", 1.0),
    "1,a:0 b:0 a:0\n": ("line 2: expected each segment once, found a:0 again", 1.0),
    "1,zz:0 a:0\n": ("line 2: expected segments of the videos in labels, found zz:0", 1.0),
    "1," + " ".join(["b:0", *(f"a:{n}" for n in range(1, 100_001))]) + " a:0\n": (
        "line 2: expected at most 100,000 segments, found 100,002",
        0.0,
    ),
    "\n1,a:0\n,a:0\n": ("line 4: expected a class, found ''", None),
    "one,a:0\n": ("line 2: expected a class, found 'one'", None),
    "1 a:0\n": ("line 2: expected a comma after the first field, found '1 a:0'", None),
    "1,a:0 a\n": ("line 2: expected segments as id:start, found 'a'", None),
    "1,a:0 a:x\n": ("line 2: expected segments as id:start, found 'a:x'", None),
    "1,a:0 \xff\n": ("expected segments as id:start", None),
}


def test_a_broken_rule_names_its_line(here, capsys):
    write_rated(here / "a.tfrecord", [("a", [(0, 1, 1)]), ("b", [(0, 1, 0)])])
    for lines, (message, value) in BROKEN.items():
        (here / "s.csv").write_text("Class,Segments\n" + lines)
        error = refused(DataError, submission="s.csv")
        assert message in error
        assert error.startswith("s.csv @ line")
        if value is not None:
            output, (found,) = scored(capsys, "s.csv", strict=False)
            assert found["map_100000"] == value
            assert sum(found["mistakes"].values()) > 0
            assert "passed over" in output


def test_videos_have_the_gap_of_the_evaluator(here, capsys):
    rng = np.random.default_rng(1)
    labels = [sorted(rng.choice(30, rng.integers(1, 4), replace=False).tolist()) for _ in range(50)]
    for number, part in enumerate((labels[:20], labels[20:])):
        first = 20 * number
        videos = [{"id": f"v{first + i}", "labels": one} for i, one in enumerate(part)]
        payloads = [sequence_example(v, FRAMES) if number else example(v) for v in videos]  # either level
        write_shard(here / f"{number}.tfrecord", payloads)
    scores = rng.permutation(50 * 30).reshape(50, 30).astype(np.float32) / 1500
    rows = []
    for video, row in enumerate(scores):
        best = np.argsort(-row)[:20]
        rows.append(f"v{video}," + " ".join(f"{c} {row[c]:.9g}" for c in best) + "\n")
    dense = torch.zeros(50, 30, dtype=torch.bool)
    for video, of_video in enumerate(labels):
        dense[video, of_video] = True
    metric = GAP()
    metric.update(torch.from_numpy(scores), dense)
    (here / "s.csv").write_text("VideoId,LabelConfidencePairs\n" + "".join(rows))
    _, (found,) = scored(capsys, "s.csv")
    assert found["gap_20"] == pytest.approx(metric.compute().item(), abs=1e-6)
    (here / "half.csv").write_text("VideoId,LabelConfidencePairs\n" + "".join(rows[:25]))
    output, (whole, half) = scored(capsys, ["s.csv", "half.csv"])
    assert half["gap_20"] < whole["gap_20"]
    assert "half.csv: missing videos, whose labels all count as missed: 25" in output
    for line, message in {
        rows[0] + rows[0]: "line 3: expected each video once, found v0 again",
        "x,1 0.5\n": "line 2: expected a video in labels, found x",
        "v0,1 0.5 2\n": "line 2: expected pairs of a class and its score, found 3 words",
        "v0,1 high\n": "line 2: expected a score, found 'high'",
        "v0,1 nan\n": "line 2: expected a score, found 'nan'",
        "v0,1 0.5 1 0.4\n": "line 2: expected each class once, found class 1 again",
        "v0,"
        + " ".join(f"{c} 0.5" for c in range(21))
        + "\n": "line 2: expected at most 20 classes, found 21",
    }.items():
        (here / "s.csv").write_text("VideoId,LabelConfidencePairs\n" + line)
        assert message in refused(DataError, submission="s.csv")


def test_wrong_arguments_and_shards(here, capsys):
    write_rated(here / "a.tfrecord", [("a", [(0, 1, 1)]), ("b", None)])
    write_rated(here / "unrated.tfrecord", [("b", None)])
    damaged = (here / "a.tfrecord").read_bytes()
    (here / "damaged.tfrecord").write_bytes(damaged[:40] + b"x" + damaged[41:])
    (here / "s.csv").write_text("Class,Segments\n1,a:0\n")
    (here / "v.csv").write_text("VideoId,LabelConfidencePairs\na,1 1\n")
    (here / "other.csv").write_text("id,label\n")
    (here / "binary.csv").write_bytes(b"Class,Segments\n1,\xff\xfe\n")
    for changes, kind, message in (
        ({"submission": "none.csv"}, ConfigError, "submission: expected a CSV file at none.csv"),
        ({"submission": ["s.csv", "v.csv"]}, ConfigError, "expected files of one kind"),
        ({"submission": "other.csv"}, DataError, "other.csv @ line 1: expected the header Class,Segments"),
        ({"submission": "binary.csv", "labels": "a.*"}, DataError, "binary.csv @ byte"),
        ({"labels": "none*"}, ConfigError, "labels: expected shards at none*, found none; set labels"),
        ({"labels": "unrated.*"}, DataError, "expected rated segments, found none in 1 videos"),
        ({"labels": "damaged.*"}, DataError, "damaged.tfrecord @ byte 0"),
        ({"labels": "s.csv"}, DataError, "without a readable record); re-download the shard"),
        ({"labels": "a.*", "id_key": "video_id"}, DataError, "expected an id in video_id, found none"),
        ({"labels": "a.*", "json": "s.csv", "overwrite": False}, ConfigError, "json: expected a new file"),
    ):
        error = refused(kind, **{"submission": "s.csv"} | changes)
        assert message in error
        assert "dataset." not in error  # which this command does not have
    with pytest.raises(SystemExit) as stop:
        run_command("score", "submission=other.csv", "labels=a.*")
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: other.csv @ line 1")
