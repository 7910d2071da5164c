"""The README and docs/: commands compose and run as typed; files, counts and messages are those of the code."""

import ast
import csv
import importlib.util
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from omegaconf import OmegaConf
from tfrecord.example_pb2 import SequenceExample
from tfrecord.reader import tfrecord_iterator

from tests.datamodules.records import example, frame_video, pooled_video, sequence_example, write_shard
from tests.download.server import FAST, Mirror, serving
from tests.training import TINY_SAMPLE, run_command
from yt8m.build import build
from yt8m.config import CONFIG_DIR
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.sample import FEATURES, write_sample
from yt8m.datamodules.sample_segment import write_sample_segment
from yt8m.download.mirror import BASE_62, Share, stored_name
from yt8m.labels import SEGMENT_LABEL_IDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = ROOT / "docs" / "guide.md"
PLUGINS = {  # override: package, which only an extra brings
    "hparams_search=optuna": "hydra_plugins.hydra_optuna_sweeper",
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/launcher=submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}
SHARE = Share(1, 100)
CLASSES = 40

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Command(NamedTuple):
    """`python -m yt8m.NAME ARGUMENTS` of a page's shell blocks; without `$VARIABLES` and `…`."""

    page: str
    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.name} {' '.join(self.arguments)}"

    def is_installed(self) -> bool:
        needed = [PLUGINS[argument] for argument in self.arguments if argument in PLUGINS]
        return all(importlib.util.find_spec(package) for package in needed)


def shell_lines(page: Path) -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()


def commands(page: Path) -> Iterator[Command]:
    for line in shell_lines(page):
        words = [word for word in shlex.split(line, comments=True) if word[0] not in "$…"]
        for at, word in enumerate(words):
            if word.startswith("yt8m.") and words[at - 1] == "-m":
                yield Command(page.name, word.removeprefix("yt8m."), tuple(words[at + 1 :]))


ALL = [command for page in PAGES for command in commands(page) if command.name != "agent"]


def as_overrides(command: Command) -> list[str]:
    """The arguments as the command hands them to Hydra."""
    from yt8m.download.__main__ import as_typed
    from yt8m.report.__main__ import as_overrides

    arguments = [argument for argument in command.arguments if argument != "-m"]
    if command.name == "download":
        return [*map(as_typed, arguments)]
    return as_overrides(arguments) if command.name == "report" else arguments


