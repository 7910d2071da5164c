"""The embedded sample, decoded with the `tfrecord` package and judged by least squares."""

import csv
import hashlib
import json
import multiprocessing
import struct
from pathlib import Path

import numpy as np
import pytest
from tfrecord.example_pb2 import SequenceExample
from tfrecord.reader import tfrecord_iterator
from tfrecord.writer import TFRecordWriter

from yt8m.datamodules import sample
from yt8m.datamodules.sample import draw_labels, sample_classes, write_sample
from yt8m.errors import ConfigError

SMALL = {"train_videos": 12, "validate_videos": 5, "test_videos": 4, "num_classes": 12, "shards": 2}
PROBED = {"train_videos": 700, "validate_videos": 400, "num_classes": 20, "min_frames": 10, "max_frames": 14}
PARTITIONS = ("train", "validate", "test")
GOLDEN = "3ac6755e3eacdaa5faff42ca74ca06ecbe13f8394f57e4260eed23c8f83d14b8"


def records(root: Path, partition: str) -> list[bytes]:
    shards = sorted((root / partition).glob("*.tfrecord"))
    return [bytes(record) for shard in shards for record in tfrecord_iterator(str(shard))]


def decode(record: bytes) -> tuple[str, list[int], dict[str, np.ndarray]]:
    """The id, labels and frames (uint8 [T, D] per feature) of a record."""
    example = SequenceExample.FromString(record)
    context, lists = example.context.feature, example.feature_lists.feature_list
    assert set(context) == {"id", "labels"}
    frames = {
        name: np.array([np.frombuffer(row.bytes_list.value[0], np.uint8) for row in lists[name].feature])
        for name in lists
    }
    return context["id"].bytes_list.value[0].decode(), list(context["labels"].int64_list.value), frames


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.*")}


