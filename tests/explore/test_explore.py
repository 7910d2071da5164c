import json
import re
import struct
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from tfrecord.example_pb2 import SequenceExample

from tests.browser import console_of, needs_browser, open_page, probe
from tests.datamodules.records import sequence_example, write_shard
from tests.training import run_command
from yt8m.datamodules.sample import write_sample
from yt8m.datamodules.sample_segment import write_sample_segment
from yt8m.explore.sections import group
from yt8m.explore.statistics import EDGES, ClassScores, Overview, Sample, principal_components
from yt8m.explore.vectors import Vectors
from yt8m.labels import ClassInfo

VIDEOS = 90
SAMPLE = {
    "train_videos": VIDEOS,
    "validate_videos": 8,
    "test_videos": 8,
    "shards": 3,
    "min_frames": 10,
    "max_frames": 20,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("explore") / "data", **SAMPLE)


def explore(root: Path, output: Path, *overrides: str, dataset: str = "sample") -> dict:
    """The command's statistics."""
    fixed = ("dataset.num_workers=0", f"output={output}")
    if dataset == "sample":
        fixed += tuple(f"+dataset.sample.{key}={value}" for key, value in SAMPLE.items())
    run_command("explore", f"dataset={dataset}", f"dataset.root={root}", *fixed, *overrides)
    return json.loads((output / "statistics.json").read_text())


def videos_of(folder: Path) -> list[tuple[str, list[int], np.ndarray]]:
    """(id, labels, frames uint8 [T, 1152]) of every video, parsed by protobuf alone."""
    found = []
    for path in sorted(folder.iterdir()):
        data, offset = path.read_bytes(), 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            record = SequenceExample.FromString(data[offset + 12 : offset + 12 + length])
            offset += 16 + length
            lists = [record.feature_lists.feature_list[name].feature for name in ("rgb", "audio")]
            frames = [[np.frombuffer(f.bytes_list.value[0], np.uint8) for f in rows] for rows in lists]
            context = record.context.feature
            labels = list(context["labels"].int64_list.value)
            found.append((context["id"].bytes_list.value[0].decode(), labels, np.concatenate(frames, axis=1)))
    return found


@pytest.fixture(scope="module")
def videos(root: Path) -> list[tuple[str, list[int], np.ndarray]]:
    return videos_of(root / "train")