def jobs(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep; of an interval its start."""
    choices = []
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.input_line.partition("=")[0]
        if not override.is_sweep_override():
            choices.append([override.input_line])
        elif isinstance(override.value(), IntervalSweep):
            choices.append([f"{key}={override.value().start}"])
        else:
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    yield from map(list, itertools.product(*choices))


@pytest.mark.parametrize("command", ALL, ids=str)
def test_commands_compose(command):
    if not command.is_installed():
        pytest.skip("needs an extra's package")
    overrides = as_overrides(command)
    found = list(jobs(overrides))
    assert len(found) == 1 or "-m" in command.arguments
    for job in found:
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            config = compose(command.name, overrides=job, return_hydra_config=True)
        if command.name == "train":
            network = OmegaConf.to_container(config.model)
            with torch.device("meta"):
                build(network, "model", feature_sizes={"rgb": 1024, "audio": 128}, num_classes=9)


def test_every_page_has_commands_to_check():
    assert {command.page for command in ALL} >= {"README.md", "guide.md", "models.md", "clusters.md"}
    guided = {command.name for command in commands(GUIDE)}
    assert guided == {
        "download",
        "verify",
        "explore",
        "train",
        "agent",
        "report",
        "eval",
        "predict",
        "export",
        "demo",
    }


@every_page
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines(page):
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.M), line


@every_page
def test_files_and_sections_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target
    for name in re.findall(r"\b(?:conf|docs|tests|yt8m|benchmarks)/[\w/.-]+\.(?:py|yaml|md)\b", text):
        assert re.search(r"\bmy_net|\bmine", name) or (ROOT / name).is_file(), name


def table_rows(page: str) -> Iterator[list[str]]:
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_messages_are_those_of_the_code():
    """With `…` for what is filled in, as the f-strings have it."""

    def literals(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    sources = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "yt8m").rglob("*.py")]
    known = [text for tree in sources for text in literals(tree)]
    messages = [row[0].strip("`") for row in table_rows("troubleshooting.md")]
    assert len(messages) > 40
    assert [message for message in messages if not any(message in text for text in known)] == []


# What follows runs the commands of the guide and the README, on small data and with narrow networks.


def unlabelled(shard: Path) -> bytes:
    """The shard as the published test partition has it."""
    records = [SequenceExample.FromString(bytes(payload)) for payload in tfrecord_iterator(str(shard))]
    for record in records:
        del record.context.feature["labels"]
    payloads = [record.SerializeToString() for record in records]
    return write_shard(shard.with_suffix(".unlabelled"), payloads).read_bytes()


def names_of(split: str) -> tuple[list[str], str]:
    """Two names of a partition that are in `SHARE`, and one that is not."""
    names = [f"{split}{a}{b}.tfrecord" for a, b in itertools.product(BASE_62, BASE_62)]
    return [name for name in names if name in SHARE][:2], next(n for n in names if n not in SHARE)


def serve_frames(mirror: Mirror, sample: Path) -> None:
    """The sample as version 2 of the dataset; what lies outside of `SHARE` is no shard at all."""
    for split in ("train", "validate", "test"):
        shards = sorted((sample / split).glob("*.tfrecord"))
        bodies = [unlabelled(path) if split == "test" else path.read_bytes() for path in shards]
        inside, outside = names_of(split)
        files = {**dict(zip(inside, bodies, strict=True)), outside: b"not in the share"}
        mirror.add_partition(f"2/frame/{split}", files)
    mirror.files["/vocabulary.csv"] = (sample / "vocabulary.csv").read_bytes()


def serve_segments(mirror: Mirror, folder: Path) -> list[str]:
    """Made-up rated segments as version 3 of the dataset; the ids of all segments of its test partition."""
    size = {"train_videos": 20, "validate_videos": 10, "test_videos": 10, "min_frames": 20, "max_frames": 24}
    root = write_sample_segment(folder, num_classes=CLASSES, **size)
    # Of the validate partition's shards, whose names say which are trained on.
    names = {"train": "validateaa", "validate": "validateW0"}
    assert [stored_name(f"{name}.tfrecord") for name in names.values()] == [
        "validate0000.tfrecord",
        "validate3028.tfrecord",
    ]
    bodies = {
        split: b"".join(path.read_bytes() for path in sorted((root / split).iterdir()))
        for split in ("train", "validate", "test")
    }
    validate = {f"{name}.tfrecord": bodies[split] for split, name in names.items()}
    mirror.add_partition("3/frame/validate", validate)
    mirror.add_partition("3/frame/test", {"testaa.tfrecord": bodies["test"]})
    mirror.files["/segment_label_ids.csv"] = (root / SEGMENT_LABEL_IDS).read_bytes()
    dataset = ShardDataset(
        sorted((root / "test").iterdir()), FEATURES, CLASSES, level="segment", segments="all"
    )
    return dataset.__getitems__(range(len(dataset))).ids


def write_others(root: Path, mirror: Mirror) -> None:
    """Video-level YouTube-8M and AudioSet, where the README's commands look for them."""
    rng = np.random.default_rng(0)
    sizes = {"mean_rgb": 1024, "mean_audio": 128}
    for split in ("train", "validate"):
        path = root / "2" / "video" / split / f"{split}0000.tfrecord"
        path.parent.mkdir(parents=True)
        write_shard(path, [example(pooled_video(rng, sizes)) for _ in range(40)])
        mirror.add_partition(f"2/video/{split}", {f"{split}aa.tfrecord": path.read_bytes()})
    for split in ("bal_train", "eval"):
        (root / split).mkdir()
        clips = [frame_video(rng, 10, {"audio_embedding": 128}) for _ in range(40)]
        records = [
            sequence_example({"video_id": context["id"], "labels": context["labels"]}, frames)
            for context, frames in clips
        ]
        write_shard(root / split / "00.tfrecord", records)


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Mirror]:
    """An empty folder to work in, and a mirror on loopback."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))
    sample = write_sample(tmp_path / "sample", num_classes=CLASSES, **TINY_SAMPLE | {"shards": 2})
    with serving() as server:
        serve_frames(server, sample)
        yield server


def can_run(command: Command) -> bool:
    """Whether the command ends by itself and reads no videos or submissions of the reader's own."""
    own = any(one.startswith(("video=", "videos=", "submission=FILE")) for one in command.arguments)
    return command.name not in ("agent", "demo") and not own and command.is_installed()


def run(command: Command, mirror: Mirror) -> None:
    """The command as it is typed, and what makes it quick."""
    data = [f"dataset.num_classes={CLASSES}", "dataset.num_workers=0"]
    if not any(argument.startswith(("dataset=", "experiment=")) for argument in command.arguments):
        data += [f"+dataset.sample.{key}={value}" for key, value in TINY_SAMPLE.items()]
    once_more = "ckpt_path=last" in command.arguments
    added = {
        "download": [
            *(f"plan_base={mirror.url}", f"file_base={mirror.url}", *FAST),
            *(f"{name}_url={mirror.url}/{name}.csv" for name in ("vocabulary", "segment_label_ids")),
        ],
        "verify": [data[0], "jobs=1"],
        "explore": data,
        "train": [
            *(*data, "dataset.batch_size=16", "trainer=cpu", "model.width=0.01"),
            f"trainer.max_epochs={1 + once_more}",
        ],
        "eval": ["trainer=cpu"],
        "predict": ["trainer=cpu"],
        "export": ["dataset.num_workers=0"],
        "report": [],
        "score": ["json=scores.json"],
    }[command.name]
    if "hparams_search=optuna" in command.arguments:
        added.append("hydra.sweeper.n_trials=2")
    run_command(command.name, *command.arguments, *added)