def modified(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_sample(tmp_path_factory.mktemp("small") / "sample", **SMALL)


def test_records_have_real_shapes_and_lie_in_all_partitions(small):
    ids = []
    lengths = set()
    for partition in PARTITIONS:
        decoded = [decode(record) for record in records(small, partition)]
        assert len(list((small / partition).iterdir())) == SMALL["shards"]
        assert len(decoded) == SMALL[f"{partition}_videos"]
        for video_id, labels, frames in decoded:
            ids.append(video_id)
            assert labels
            assert labels == sorted(set(labels))
            assert set(labels) <= set(range(12))
            assert set(frames) == {"rgb", "audio"}
            assert frames["rgb"].shape[1:] == (1024,)
            assert frames["audio"].shape[1:] == (128,)
            assert len(frames["rgb"]) == len(frames["audio"])
            lengths.add(len(frames["rgb"]))
    assert len(set(ids)) == len(ids)
    assert all(len(video_id) == 4 and video_id.isascii() and video_id.isalnum() for video_id in ids)
    assert min(lengths) >= 12
    assert max(lengths) <= 32
    assert len(lengths) > 5


def test_framing_equals_that_of_the_tfrecord_package(small):
    for shard in small.rglob("*.tfrecord"):
        framed = b""
        for record in tfrecord_iterator(str(shard)):
            record = bytes(record)
            length = struct.pack("<Q", len(record))
            framed += length + TFRecordWriter.masked_crc(length) + record + TFRecordWriter.masked_crc(record)
        assert shard.read_bytes() == framed


def test_vocabulary_is_in_the_official_form(small):
    with (small / "vocabulary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    official = (
        "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription"
    )
    assert list(rows[0]) == official.split(",")
    indices = [int(row["Index"]) for row in rows]
    assert sorted(indices) == list(range(12))
    assert indices != sorted(indices)
    counts = np.zeros(12, dtype=int)
    for record in records(small, "train"):
        counts[decode(record)[1]] += 1
    assert [int(row["TrainVideoCount"]) for row in rows] == counts[indices].tolist()
    assert len({row["Name"] for row in rows}) == 12
    assert all(row["Vertical1"] for row in rows)


@pytest.mark.parametrize("num_classes", range(4, 12))
def test_any_number_of_classes_has_whole_pairs_and_frequent_parents(num_classes):
    classes = sample_classes(num_classes)
    assert [entry.index for entry in classes] == list(range(num_classes))
    for entry in classes:
        if entry.other is not None:
            assert classes[entry.other].other == entry.index
        if entry.parent is not None:
            assert classes[entry.parent].frequency > entry.frequency


def test_bytes_depend_on_the_parameters_alone(small, tmp_path):
    again = write_sample(tmp_path / "again", **SMALL)
    assert content(again) == content(small)
    other = write_sample(tmp_path / "other", **SMALL, seed=1)
    assert all(records(other, partition) != records(small, partition) for partition in PARTITIONS)
    one_shard = write_sample(tmp_path / "one", **SMALL | {"shards": 1})
    assert all(records(one_shard, partition) == records(small, partition) for partition in PARTITIONS)


def test_bytes_are_those_of_the_format(small):
    """The content is the same on every machine; where it is changed on purpose, FORMAT changes too."""
    digest = hashlib.sha256()
    for partition in PARTITIONS:
        for record in records(small, partition):
            digest.update(record)
    digest.update((small / "vocabulary.csv").read_bytes())
    assert (sample.FORMAT, digest.hexdigest()) == (1, GOLDEN)


def test_a_whole_sample_is_used_again(tmp_path):
    root = write_sample(tmp_path / "sample", **SMALL)
    (root / "notes.txt").write_text("of a user")
    before = modified(root)
    assert write_sample(root, **SMALL) == root
    assert modified(root) == before


@pytest.mark.parametrize("damage", ["missing", "truncated", "parameter", "format"])
def test_a_sample_that_differs_is_written_anew(small, tmp_path, damage):
    root = write_sample(tmp_path / "sample", **SMALL | ({"max_frames": 20} if damage == "parameter" else {}))
    shard = root / "validate" / "validate0001.tfrecord"
    if damage == "missing":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "format":
        manifest = json.loads((root / "sample.json").read_text())
        (root / "sample.json").write_text(json.dumps(manifest | {"format": -1}))
    assert content(root) != content(small)
    write_sample(root, **SMALL)
    assert content(root) == content(small)


def test_an_empty_folder_and_a_link_to_one_are_filled(small, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write_sample(tmp_path / "link", **SMALL)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "empty") == content(small)


@pytest.mark.parametrize("name", ["train/train0000.tfrecord", "sample.json", "a/b"])
def test_files_of_others_are_never_deleted(tmp_path, name):
    foreign = tmp_path / "data" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    with pytest.raises(ConfigError, match=name) as error:
        write_sample(tmp_path / "data", **SMALL)
    assert "\n" not in str(error.value)
    assert foreign.read_text() == "{}"


def test_files_of_others_inside_an_old_sample_are_never_deleted(tmp_path):
    root = write_sample(tmp_path / "sample", **SMALL)
    (root / "train" / "notes.txt").write_text("of a user")
    before = content(root)
    with pytest.raises(ConfigError, match=r"train/notes\.txt"):
        write_sample(root, **SMALL, seed=1)
    assert content(root) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "sample").write_text("of a user")
    with pytest.raises(ConfigError, match=r"dataset\.root"):
        write_sample(tmp_path / "sample", **SMALL)
    assert (tmp_path / "sample").read_text() == "of a user"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_classes": 3}, r"dataset\.num_classes: .* 4 or more, found 3"),
        ({"min_frames": 9}, r"dataset\.sample\.min_frames: .* 10 or more, found 9"),
        ({"max_frames": 11}, r"dataset\.sample\.max_frames: .* 12 or more, found 11"),
        ({"shards": 5}, r"dataset\.sample\.shards: .* found 5 for the 4 videos of test"),
        ({"test_videos": 0}, r"dataset\.sample\.test_videos: .* 1 or more, found 0"),
        ({"seed": None}, r"dataset\.sample\.seed: .* found None"),
    ],
)
def test_parameters_out_of_range_are_named(tmp_path, changed, message):
    with pytest.raises(ConfigError, match=message):
        write_sample(tmp_path / "sample", **SMALL | changed)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_sample(tmp_path, monkeypatch):
    root = write_sample(tmp_path / "sample", **SMALL)
    before = content(root)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "_write_vocabulary", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_sample(root, **SMALL, seed=1)
    assert content(root) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"sample", ".sample.lock"}


def test_what_a_killed_process_left_is_cleared(small, tmp_path):
    for leftover in (".sample.fresh", ".sample.stale"):
        (tmp_path / leftover / "train").mkdir(parents=True)
    root = write_sample(tmp_path / "sample", **SMALL)
    assert content(root) == content(small)
    assert {path.name for path in tmp_path.iterdir()} <= {"sample", ".sample.lock"}


def write_at_once(root: Path, barrier, seen) -> None:
    barrier.wait()
    write_sample(root, **SMALL)
    seen.put((sorted(content(root)), (root / "sample.json").stat().st_ino))


