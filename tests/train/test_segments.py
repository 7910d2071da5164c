"""Fine-tuning on rated segments with frames around them: from training through evaluation to prediction."""

import json
from pathlib import Path

import pytest
import torch

from tests.training import run_command, train
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.parse.windows import every_start
from yt8m.datamodules.sample import FEATURES
from yt8m.datamodules.sample_segment import write_sample_segment

CLASSES = 8
SIZE = {"train_videos": 24, "validate_videos": 8, "test_videos": 6, "min_frames": 20, "max_frames": 24}
COMMON = (
    "model=lstm",
    "model.hidden_size=8",
    "dataset=sample_segment",
    f"dataset.num_classes={CLASSES}",
    "dataset.batch_size=6",
    "dataset.num_workers=0",
    *(f"+dataset.sample.{key}={value}" for key, value in SIZE.items()),
    "trainer=cpu",
    "trainer.max_epochs=1",
    "logger=none",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_sample_segment(tmp_path_factory.mktemp("data") / "root", num_classes=CLASSES, **SIZE)


@pytest.fixture(scope="module")
def frames(root, tmp_path_factory) -> Path:
    """A checkpoint of whole videos."""
    folder = tmp_path_factory.mktemp("frames")
    train(folder, *COMMON, f"dataset.root={root}", "dataset.level=frame", "test=false")
    return folder / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("context", ["video", 3])
def test_with_frames_around_them(root, frames, tmp_path, context):
    options = (f"dataset.context={context}", f"init_from={frames}", "optimized_metric=val/map")
    run = train(tmp_path / "run", *COMMON, f"dataset.root={root}", *options, "optimizer.lr=1e-2")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert run["unrated_videos"]["train"] >= 12  # every second one
    mark = torch.load(checkpoint, weights_only=True)["state_dict"]["segment_mark"]
    assert mark.shape == (sum(FEATURES.values()),)
    assert mark.abs().max() > 0  # it began with zeros

    used = (f"ckpt_path={checkpoint}", "trainer=cpu", "dataset.num_workers=0")
    run_command("eval", *used, f"hydra.run.dir={tmp_path / 'eval'}")
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    for name in ("map", "map_top20", "gap", "loss"):
        assert evaluated[f"val/{name}"] == pytest.approx(run[f"val/{name}"], rel=1e-5), name

    output = tmp_path / "out.jsonl"
    run_command("predict", *used, "format=jsonl", f"output={output}", f"hydra.run.dir={tmp_path / 'predict'}")
    found = [json.loads(line) for line in output.read_text().splitlines()]
    videos = ShardDataset(sorted((root / "test").iterdir()), FEATURES, CLASSES).__getitems__(range(6))
    lengths = zip(videos.ids, videos.num_frames.tolist(), strict=True)
    assert [one["id"] for one in found] == [f"{name}:{s}" for name, n in lengths for s in every_start(n)]
    scores = {one["id"]: {label["class"]: label["score"] for label in one["labels"]} for one in found}
    first, second = (scores[f"{videos.ids[0]}:{start}"] for start in (0, 5))
    assert first != second  # with the same frames of context=video, too