@pytest.mark.slow
def test_the_guide_leads_from_nothing_to_a_submission(mirror):
    for command in commands(GUIDE):
        if can_run(command):
            run(command, mirror)

    fetched = sorted(path.name for path in Path("data/yt8m/2/frame").rglob("*.tfrecord"))
    assert fetched == sorted(
        stored_name(n) for split in ("train", "validate", "test") for n in names_of(split)[0]
    )
    full = json.loads(Path("outputs/full/metrics.json").read_text())
    assert (full["model"], full["epochs"]) == ("nn_stream_lstm", 2)
    assert len(list(Path("multirun/grid").glob("*/metrics.json"))) == 4
    (evaluated,) = Path("outputs/eval").glob("*/metrics.json")
    logs = [
        csv.DictReader(path.read_text().splitlines())
        for path in Path("outputs/full/csv").glob("version_*/metrics.csv")
    ]
    gaps = [float(row["val/gap"]) for log in logs for row in log if row["val/gap"]]
    assert len(gaps) == 2
    assert json.loads(evaluated.read_text())["val/gap"] == pytest.approx(max(gaps), abs=1e-6)
    assert Path("outputs/explore/yt8m_frame-train/index.html").is_file()
    assert "outputs/full" in Path("report/leaderboard.md").read_text()
    with open("submission.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["VideoId", "LabelConfidencePairs"]
    assert len({name for name, _ in rows}) == len(rows) == TINY_SAMPLE["test_videos"]
    assert {len(pairs.split()) for _, pairs in rows} == {40}
    assert len(Path("ensemble.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.slow
def test_the_readmes_commands_run(mirror):
    """`PATH` is a folder with data, `RUN` one with a run; where a run goes on, its overrides stand for `…`."""
    write_others(Path("PATH"), mirror)
    began = ("model=nn", "dataset=yt8m_video", "dataset.root=PATH")
    run(Command("README.md", "train", (*began, "hydra.run.dir=RUN")), mirror)
    for command in commands(ROOT / "README.md"):
        if "ckpt_path=last" in command.arguments:
            command = command._replace(arguments=(*began, *command.arguments))
        if can_run(command):
            run(command, mirror)
    assert json.loads(Path("RUN/metrics.json").read_text())["epochs"] == 2
    assert list(Path("outputs/eval").glob("*/classes.csv"))


def parts_of_segments(folder: Path) -> Iterator[Path]:
    """The page about segments in two: on YouTube-8M, and on made-up data."""
    page = (ROOT / "docs" / "segments.md").read_text(encoding="utf-8")
    for number, text in enumerate(page.split("## On made-up data")):
        path = folder / f"part{number}.md"
        path.write_text(text, encoding="utf-8")
        yield path


@pytest.mark.slow
def test_segments_lead_from_nothing_to_a_submission(mirror, tmp_path):
    segments = serve_segments(mirror, tmp_path / "segments")
    classes = mirror.files["/segment_label_ids.csv"].decode().split()[1:]
    part, _ = parts_of_segments(tmp_path)
    for command in commands(part):
        run(command, mirror)

    tuned = json.loads(Path("outputs/segments/metrics.json").read_text())
    assert tuned["unrated_videos"]["train"] >= 10  # of 20 videos, every second one
    assert 0 < tuned["val/map"] <= 1
    (evaluated,) = Path("outputs/eval").glob("*/metrics.json")
    assert 0 < json.loads(evaluated.read_text())["val/map"] <= 1
    (score,) = json.loads(Path("scores.json").read_text())
    assert (score["lines"], score["missing"]) == (len(classes), [])
    assert 0 < score["map_100000"] <= 1
    with open("submission.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Class", "Segments"]
    assert [label for label, _ in rows] == classes
    assert all(sorted(listed.split()) == sorted(segments) for _, listed in rows)


@pytest.mark.slow
def test_the_made_up_segments_are_found_by_fine_tuning_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))
    _, part = parts_of_segments(tmp_path)
    for command in commands(part):
        added = ["json=scores.json"] if command.name == "score" else ["trainer=cpu", "dataset.num_workers=0"]
        run_command(command.name, *command.arguments, *added)
    scores = {one["submission"]: one["map_100000"] for one in json.loads(Path("scores.json").read_text())}
    assert scores["video.csv"] < 0.5 < 0.75 < scores["product.csv"]
    assert scores["frame.csv"] + 0.3 < scores["segment.csv"]
    # What training computed of the same network, from scores rather than from their order in a file.
    tuned = json.loads(Path("outputs/made_up_segments/metrics.json").read_text())
    assert scores["segment.csv"] == pytest.approx(tuned["test/map"], abs=1e-5)