@pytest.fixture(scope="module")
def explored(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("page") / "out"
    return output, explore(root, output)


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is slow."""
    monkeypatch.setattr("yt8m.explore.explore.draw_all", lambda sections, _: sections)


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_counts_are_those_of_a_naive_count(explored: tuple[Path, dict], videos: list):
    _, found = explored
    counts = Counter(label for _, labels, _ in videos for label in labels)
    assert found["videos"] == found["labelled"] == VIDEOS
    assert found["videos_per_class"] == {str(label): counts[label] for label in sorted(counts)}
    assert found["labels_per_video"] == stringly(Counter(len(labels) for _, labels, _ in videos))
    assert found["frames_per_video"] == stringly(Counter(len(frames) for _, _, frames in videos))
    top = sorted(counts, key=lambda label: (-counts[label], label))[:16]
    assert found["top_classes"] == top
    together = [[sum(a in labels and b in labels for _, labels, _ in videos) for b in top] for a in top]
    assert found["together"] == together


def stringly(counts: Counter) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}


def test_moments_are_those_of_the_dequantized_means(explored: tuple[Path, dict], videos: list):
    means = np.stack([(frames * (4 / 255) + (4 / 512 - 2)).mean(axis=0) for _, _, frames in videos])
    np.testing.assert_allclose(explored[1]["feature_mean"], means.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(explored[1]["feature_deviation"], means.std(axis=0), atol=1e-5)


def test_the_page_holds_every_plot_in_both_schemes_and_fetches_nothing(explored: tuple[Path, dict]):
    output, _ = explored
    page = Page((output / "index.html").read_text())
    names = {path.name for path in output.glob("*.png")}
    assert names == {
        "class_means.png",
        "class_scores_audio.png",
        "class_scores_rgb.png",
        "cooccurrence.png",
        "frames_per_video.png",
        "label_frequencies.png",
        "labels_per_video.png",
        "long_tail.png",
        "over_time_audio.png",
        "over_time_rgb.png",
        "projection.png",
    }
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(names)
    dark = [attributes for tag, attributes in page.tags if tag == "source"]
    assert [source["media"] for source in dark] == ["(prefers-color-scheme: dark)"] * len(names)
    assert all(source["srcset"].startswith("data:image/png;base64,") for source in dark)
    assert not {source["srcset"] for source in dark} & {image["src"] for image in images}
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in images)
    links = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all(link.startswith("data:") for link in links)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe"}
    assert "90 labeled videos" in page.text
    assert not list(output.glob(".*.part"))


@pytest.mark.usefixtures("no_drawing")
def test_a_video_is_chosen_by_id(root: Path, tmp_path: Path, videos: list, capsys: pytest.CaptureFixture):
    name, _, frames = videos[57]
    explore(root, tmp_path / "one", f"video='{name}'")
    page = (tmp_path / "one" / "index.html").read_text()
    assert f"Video {name}, {len(frames)} frames" in page
    with pytest.raises(SystemExit) as end:
        explore(root, tmp_path / "none", "video=absent")
    assert end.value.code == 2
    assert "video: expected the id of one of the 90 videos read, found 'absent'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("no_drawing")
def test_the_number_of_readers_changes_nothing(root: Path, tmp_path: Path, videos: list):
    name, _, frames = videos[57]
    found = []
    for readers in (0, 3):
        output = tmp_path / str(readers)
        split = (f"dataset.num_workers={readers}", "dataset.batch_size=16", f"video='{name}'")
        found.append(explore(root, output, *split))
        assert f"Video {name}, {len(frames)} frames" in (output / "index.html").read_text()
    assert found[0] == found[1]


@pytest.mark.usefixtures("no_drawing")
def test_a_limit_is_kept_and_shown(root: Path, tmp_path: Path):
    found = explore(root, tmp_path, "limit_videos=40")
    assert found["videos"] == 40
    assert (
        "Made from 40 of 90 records, from shards drawn with seed 0" in (tmp_path / "index.html").read_text()
    )


@pytest.mark.usefixtures("no_drawing")
def test_damage_is_an_error_or_counted(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    data = tmp_path / "data" / "train"
    data.mkdir(parents=True)
    for path in (root / "train").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    broken = bytearray((data / "train0001.tfrecord").read_bytes())
    broken[500] ^= 1
    (data / "train0001.tfrecord").write_bytes(broken)
    options = ("dataset.train=train/*", "dataset.num_classes=40", "dataset.max_frames=20")
    with pytest.raises(SystemExit) as end:
        explore(data.parent, tmp_path / "out", *options, dataset="yt8m_frame")
    assert end.value.code == 1
    assert f"error: {data / 'train0001.tfrecord'} @ byte 0: " in capsys.readouterr().err
    found = explore(data.parent, tmp_path / "out", *options, "dataset.on_corrupt=skip", dataset="yt8m_frame")
    assert found["videos"] == VIDEOS - 1
    assert found["records_left_out"] == 1


@pytest.mark.usefixtures("no_drawing")
def test_nothing_is_overwritten_without_the_flag(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(SystemExit) as end:
        explore(root, tmp_path)
    assert end.value.code == 2
    assert "already exists; set overwrite=true or choose another folder" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "mine"
    explore(root, tmp_path, "overwrite=true", "limit_videos=20")
    assert (tmp_path / "index.html").read_text() != "mine"


def test_a_bad_argument_is_answered_in_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    cases = {
        "partition=all": "partition: expected train, validate or test, found 'all'",
        "limit_videos=0": "limit_videos: expected a whole number from 1 to",
        "top_classes=1": "top_classes: expected a whole number from 2 to 40, found 1",
        "output=[a]": "output: expected a folder, found ['a']",
        "dataset.train=none/*": "dataset.train: expected shards at",
        f"dataset.root={tmp_path / 'absent'}": "dataset.root: expected the dataset's folder, found nothing at ",
        "nothing=1": "nothing: no such setting",
    }
    fixed = (
        "dataset=yt8m_frame",
        f"dataset.root={root}",
        "dataset.train=train/*",
        "dataset.num_classes=40",  # as many as have names, or a warning would come first
        f"output={tmp_path / 'out'}",
    )
    for override, expected in cases.items():
        with pytest.raises(SystemExit) as end:
            run_command("explore", *fixed, override)
        assert end.value.code == 2, override
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {expected}"), line
        assert not (tmp_path / "out").exists(), override


@pytest.mark.slow
@needs_browser
def test_the_page_fits_wide_and_narrow_screens_in_both_schemes(explored: tuple[Path, dict], tmp_path: Path):
    page = explored[0] / "index.html"
    script = """
    const images = [...document.images];
    while (!images.every((image) => image.complete)) await new Promise((done) => setTimeout(done, 50));
    seen.dark = images.map((image) => image.currentSrc === image.parentNode.querySelector("source").srcset);
    """
    for width, dark in ((360, True), (1280, False), (1280, True)):
        seen = probe(page, tmp_path, script, width=width, dark=dark)
        case = f"{width} pixels, dark: {dark}"
        assert (seen["width"], seen["overflow"], seen["outside"]) == (width, 0, []), case
        assert seen["dark"] == [dark] * 11, case
        assert seen["background"] == ("rgb(20, 23, 26)" if dark else "rgb(251, 251, 250)"), case
    shown = open_page(page, tmp_path / "profile")
    assert console_of(shown) == []


def test_real_video_level_data(shared_data: Path, tmp_path: Path):
    root = shared_data / "yt8m"
    found = explore(root, tmp_path, "partition=validate", "limit_videos=500", dataset="yt8m_video")
    assert found["videos"] == 500
    assert found["frames_per_video"] is None
    text = (tmp_path / "index.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Label frequencies",
        "Labels per video",
        "Labels that occur together",
        "Feature distributions per class",
        "Mean features per class",
        "The videos in two dimensions",
    ]
    assert text.count("<img") == len(list(tmp_path.glob("*.png"))) == 8
    assert "Colors are the vertical that most" in text


def test_real_videos_without_labels(shared_data: Path, tmp_path: Path):
    options = (
        "dataset.id_key=video_id",
        "dataset.num_classes=4716",
        "partition=test",
        "dataset.vocabulary=null",
    )
    root = shared_data / "yt8m-2017"
    found = explore(root, tmp_path, *options, "dataset.test='test*.tfrecord'", dataset="yt8m_video")
    assert found["labelled"] == 0
    assert found["together"] is None
    assert "None of the" in (tmp_path / "index.html").read_text()
    assert [path.name for path in tmp_path.glob("*.png")] == ["projection.png"]


def test_every_video_is_equally_likely_in_the_sample():
    counts = np.zeros(50, int)
    for seed in range(2000):
        sample = Sample(10, 1, seed)
        for begin in (0, 7, 30):
            rows = np.arange(begin, {0: 7, 7: 30, 30: 50}[begin], dtype=np.float32)[:, None]
            sample.add(rows, [[int(row)] for row in rows[:, 0]])
        kept = sample.vectors[:, 0].astype(int)
        assert kept.tolist() == [classes[0] for classes in sample.classes]
        counts[kept] += 1
    assert counts.sum() == 20_000
    # Binomial with mean 400 and standard deviation 18.
    assert np.abs(counts - 400).max() < 90


def test_scores_come_from_videos_that_the_directions_have_not_seen():
    rng = np.random.default_rng(0)
    pairs, vectors = labelled_noise(rng, videos=400, size=300)
    signal = vectors + 1.0 * (np.isin(np.arange(400), pairs[:, 0])[:, None]).astype(np.float32)
    for features, low, high in ((vectors, 0.35, 0.65), (signal, 0.99, 1.0)):
        overview, scores = both_passes(features, pairs)
        assert scores.histograms.sum() == 200  # every second video
        assert low <= scores.separation()[0, 0] <= high
        assert overview.videos == 400


def test_separation_is_the_chance_of_a_higher_score():
    rng = np.random.default_rng(1)
    pairs, vectors = labelled_noise(rng, videos=200, size=3)
    _, scores = both_passes(vectors, pairs)
    absent, present = scores.histograms[0, 0]
    wins = [
        (a < b) + 0.5 * (a == b)
        for a in np.repeat(np.arange(len(EDGES) - 1), absent)
        for b in np.repeat(np.arange(len(EDGES) - 1), present)
    ]
    assert scores.separation()[0, 0] == pytest.approx(np.mean(wins))


def labelled_noise(rng: np.random.Generator, videos: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.flatnonzero(rng.random(videos) < 0.3)
    return np.stack([rows, np.zeros_like(rows)], axis=1), rng.standard_normal((videos, size), np.float32)


def both_passes(vectors: np.ndarray, pairs: np.ndarray) -> tuple[Overview, ClassScores]:
    """Over video-level batches of 33, an odd number, so that every second video is not every second row."""
    batches = []
    for begin in range(0, len(vectors), 33):
        part = vectors[begin : begin + 33]
        here = pairs[(pairs[:, 0] >= begin) & (pairs[:, 0] < begin + 33)] - [begin, 0]
        ids = [str(begin + row) for row in range(len(part))]
        ones = torch.ones(len(part), dtype=torch.int64)
        batches.append(Vectors(ids, torch.from_numpy(part), ones, torch.from_numpy(here)))
    overview = Overview(1, vectors.shape[1], "video", 1)
    for batch in batches:
        overview.add(batch)
    scores = ClassScores(overview, overview.top(1), {"all": vectors.shape[1]})
    for batch in batches:
        scores.add(batch)
    return overview, scores


def test_principal_components_of_a_known_shape():
    rng = np.random.default_rng(0)
    stretched = rng.standard_normal((500, 4)) * [0.1, 5, 0.1, 2]
    places, shares = principal_components(stretched)
    np.testing.assert_allclose(np.abs(np.corrcoef(places[:, 0], stretched[:, 1])[0, 1]), 1, atol=1e-3)
    np.testing.assert_allclose(np.abs(np.corrcoef(places[:, 1], stretched[:, 3])[0, 1]), 1, atol=1e-3)
    np.testing.assert_allclose(shares, [25 / 29, 4 / 29], atol=0.03)


def test_groups_are_verticals_by_majority_or_the_rarest_top_label():
    classes = [
        ClassInfo(0, "a", ("X",)),
        ClassInfo(1, "b", ("Y",)),
        ClassInfo(2, "c", ("Y", "Z")),
        ClassInfo(3, "d"),
    ]
    counts = np.array([9, 5, 2, 1])
    videos = [[0], [0, 1], [0, 1, 2], [3], []]
    groups, _ = group(videos, classes, counts, "videos")
    assert {name: rows.tolist() for name, rows in groups} == {"other": [3, 4], "X": [0, 1], "Y": [2]}
    plain = [ClassInfo(info.index, info.name) for info in classes]
    groups, _ = group(videos, plain, counts, "videos")
    assert {name: rows.tolist() for name, rows in groups} == {
        "other": [4],
        "a": [0],
        "b": [1],
        "c": [2],
        "d": [3],
    }


def test_segments_are_counted_as_such(tmp_path: Path, no_drawing, capsys):
    """Every second training video is unrated."""
    size = {"train_videos": 12, "validate_videos": 2, "test_videos": 2, "min_frames": 22, "max_frames": 30}
    root = write_sample_segment(tmp_path / "data", **size)
    options = {"dataset": "sample_segment"}
    sample = tuple(f"+dataset.sample.{key}={value}" for key, value in size.items())
    found = explore(root, tmp_path / "rated", *sample, **options)
    printed = capsys.readouterr()
    assert f"about {found['videos']} segments" in printed.out
    assert "12/12" in printed.err  # records, of which each has several segments
    assert found["unrated_videos"] >= 6
    assert set(found["frames_per_video"]) <= {"1", "2", "3", "4", "5"}
    text = Page((tmp_path / "rated" / "index.html").read_text()).text
    assert "one that was not rated counts as absent" in text
    assert "max_frames" not in text
    every = explore(root, tmp_path / "all", *sample, "dataset.segments=all", **options)
    assert every["videos"] == sum(-(-len(frames) // 5) for _, _, frames in videos_of(root / "train"))
    assert (every["labelled"], every["unrated_videos"]) == (0, 0)
    frames = {"rgb": np.zeros((6, 1024), np.uint8), "audio": np.zeros((6, 128), np.uint8)}
    write_shard(root / "unrated.tfrecord", [sequence_example({"id": "abcd", "labels": [1]}, frames)])
    with pytest.raises(SystemExit):
        explore(root, tmp_path / "none", *sample, "dataset.train=unrated.tfrecord", **options)
    assert "rated segments, found none in 1 videos; set dataset.segments=all" in capsys.readouterr().err
