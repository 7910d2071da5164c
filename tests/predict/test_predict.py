"""predict: every format, in order, whole or not at all; the CSV re-scored gives the GAP of eval."""

import csv
import json
import os
import signal
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from tfrecord.example_pb2 import SequenceExample
from tfrecord.reader import tfrecord_iterator

from tests.datamodules.records import write_shard
from tests.training import DDP, in_processes, run_command
from yt8m.predict import writers
from yt8m.predict.output import OutputFile

CPU = ("trainer=cpu", "dataset.batch_size=7")


@pytest.fixture(scope="module")
def checkpoint(tiny_run):
    return tiny_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def sample_root(tiny_sample):
    return Path(tiny_sample[0].removeprefix("dataset.root="))


@pytest.fixture
def predict(tmp_path, checkpoint):
    """Run the command; the output's path."""

    def run(*overrides: str, name: str = "out.csv", ckpt: object = checkpoint) -> Path:
        output = tmp_path / name
        folder = f"hydra.run.dir={tmp_path / 'run'}"
        run_command("predict", f"ckpt_path={ckpt}", f"output={output}", folder, *CPU, *overrides)
        return output

    return run


def changed(checkpoint: Path, path: Path, change) -> Path:
    """A checkpoint with other content."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def labelled_videos(folder: Path) -> list[tuple[str, list[int]]]:
    """Id and labels of every record, in the order of the shards' names, read by the `tfrecord` package."""
    videos = []
    for shard in sorted(folder.glob("*.tfrecord")):
        for payload in tfrecord_iterator(str(shard)):
            context = SequenceExample.FromString(bytes(payload)).context.feature
            videos.append(
                (context["id"].bytes_list.value[0].decode(), list(context["labels"].int64_list.value))
            )
    return videos