@pytest.mark.slow
def test_processes_at_once_leave_one_sample(small, tmp_path):
    root = write_sample(tmp_path / "sample", **SMALL, seed=1)  # to be replaced
    context = multiprocessing.get_context("spawn")
    barrier, seen = context.Barrier(2), context.Queue()
    writers = [context.Process(target=write_at_once, args=(root, barrier, seen)) for _ in range(2)]
    for writer in writers:
        writer.start()
    answers = [seen.get(timeout=120) for _ in writers]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    # All saw the same whole sample: it was written once.
    assert answers == [(sorted(content(small)), (root / "sample.json").stat().st_ino)] * 2
    assert content(root) == content(small)
    assert {path.name for path in tmp_path.iterdir()} <= {"sample", ".sample.lock"}


def test_frequencies_fall_like_zipf():
    labels = draw_labels(np.random.default_rng(0), 20_000, sample_classes(40))
    shares = labels.mean(axis=0)
    assert labels.any(axis=1).all()
    assert (np.diff(shares.reshape(8, 5).sum(axis=1)) < 0).all()
    slope, _ = np.polyfit(np.log(np.arange(40) + 3), np.log(shares), 1)  # Zipf-Mandelbrot, shifted by 3
    assert slope == pytest.approx(-1, abs=0.05)
    assert not (labels[:, 0] & labels[:, 1]).any()  # A is never both before and after B


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Per partition: labels bool [N, C], means [N, D] of rgb and audio, and the `slope` [N, D] of rgb."""
    root = write_sample(tmp_path_factory.mktemp("probed") / "sample", **PROBED)
    partitions = {}
    for partition in ("train", "validate"):
        decoded = [decode(record) for record in records(root, partition)]
        labels = np.zeros((len(decoded), PROBED["num_classes"]), dtype=bool)
        for row, (_, indices, _) in zip(labels, decoded, strict=True):
            row[indices] = True
        values = {"labels": labels}
        for name in ("rgb", "audio"):
            values[name] = np.array([frames[name].mean(axis=0) for _, _, frames in decoded])
        rgb = [frames["rgb"].astype(float) for _, _, frames in decoded]
        values["slope"] = np.array([(np.linspace(-1, 1, len(x)) @ x) / len(x) for x in rgb])
        partitions[partition] = values
    return partitions


def probe(probed, feature: str, target, among) -> float:
    """Area under the ROC curve of a ridge regression; `target` and `among` choose videos by their labels."""
    train, validate = probed["train"], probed["validate"]
    x, truth = (train[name][among(train["labels"])] for name in (feature, "labels"))
    y = target(truth).astype(float)
    centre = x.mean(axis=0)
    dual = np.linalg.solve((x - centre) @ (x - centre).T + 100 * np.eye(len(x)), y - y.mean())
    x_new, truth = (validate[name][among(validate["labels"])] for name in (feature, "labels"))
    scores, y = (x_new - centre) @ ((x - centre).T @ dual), target(truth)
    return float((scores[y][:, None] > scores[~y]).mean())


CLASSES = sample_classes(PROBED["num_classes"])
THEMES = [entry for entry in CLASSES if entry.other is None]
PAIRS = [(entry.index, entry.other) for entry in CLASSES if entry.family == "forward"]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_themes_are_seen_in_the_mean_of_their_own_feature_only(probed, theme):
    children = [entry.index for entry in THEMES if entry.parent == theme.index]

    def among(labels):  # videos in which neither its parent nor a child gives the theme away
        parent_shown = labels[:, theme.parent] if theme.parent is not None else labels.any(axis=1)
        return parent_shown & ~labels[:, children].any(axis=1)

    def target(labels):
        return labels[:, theme.index]

    unseen = "audio" if theme.family == "rgb" else "rgb"
    assert probe(probed, theme.family, target, among) > 0.97
    assert 0.3 < probe(probed, unseen, target, among) < 0.7


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
def test_order_is_seen_in_time_but_in_no_mean(probed, forward, backward):
    def either(labels):
        return labels[:, forward] | labels[:, backward]

    def forwards(labels):
        return labels[:, forward]

    def every(labels):
        return labels.any(axis=1)

    assert probe(probed, "slope", forwards, either) > 0.9
    for feature in ("rgb", "audio"):
        assert 0.35 < probe(probed, feature, forwards, either) < 0.65
    assert probe(probed, "rgb", either, every) > 0.97  # The events are there: the mean hides their order.


def test_children_come_with_their_parent(probed):
    labels = probed["train"]["labels"]
    children = [entry for entry in THEMES if entry.parent is not None]
    assert {child.family for child in children} == {"rgb", "audio"}
    for child in children:
        assert labels[:, child.index].any()
        assert labels[labels[:, child.index], child.parent].all()
        assert labels[:, child.parent].mean() < 0.6  # so it is no matter of course
