import gzip
import json
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from google_crc32c import value as crc32c
from tfrecord.example_pb2 import SequenceExample

from tests.datamodules.records import frame_video, sequence_example
from tests.training import run_command
from yt8m.datamodules.sample import write_sample
from yt8m.verify.check import repeated


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sample(
        tmp_path / "data",
        train_videos=30,
        validate_videos=12,
        test_videos=3,
        min_frames=10,
        max_frames=14,
        shards=3,
    )


@pytest.fixture(autouse=True)
def own_index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))


def verify(root: Path, *overrides: str, dataset: str = "sample") -> int:
    """The command's exit code."""
    try:
        run_command("verify", f"dataset={dataset}", f"dataset.root={root}", "jobs=2", *overrides)
    except SystemExit as end:
        return end.code
    return 0


def verified(root: Path, file: Path, *overrides: str, **dataset: str) -> tuple[int, dict]:
    """The command's exit code and JSON."""
    code = verify(root, f"json={file}", "overwrite=true", *overrides, **dataset)
    return code, json.loads(file.read_text())


def records(data: bytes) -> list[tuple[int, bytes]]:
    """(offset, record with its framing) of a sound shard, one length after another."""
    found, offset = [], 0
    while offset < len(data):
        end = offset + 16 + struct.unpack_from("<Q", data, offset)[0]
        found.append((offset, data[offset:end]))
        offset = end
    return found