def read_kaggle(path: Path) -> dict[str, list[tuple[int, float]]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["VideoId", "LabelConfidencePairs"]
    result = {}
    for name, pairs in rows[1:]:
        values = pairs.split(" ")
        result[name] = [(int(c), float(s)) for c, s in zip(values[::2], values[1::2], strict=True)]
    assert len(result) == len(rows) - 1, "an id comes twice"
    return result


def test_the_csv_rescored_gives_the_gap_of_eval(predict, checkpoint, sample_root, tmp_path):
    found = read_kaggle(predict("split=test"))
    run_command("eval", f"ckpt_path={checkpoint}", "split=test", *CPU, f"hydra.run.dir={tmp_path / 'eval'}")
    gap = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test/gap"]

    videos = labelled_videos(sample_root / "test")
    assert list(found) == [name for name, _ in videos]
    pairs = [(score, c in labels) for name, labels in videos for c, score in found[name]]
    hits = np.array([hit for _, hit in sorted(pairs, key=lambda pair: -pair[0])], dtype=float)
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    rescored = (precision * hits).sum() / sum(len(labels) for _, labels in videos)
    assert rescored == pytest.approx(gap, abs=1e-4)
    for best in found.values():
        scores = [score for _, score in best]
        assert len(best) == len({c for c, _ in best}) == 20
        assert scores == sorted(scores, reverse=True)


def test_all_formats_say_the_same(predict, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    expected = read_kaggle(predict("split=validate"))
    with predict("split=validate", "format=names", name="n").open(newline="", encoding="utf-8") as file:
        names = list(csv.DictReader(file))
    lines = predict("split=validate", "format=jsonl", name="j").read_text().splitlines()
    objects = {video["id"]: video for video in map(json.loads, lines)}
    rows = parquet.read_table(predict("split=validate", "format=parquet", name="p")).to_pylist()

    with closing(sqlite3.connect(predict("split=validate", "format=sqlite", name="s"))) as database:
        listed = database.execute("SELECT id, classes, scores FROM predictions").fetchall()
        class_names = [name for (name,) in database.execute("SELECT name FROM classes ORDER BY class")]

    by_name = defaultdict(list)
    for row in names:
        by_name[row["VideoId"]].append((int(row["Class"]), float(row["Score"])))
    assert by_name == expected
    assert list(by_name) == list(objects) == [row["id"] for row in rows] == list(expected)
    for row, (video_id, classes, scores) in zip(rows, listed, strict=True):
        assert video_id == row["id"]
        assert np.frombuffer(classes, "<i4").tolist() == row["classes"]
        assert np.frombuffer(scores, "<f4").tolist() == row["scores"]
        assert [class_names[c] for c in row["classes"]] == row["names"]
        video = objects[row["id"]]
        assert [(label["class"], label["score"]) for label in video["labels"]] == expected[row["id"]]
        assert row["classes"] == [c for c, _ in expected[row["id"]]]
        assert row["scores"] == pytest.approx([s for _, s in expected[row["id"]]], rel=1e-5)
        assert row["names"] == [label["name"] for label in video["labels"]]
        assert row["genres"] == [genre["name"] for genre in video["genres"]]
        genre = next(r for r in names if r["VideoId"] == row["id"])
        assert (genre["Genre"], float(genre["GenreScore"])) == (
            video["genres"][0]["name"],
            video["genres"][0]["score"],
        )


def test_a_batch_is_written_while_the_next_is_on_the_device(predict, monkeypatch):
    """30 videos in batches of 7: each is written after the next was ranked, which only starts work on a GPU."""
    rank, write, events = OutputFile._rank, writers.KaggleWriter.write, []

    def ranked(self, scores, *arguments):
        events.append(("rank", len(scores)))
        return rank(self, scores, *arguments)

    def written(self, predictions):
        events.append(("write", len(predictions)))
        write(self, predictions)

    monkeypatch.setattr(OutputFile, "_rank", ranked)
    monkeypatch.setattr(writers.KaggleWriter, "write", written)
    predict("split=validate")
    whole = [("rank", 7), ("write", 7)]
    assert events == [("rank", 7), *3 * whole, ("rank", 2), ("write", 7), ("write", 2)]


def test_genres_follow_from_the_file_itself(predict, sample_root):
    """Noisy-or over the 20 labels of the file."""
    with (sample_root / "vocabulary.csv").open(newline="") as file:
        genre_of = {row["Name"]: row["Vertical1"] for row in csv.DictReader(file)}
    for line in predict("format=jsonl", name="j").read_text().splitlines():
        video = json.loads(line)
        missing = defaultdict(lambda: 1.0)
        for label in video["labels"]:
            missing[genre_of[label["name"]]] *= 1 - label["score"]
        for genre in video["genres"]:
            assert genre["score"] == pytest.approx(1 - missing[genre["name"]], abs=1e-5)
        scores = [genre["score"] for genre in video["genres"]]
        assert scores == sorted(scores, reverse=True)


def test_shards_without_labels(predict, checkpoint, sample_root, tmp_path):
    def plain_shards(content):  # not the sample, which would write itself anew
        dataset = content["hyper_parameters"]["config"]["dataset"]
        dataset["_target_"] = "yt8m.datamodules.datamodule.YT8MDataModule"
        del dataset["sample"]

    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for shard in sorted((sample_root / "test").glob("*.tfrecord")):
        records = [SequenceExample.FromString(bytes(data)) for data in tfrecord_iterator(str(shard))]
        for record in records:
            del record.context.feature["labels"]
        write_shard(folder / shard.name, [record.SerializeToString() for record in records])
    ckpt = changed(checkpoint, tmp_path / "plain.ckpt", plain_shards)
    without = predict("dataset.test=*.tfrecord", f"dataset.root={folder}", name="u.csv", ckpt=ckpt)
    assert without.read_text() == predict().read_text()


def test_the_limits_of_the_training_leave_no_video_out(predict, checkpoint, tmp_path):
    def limit(content):
        content["hyper_parameters"]["config"]["dataset"]["limit_videos"] = 5

    limited = changed(checkpoint, tmp_path / "limited.ckpt", limit)
    everything = list(read_kaggle(predict(ckpt=limited)))
    assert len(everything) == 20
    first = predict("dataset.limit_videos=6", ckpt=checkpoint, name="first.csv")
    assert list(read_kaggle(first)) == everything[:6]


def test_several_checkpoints_are_averaged_with_weights(predict, checkpoint, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")

    def shift(content):
        content["state_dict"]["model.classifier.bias"] += torch.linspace(-2, 2, 40)

    other = changed(checkpoint, tmp_path / "other.ckpt", shift)

    def scores(name, *overrides, ckpt):
        output = predict("format=parquet", "top_k=40", *overrides, name=name, ckpt=ckpt)
        rows = parquet.read_table(output).to_pylist()
        return np.array([[s for _, s in sorted(zip(r["classes"], r["scores"], strict=True))] for r in rows])

    first, second = scores("a", ckpt=checkpoint), scores("b", ckpt=other)
    both = f"[{checkpoint},{other}]"
    np.testing.assert_allclose(scores("c", ckpt=both), (first + second) / 2, atol=1e-6)
    np.testing.assert_allclose(scores("d", "weights=[2,1]", ckpt=both), (2 * first + second) / 3, atol=1e-6)


def test_an_ensemble_dequantizes_a_batch_once(predict, checkpoint, monkeypatch):
    from yt8m.module import VideoClassifier

    calls = []
    inputs = VideoClassifier.inputs

    def counted(self, batch, **options):
        calls.append(1)
        return inputs(self, batch, **options)

    monkeypatch.setattr(VideoClassifier, "inputs", counted)
    predict(ckpt=f"[{checkpoint},{checkpoint},{checkpoint}]")
    assert len(calls) == 3  # 20 videos in batches of 7


def test_checkpoints_that_differ_are_not_averaged(predict, checkpoint, tmp_path, capsys):
    def longer(content):
        content["hyper_parameters"]["max_frames"] = 400

    def of_five_classes(content):
        from yt8m.module import VideoClassifier

        content["hyper_parameters"] |= {"num_classes": 5, "vocabulary": None}
        content["state_dict"] = VideoClassifier(**content["hyper_parameters"]).state_dict()

    def renamed(content):
        content["hyper_parameters"]["vocabulary"][7][0] = "another"

    for change, says in (
        (longer, "max_frames = 400 in"),
        (of_five_classes, "num_classes = 5 in"),
        (renamed, "other class names in"),
    ):
        other = changed(checkpoint, tmp_path / "other.ckpt", change)
        with pytest.raises(SystemExit):
            predict(ckpt=f"[{checkpoint},{other}]")
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["split=all"], "split: expected train, validate or test, found 'all'"),
        (["format=xml"], "format: expected csv, names, jsonl, parquet or sqlite, found 'xml'"),
        (["weights=[1,2]"], "weights: expected 1 positive numbers, one per checkpoint, found [1, 2]"),
        (["weights=[0]"], "weights: expected positive numbers, one per checkpoint"),
        (["overwrite=no"], "overwrite: expected true or false, found 'no'"),
        (["top_k=0"], "top_k: expected a whole number, 1 or more, found 0"),
        (["dataset.test=nothing*"], "dataset.test: expected shards at"),
        (["output=/absent-folder/out.csv"], "output: expected a folder at /absent-folder"),
        (["ckpt_path=null"], "ckpt_path: expected a checkpoint"),
        (
            ["ckpt_path=/absent-folder.ckpt"],
            "ckpt_path: expected a checkpoint, found nothing at /absent-folder.ckpt",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(predict, tmp_path, capsys, overrides, says):
    with pytest.raises(SystemExit):
        predict(*overrides)
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "out.csv").exists()


def test_parquet_without_pyarrow_names_the_extra(predict, monkeypatch, capsys):
    monkeypatch.setattr("yt8m.errors.is_installed", lambda package: False)
    with pytest.raises(SystemExit):
        predict("format=parquet")
    assert "pip install 'yt8m[parquet]'" in capsys.readouterr().err


def test_a_file_that_is_there_stays_unless_told(predict, tmp_path, capsys):
    output = tmp_path / "out.csv"
    output.write_text("mine")
    with pytest.raises(SystemExit):
        predict()
    assert "output: expected a new file, found one at" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert len(read_kaggle(predict("overwrite=true"))) == 20


@pytest.mark.parametrize("what", ["Ctrl-C", "SIGTERM", "error"])
def test_an_interrupted_run_leaves_no_file(predict, tmp_path, monkeypatch, capsys, what):
    from yt8m.predict.ensemble import Ensemble

    steps = []

    def predict_step(self, batch, batch_idx):
        steps.append(batch_idx)
        if len(steps) == 2:
            assert not (tmp_path / "out.csv").exists()
            assert (tmp_path / "out.csv.part").exists()
            if what == "Ctrl-C":
                raise KeyboardInterrupt
            if what == "error":
                raise RuntimeError("the device is gone")
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.rand(len(batch), 40)

    monkeypatch.setattr(Ensemble, "predict_step", predict_step)
    interrupt = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        predict()
    signal.signal(signal.SIGINT, interrupt)  # Lightning ignores it from the first Ctrl-C on
    assert ended.value.code not in (0, None)
    if what == "SIGTERM":
        assert f"stopped by SIGTERM; {tmp_path / 'out.csv'} was not written\n" in capsys.readouterr().err
    assert len(steps) == 2
    assert list(tmp_path.glob("out.csv*")) == []


def test_a_full_disk_is_told_in_a_line(predict, tmp_path, monkeypatch, capsys):
    def write(self, predictions):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers.KaggleWriter, "write", write)
    with pytest.raises(SystemExit):
        predict()
    error = capsys.readouterr().err
    assert "out.csv.part could not be written ([Errno 28] No space left on device)" in error
    assert "Traceback" not in error
    assert list(tmp_path.glob("out.csv*")) == []


def test_scores_that_are_no_numbers_are_refused(predict, checkpoint, tmp_path, capsys):
    def diverge(content):
        content["state_dict"]["model.classifier.bias"][3] = torch.nan

    with pytest.raises(SystemExit):
        predict(ckpt=changed(checkpoint, tmp_path / "nan.ckpt", diverge))
    assert "expected probabilities, found NaN" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_segments_are_written_by_class_for_the_rated_classes(predict, checkpoint, tmp_path):
    """Videos without rated segments are cut into rows of five frames; 2019's CSV goes by class."""

    def to_segments(content):
        content["hyper_parameters"]["level"] = "segment"
        content["hyper_parameters"]["config"]["dataset"]["level"] = "segment"

    (tmp_path / "ids.csv").write_text("Index\n7\n0\n21\n")
    ckpt = changed(checkpoint, tmp_path / "segments.ckpt", to_segments)
    ids = f"segment_label_ids={tmp_path / 'ids.csv'}"
    by_segment = predict("format=jsonl", "top_k=40", name="j", ckpt=ckpt).read_text().splitlines()
    scores = {c: {} for c in (0, 7, 21)}
    for line in by_segment:
        segment = json.loads(line)
        for label in segment["labels"]:
            if label["class"] in scores:
                scores[label["class"]][segment["id"]] = label["score"]
    with predict(ids, ckpt=ckpt).open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Class", "Segments"]
    assert [int(row[0]) for row in rows] == [0, 7, 21]
    for index, segments in rows:
        of_class = scores[int(index)]
        found = segments.split(" ")
        assert sorted(found) == sorted(of_class)  # 3 classes < top_k: every segment
        ranked = [of_class[segment] for segment in found]
        assert ranked == sorted(ranked, reverse=True)
        assert all(segment.split(":")[1].isdecimal() for segment in found)


@pytest.mark.slow
def test_two_ranks_write_every_video_once_in_order(predict, checkpoint, tmp_path):
    """100 videos in batches of 2 x 7: the last global batch is cut unevenly."""
    alone = read_kaggle(predict("split=train"))
    overrides = (
        f"ckpt_path={checkpoint}",
        "split=train",
        f"output={tmp_path / 'two.csv'}",
        f"hydra.run.dir={tmp_path / 'two'}",
    )
    in_processes("predict", *CPU, *overrides, *DDP)
    together = read_kaggle(tmp_path / "two.csv")
    assert list(together) == list(alone)
    for name, best in alone.items():
        other = dict(together[name])
        assert [s for _, s in together[name]] == pytest.approx([s for _, s in best], rel=1e-4)
        assert all(other[c] == pytest.approx(s, rel=1e-4) for c, s in best if c in other)
    assert list(tmp_path.glob("two.csv?*")) == []
