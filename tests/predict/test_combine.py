"""Segments' scores together with their videos': the values, the refusals, and two ranks against one process."""

import json
from pathlib import Path

import pytest
import torch

from tests.training import DDP, TINY, in_processes, run_command, train

CPU = ("trainer=cpu", "dataset.batch_size=7", "dataset.num_workers=0")
SEGMENTS = "dataset.level=segment"


@pytest.fixture(scope="module")
def frames(tiny_run) -> Path:
    """A checkpoint of whole videos."""
    return tiny_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def other(tiny_sample, tmp_path_factory) -> Path:
    """Another one."""
    folder = tmp_path_factory.mktemp("other")
    train(folder, *TINY, *tiny_sample, "seed=1", "trainer.max_epochs=1")
    return folder / "checkpoints" / "best.ckpt"


@pytest.fixture
def changed(frames, tmp_path):
    """The checkpoint with other hyperparameters."""

    def write(**changes) -> Path:
        content = torch.load(frames, weights_only=True)
        content["hyper_parameters"] |= changes
        for key in changes.keys() & {"level"}:
            content["hyper_parameters"]["config"]["dataset"][key] = changes[key]
        torch.save(content, path := tmp_path / "changed.ckpt")
        return path

    return write


@pytest.fixture
def scores(tmp_path, frames):
    """Scores of all classes by id, as the command writes them."""

    def run(*overrides: str) -> dict[str, dict[int, float]]:
        run_command("predict", *arguments(frames, tmp_path, *overrides))
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        return {one["id"]: {label["class"]: label["score"] for label in one["labels"]} for one in lines}

    return run


def arguments(ckpt: Path, folder: Path, *overrides: str) -> tuple[str, ...]:
    output = ("format=jsonl", "top_k=1000", f"output={folder / 'out.jsonl'}", "overwrite=true")
    return (*CPU, f"ckpt_path={ckpt}", f"hydra.run.dir={folder / 'run'}", *output, *overrides)


def test_scores_are_those_of_segments_and_of_their_videos(scores, other):
    videos = scores(f"ckpt_path={other}")
    segments = scores(SEGMENTS)
    assert len(segments) > 2 * len(videos)
    with_other = (SEGMENTS, f"video_ckpt_path={other}")
    found = {how: scores(*with_other, f"combine={how}") for how in ("video", "product", "mean")}
    for name, own in segments.items():
        video = videos[name.rpartition(":")[0]]
        for label, score in own.items():
            both = score, video[label]
            assert found["video"][name][label] == pytest.approx(video[label], rel=1e-4)
            assert found["product"][name][label] == pytest.approx(both[0] * both[1], rel=1e-4)
            assert found["mean"][name][label] == pytest.approx(sum(both) / 2, rel=1e-4)
    itself = scores(SEGMENTS, "combine=video")
    of_frames = scores()
    name = next(iter(itself))
    assert itself[name] == pytest.approx(of_frames[name.rpartition(":")[0]], rel=1e-4)


def test_what_cannot_be_combined_is_refused_in_a_line(frames, changed, tmp_path, capsys):
    of_segments = (f"ckpt_path={changed(level='segment')}",)
    absent = f"video_ckpt_path={tmp_path / 'none.ckpt'}"
    product = (SEGMENTS, "combine=product")
    for overrides, says in (
        (["combine=max"], "combine: expected segment, video, product or mean, found 'max'"),
        (["combine=product"], "combine: expected all segments of a video, found dataset.level=frame; set"),
        ([*product, "dataset.segments=rated"], "all segments of a video, found dataset.segments=rated; set"),
        (
            [SEGMENTS, absent],
            "video_ckpt_path: expected combine=product, mean or video beside it, found segment",
        ),
        ([*product, absent], "video_ckpt_path: expected a checkpoint, found nothing at"),
        ([*product, *of_segments], "expected a network trained on dataset.level=frame, found segment in"),
    ):
        refused(capsys, frames, tmp_path, *overrides, says=says)
    for changes, says in (
        ({"target": "vertical"}, "found target = vertical in"),
        ({"quantization": [-1.0, 1.0]}, "found quantization = [-1.0, 1.0] in"),
        ({"vocabulary": None}, "found other class names in"),
    ):
        refused(capsys, frames, tmp_path, *product, f"video_ckpt_path={changed(**changes)}", says=says)


def refused(capsys, ckpt: Path, folder: Path, *overrides: str, says: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command("predict", *arguments(ckpt, folder, *overrides))
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert says in error
    assert not list(folder.glob("out*"))


@pytest.mark.slow
def test_two_ranks_submit_what_one_process_scores(frames, other, scores, tmp_path):
    """20 videos in batches of 2 x 7, which two ranks cut unevenly."""
    common = (SEGMENTS, f"video_ckpt_path={other}", "combine=product")
    alone = scores(*common)
    (tmp_path / "ids.csv").write_text("Index\n7\n0\n21\n")
    two = tmp_path / "two.csv"
    form = ("format=csv", f"segment_label_ids={tmp_path / 'ids.csv'}", f"output={two}")
    words = arguments(frames, tmp_path, *common, *form)
    in_processes("predict", *words, *DDP)
    header, *lines = two.read_text().splitlines()
    assert (header, [line.partition(",")[0] for line in lines]) == ("Class,Segments", ["0", "7", "21"])
    for line in lines:
        label, _, listed = line.partition(",")
        assert sorted(listed.split()) == sorted(alone)
        ranked = [alone[segment][int(label)] for segment in listed.split()]
        assert ranked == pytest.approx(sorted(ranked, reverse=True), rel=1e-4)