def framed(payload: bytes) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def messages_of(record: bytes) -> SequenceExample:
    return SequenceExample.FromString(record[12:-4])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def test_results_are_those_of_a_naive_count(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    code, found = verified(root, tmp_path / "out.json")
    assert code == 0
    assert found["ok"]
    assert list(found["partitions"]) == ["train", "validate", "test"]
    for name, part in found["partitions"].items():
        shards = [path.read_bytes() for path in sorted((root / name).iterdir())]
        videos = [messages_of(record) for data in shards for _, record in records(data)]
        labels = [n for video in videos for n in video.context.feature["labels"].int64_list.value]
        lengths = Counter(len(video.feature_lists.feature_list["rgb"].feature) for video in videos)
        assert part["shards"] == 3
        assert part["bytes"] == sum(map(len, shards))
        assert part["rows"] == part["unique_ids"] == len(videos)
        assert part["labels"] == {
            "total": len(labels),
            "classes": len(set(labels)),
            "min": min(labels),
            "max": max(labels),
        }
        assert part["frames"] == {str(n): lengths[n] for n in sorted(lengths)}
        for feature in ("rgb", "audio"):
            values = [
                value
                for video in videos
                for frame in video.feature_lists.feature_list[feature].feature
                for value in frame.bytes_list.value[0]
            ]
            assert part["features"][feature] == {"min": min(values), "max": max(values)}
    assert capsys.readouterr().out.rstrip().endswith("all good")


def test_lengths_beyond_max_frames_are_counted_as_stored(root: Path, tmp_path: Path):
    _, found = verified(root, tmp_path / "out.json", "dataset.max_frames=5")
    assert set(found["partitions"]["train"]["frames"]) <= {str(n) for n in range(10, 15)}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_damage_is_named_and_the_good_records_are_copied(
    packed: bool, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    first, second, third = sorted((root / "train").iterdir())
    whole = {path: records(path.read_bytes()) for path in (first, second, third)}
    flip(first, whole[first][3][0] + 500)  # a payload
    flip(second, whole[second][0][0] + 2)  # a length, behind which the next record must be found
    flip(second, whole[second][5][0] + 300)
    last = whole[third][-1][0]
    third.write_bytes(third.read_bytes()[: last + 100])
    if packed:
        for path in whole:
            path.write_bytes(gzip.compress(path.read_bytes()))
    before = {path: path.read_bytes() for path in whole}

    code, found = verified(root, tmp_path / "out.json", "partition=train", f"repair={tmp_path / 'new'}")

    assert code == 1
    assert not found["ok"]
    assert {path: path.read_bytes() for path in whole} == before
    output = capsys.readouterr().out
    places = [(first, whole[first][3][0]), (second, 0), (second, whole[second][5][0]), (third, last)]
    for path, offset in places:
        assert f"damaged: {path} @ byte {offset}: " in output
    assert found["partitions"]["train"]["damaged_places"] == 4
    assert found["partitions"]["train"]["rows"] == 30 - 4
    lost = {first: {3}, second: {0, 5}, third: {len(whole[third]) - 1}}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(p.name for p in whole)
    for path, all_records in whole.items():
        repaired = (tmp_path / "new" / path.name).read_bytes()
        good = b"".join(record for n, (_, record) in enumerate(all_records) if n not in lost[path])
        assert (gzip.decompress(repaired) if packed else repaired) == good


def test_only_damaged_shards_are_copied_and_the_copies_are_sound(root: Path, tmp_path: Path):
    path = root / "train" / "train0001.tfrecord"
    flip(path, 600)
    assert verify(root, f"repair={tmp_path / 'new'}") == 1
    assert [found.name for found in (tmp_path / "new").iterdir()] == [path.name]
    assert verify(tmp_path / "new", "partition=train", "dataset.train='*.tfrecord'") == 0


def test_a_record_that_does_not_fit_is_damage(root: Path, tmp_path: Path):
    path = root / "train" / "train0000.tfrecord"
    kept = records(path.read_bytes())
    video = messages_of(kept[2][1])
    video.context.feature["labels"].int64_list.value.append(40)
    replaced = [*kept[:2], (0, framed(video.SerializeToString())), *kept[3:]]
    path.write_bytes(b"".join(record for _, record in replaced))
    code, found = verified(root, tmp_path / "out.json", f"repair={tmp_path / 'new'}")
    assert code == 1
    (damaged,) = found["partitions"]["train"]["damaged"]
    (message,) = damaged["messages"]
    assert message.startswith(f"{path} @ byte {kept[2][0]}: ")
    assert "found 40" in message
    assert damaged["records_kept"] == len(kept) - 1


def test_shards_without_a_record_are_damage_and_the_others_are_read(root: Path, tmp_path: Path):
    empty, other, nothing = sorted((root / "validate").iterdir())
    empty.write_bytes(b"")
    nothing.write_bytes(b"<html>not found</html>")
    code, found = verified(root, tmp_path / "out.json", "partition=validate", f"repair={tmp_path / 'new'}")
    assert code == 1
    part = found["partitions"]["validate"]
    assert part["rows"] == len(records(other.read_bytes()))
    assert [damaged["path"] for damaged in part["damaged"]] == [str(empty), str(nothing)]
    assert all(" @ byte 0: " in damaged["messages"][0] for damaged in part["damaged"])
    assert not list((tmp_path / "new").iterdir())


def test_many_faults_are_all_counted_and_the_first_are_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    options = ("partition=train", "dataset.features={rgb: 1023, audio: 128}")
    code, found = verified(root, tmp_path / "out.json", *options)
    assert code == 1
    assert found["partitions"]["train"]["damaged_places"] == 30
    assert found["partitions"]["train"]["rows"] == 0


def test_repeated_ids_are_reported_across_partitions(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    shard = root / "validate" / "validate0001.tfrecord"
    copy = root / "train" / "train0009.tfrecord"
    copy.write_bytes(shard.read_bytes())
    ids = [
        messages_of(r).context.feature["id"].bytes_list.value[0].decode()
        for _, r in records(copy.read_bytes())
    ]
    code, found = verified(root, tmp_path / "out.json")
    assert code == 0
    assert found["repeated_ids"] == len(ids)
    assert found["repeated_ids_named"] == {name: [str(copy), str(shard)] for name in ids}
    assert found["unique_ids"] == 45
    assert f"id {ids[0]} occurs 2 times: {copy}, {shard}" in capsys.readouterr().out


def test_repeated_counts_like_a_counter():
    import numpy as np

    values = np.random.default_rng(0).integers(0, 50, 100)
    counts = Counter(values.tolist())
    unique, again = repeated(values)
    assert unique == len(counts)
    assert again.tolist() == sorted(value for value, count in counts.items() if count > 1)


def test_unlabelled_videos(root: Path, tmp_path: Path):
    for path in (root / "test").iterdir():
        videos = [messages_of(record) for _, record in records(path.read_bytes())]
        for video in videos:
            del video.context.feature["labels"]
        path.write_bytes(b"".join(framed(video.SerializeToString()) for video in videos))
    code, found = verified(root, tmp_path / "out.json", "partition=test")
    assert code == 0
    assert found["partitions"]["test"]["labels"] is None
    assert found["partitions"]["test"]["rows"] == 3


def test_segments_count_ratings(tmp_path: Path, capsys):
    video = SequenceExample()
    context = video.context.feature
    context["id"].bytes_list.value.append(b"abcd")
    unrated = sequence_example(*frame_video(np.random.default_rng(0), 7, {"rgb": 1024, "audio": 128}))
    context["segment_start_times"].int64_list.value.extend([5, 20, 5])
    context["segment_labels"].int64_list.value.extend([7, 7, 30])
    context["segment_scores"].float_list.value.extend([1, 0, 1])
    for name, size in (("rgb", 1024), ("audio", 128)):
        for second in range(60):
            row = bytes([second]) * size
            video.feature_lists.feature_list[name].feature.add().bytes_list.value.append(row)
    (tmp_path / "one.tfrecord").write_bytes(framed(video.SerializeToString()) + framed(unrated))
    options = ("partition=validate", "dataset.validate=one.tfrecord")
    code, found = verified(tmp_path, tmp_path / "out.json", *options, dataset="yt8m_segment")
    assert code == 0
    part = found["partitions"]["validate"]
    assert part["rows"] == part["unique_ids"] == 2
    assert part["labels"] == {"total": 3, "classes": 2, "min": 7, "max": 30}
    assert part["frames"] == {"5": 2}
    assert part["features"]["rgb"] == {"min": 5, "max": 24}
    assert (part["true_ratings"], part["unrated_videos"]) == (2, 1)
    output = capsys.readouterr().out
    assert re.search(r"videos without a rated segment +1\n.*ratings +3\n.*ratings that are true +2\n", output)
    code, found = verified(
        tmp_path, tmp_path / "all.json", *options, "dataset.segments=all", dataset="yt8m_segment"
    )
    part = found["partitions"]["validate"]
    assert (code, part["rows"], part["labels"], part["frames"]) == (0, 14, None, {"2": 1, "5": 13})
    assert "rated" not in capsys.readouterr().out


def test_real_shards_of_2017(shared_data: Path, tmp_path: Path):
    options = ("dataset.id_key=video_id", "dataset.num_classes=4716", "dataset.train=null")
    globs = ("dataset.validate='validate*.tfrecord'", "dataset.test='test*.tfrecord'")
    root = shared_data / "yt8m-2017"
    code, found = verified(root, tmp_path / "out.json", *options, *globs, dataset="yt8m_video")
    assert code == 0
    assert list(found["partitions"]) == ["validate", "test"]
    assert found["partitions"]["test"]["labels"] is None
    assert found["partitions"]["validate"]["labels"]["max"] < 4716


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("partition=training", "partition: expected train, validate, test or all, found 'training'"),
        ("jobs=0", "jobs: expected a whole number from 1 to 256, or null, found 0"),
        ("jobs=true", "jobs: expected a whole number"),
        ("json=/absent-folder/out.json", "json: expected a file in an existing folder"),
        ("repair=[a]", "repair: expected a folder, or null, found ['a']"),
        ("overwrite=1", "overwrite: expected true or false"),
        (
            "dataset.root=/absent-folder",
            "dataset.root: expected the dataset's folder, found nothing at /absent-folder",
        ),
        ("dataset.train=none/*", "dataset.train: expected shards at"),
        ("dataset.features.rgb=0", "dataset.features: expected names and sizes of features"),
        ("dataset=nothing", "dataset=nothing: expected one of audioset"),
        ("partitoin=train", "partitoin: no such setting; did you mean partition?"),
    ],
)
def test_bad_arguments_end_in_one_line(
    override: str, expected: str, root: Path, capsys: pytest.CaptureFixture
):
    # The embedded sample would be written where nothing is.
    given = ("dataset=yt8m_frame", f"dataset.root={root}", "dataset.validate=null", "dataset.train=train/*")
    with pytest.raises(SystemExit) as end:
        run_command("verify", *given, override)
    assert end.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: {expected}")


def test_nothing_is_overwritten_unasked(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    flip(root / "train" / "train0000.tfrecord", 600)
    new = tmp_path / "new"
    new.mkdir()
    old = new / "train0002.tfrecord"  # of a sound shard: which ones are damaged is not known before
    old.write_text("mine")
    assert verify(root, f"repair={new}") == 2
    assert [path.name for path in new.iterdir()] == [old.name]
    assert "overwrite=true" in capsys.readouterr().err
    assert verify(root, f"repair={new}", "overwrite=true") == 1
    assert old.read_text() == "mine"
    report = tmp_path / "out.json"
    report.write_text("mine")
    assert verify(root, f"json={report}") == 2
    assert report.read_text() == "mine"


@pytest.mark.parametrize("folder", ["train", "train/new", "link"])
def test_repaired_shards_never_land_among_the_data(folder: str, root: Path, capsys: pytest.CaptureFixture):
    (root / "link").symlink_to(root / "validate")
    flip(root / "train" / "train0000.tfrecord", 600)
    before = sorted(root.rglob("*"))
    assert verify(root, f"repair={root / folder}", "overwrite=true") == 2
    assert sorted(root.rglob("*")) == before
    assert "repair: expected a folder outside the dataset's" in capsys.readouterr().err


def test_shards_of_one_name_are_not_repaired_into_one_file(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (root / "validate" / "validate0000.tfrecord").rename(root / "validate" / "train0000.tfrecord")
    assert verify(root, f"repair={tmp_path / 'new'}") == 2
    assert "repair one partition at a time" in capsys.readouterr().err
