"""The data module: where shards are found, what its loaders repeat, and what it counts."""

import contextlib
import logging
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.datamodules import records
from yt8m.datamodules.buffers import SLOTS
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.errors import ConfigError, DataError, WriteError

SIZES = {"rgb": 6, "audio": 3}


@pytest.fixture
def root(tmp_path, rng):
    """Two training shards in two folders and one validation shard, ten videos each."""
    for name in ("data/a/train0.tfrecord", "data/b/train1.tfrecord", "data/validate0.tfrecord"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        videos = (records.frame_video(rng, 5, SIZES, 8) for _ in range(10))
        records.write_shard(path, (records.sequence_example(*video) for video in videos))
    return tmp_path / "data"


def make(root, **arguments):
    defaults = {
        "features": SIZES,
        "num_classes": 8,
        "train": "*/train*.tfrecord",
        "validate": "validate*.tfrecord",
        "batch_size": 4,
        "num_workers": 0,
    }
    return YT8MDataModule(root=str(root), **defaults | arguments)


def test_globs_may_be_absolute_and_recursive(root, tmp_path):
    names = ["train0.tfrecord", "train1.tfrecord"]
    for pattern in ("*/train*.tfrecord", "**/train*.tfrecord", f"{root}/*/train*.tfrecord"):
        assert [path.name for path in make(root, train=pattern).shards("train")] == names, pattern
    # A root that is not there does not matter then.
    assert len(make(tmp_path / "none", train=f"{root}/*/train*.tfrecord").shards("train")) == 2


def test_folders_that_cannot_be_used_end_in_one_line(root, tmp_path, monkeypatch):
    long = "x" * 300
    cases = [
        (
            {"root": str(tmp_path / "none")},
            "dataset.root: expected the dataset's folder, found nothing at .*/none; set",
        ),
        ({"root": str(tmp_path / long)}, "dataset.root: .* found File name too long at"),
        ({"root": "~nobody-of-this-name/data"}, "dataset.root: expected a folder, found ~nobody"),
        (
            {"train": "none/*.tfrecord"},
            "dataset.train: expected shards at .*/none/.*, found none; set dataset.root or",
        ),
        ({"train": "/none/*.tfrecord"}, "dataset.train: expected shards at /none/.*, found none"),
        ({"train": None}, "dataset.train: this dataset has no such partition"),
        (
            {"root": str(tmp_path / "none"), "train": "2/frame/train/*.tfrecord"},
            "or fetch it: python -m yt8m.download partition=2/frame/train root=.*/none",
        ),
    ]
    for changes, says in cases:
        with pytest.raises(ConfigError, match=says) as error:
            make(**{"root": root} | changes).shards("train")
        assert "\n" not in str(error.value)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("/b") and access(path, mode))
    with pytest.raises(
        ConfigError, match=r"dataset\.train: expected folders that can be read, found .*/data/b"
    ):
        make(root).shards("train")


def test_arguments_from_python_are_checked(root):
    for changes, says in (
        ({"level": "clip"}, "dataset.level: expected frame, video or segment, or null, found 'clip'"),
        ({"num_workers": -1}, "dataset.num_workers: expected a whole number from 0 to 256"),
        ({"dtype": "int8"}, "dataset.dtype: expected uint8 or float32"),
        ({"quantization": [1]}, "dataset.quantization: expected two numbers"),
        ({"quantization": [2, -2]}, r"dataset.quantization: expected \[min, max\], found \[2, -2\]"),
        ({"limit_videos": 0}, "dataset.limit_videos: expected a whole number, 1 or more"),
        ({"level": "video", "bucket_by_length": True}, "dataset.bucket_by_length: expected frame-level data"),
    ):
        with pytest.raises(ConfigError, match=says):
            make(root, **changes)


def ids(loader):
    return [batch.ids for batch in loader]


def test_overfitting_repeats_the_same_batches(root):
    def epochs(overfit_batches):
        module = make(root)
        module.setup("fit")
        module.trainer = SimpleNamespace(
            overfit_batches=overfit_batches, global_rank=0, world_size=1, accumulate_grad_batches=1
        )
        loader = module.train_dataloader()
        first = ids(loader)
        loader.batch_sampler.set_epoch(1)
        return first, ids(loader)

    first, second = epochs(2)
    assert first == second
    first, second = epochs(0.0)
    assert first != second


def test_slow_records_are_counted_per_pass_and_logged_once(root, rng, caplog):
    path = root / "a" / "train0.tfrecord"
    videos = [records.frame_video(rng, 5, SIZES, 8) for _ in range(10)]
    for context, _ in videos[:3]:
        context["nothing"] = None  # only protobuf understands a feature without a kind
    records.write_shard(path, (records.sequence_example(*video) for video in videos))
    module = make(root)
    module.setup("fit")
    with caplog.at_level(logging.INFO, "yt8m.datamodules.loader"):
        loader = module.train_dataloader()
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            assert len(ids(loader)) == 5
        assert len(ids(module.val_dataloader())) == 3
    (record,) = [one for one in caplog.records if one.name == "yt8m.datamodules.loader"]
    assert record.message.startswith("train: 3 of 20 rows came from records of an unusual layout")
    assert module.slow_records() == 3
    module.teardown("fit")
    assert module.slow_records() == 3


def test_predict_reads_the_chosen_partition(root):
    module = make(root, predict_partition="validate")
    module.setup("predict")
    assert sum(map(len, module.predict_dataloader())) == 10
    assert list(module.datasets) == ["validate"]


def test_looking_at_the_classes_writes_nothing(tmp_path):
    from yt8m.datamodules.sample import SampleDataModule

    module = SampleDataModule(
        root=str(tmp_path / "sample"), features=SIZES, num_classes=8, vocabulary="vocabulary.csv", sample={}
    )
    assert module.classes() is None
    assert module.num_targets() == 8
    assert not list(tmp_path.iterdir())


def test_a_huge_batch_size_takes_no_more_than_the_data(root):
    module = make(root, batch_size=1_000_000, num_workers=1)
    module.setup("fit")
    (batch,) = module.train_dataloader()
    assert len(batch) == 20
    module.teardown("fit")


def test_buffers_that_do_not_fit_end_in_one_line(root, monkeypatch):
    from yt8m.datamodules import buffers

    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    module = make(root)
    module.setup("fit")
    monkeypatch.setattr(buffers, "POOL", buffers.Pool())
    monkeypatch.setattr(buffers, "Memory", refuse)
    says = rf"dataset\.batch_size: expected buffers that fit into memory, found {SLOTS} of 0\.0 GB .*lower dataset"
    with pytest.raises(ConfigError, match=says):
        module.train_dataloader()


def test_a_full_disk_while_the_sample_is_written(tmp_path, monkeypatch):
    from yt8m.datamodules import sample

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "_write_vocabulary", full)
    with pytest.raises(WriteError, match=r"dataset\.root: the sample could not be written .*No space left"):
        sample.write_sample(tmp_path / "s", train_videos=4, validate_videos=4, test_videos=4)
    assert [path.name for path in tmp_path.iterdir()] == [".s.lock"]


def test_too_few_file_descriptors(root):
    from yt8m.datamodules.tfrecord import scan

    path = root / "validate0.tfrecord"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(path, os.O_RDONLY))
        with pytest.raises(DataError, match=r"found: Too many open files; raise the limit .*ulimit -n"):
            scan(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in opened:
            os.close(one)


YAML = """
_target_: yt8m.datamodules.datamodule.YT8MDataModule
root: {root}
train: train*.tfrecord
validate: validate*.tfrecord
features: {{rgb: 6, audio: 3, text: 4}}
dtype: {dtype}
quantization: [0, 1]
num_classes: 8
batch_size: 4
num_workers: 0
target: label
level: frame
"""


@pytest.mark.slow
def test_a_dataset_of_three_features_is_a_yaml_file(tmp_path, rng):
    """Training from the command line on a dataset that only a YAML file outside of the package describes."""
    sizes = {"rgb": 6, "audio": 3, "text": 4}
    for dtype in ("uint8", "float32"):
        root = tmp_path / dtype
        (root / "conf" / "dataset").mkdir(parents=True)
        (root / "conf" / "dataset" / "mine.yaml").write_text(YAML.format(root=root, dtype=dtype))
        for partition in ("train", "validate"):
            videos = [records.frame_video(rng, 5, sizes, 8) for _ in range(8)]
            if dtype == "float32":
                videos = [
                    (context, {key: [row / np.float32(255) for row in rows] for key, rows in lists.items()})
                    for context, lists in videos
                ]
            records.write_shard(
                root / f"{partition}0.tfrecord", (records.sequence_example(*v) for v in videos)
            )
        command = [sys.executable, "-m", "yt8m.train", "--config-dir", str(root / "conf"), "dataset=mine"]
        command += [
            "model=bi_lstm",
            "model.hidden_size=4",
            "trainer=cpu",
            "trainer.max_epochs=1",
            "test=false",
        ]
        ended = subprocess.run(
            [*command, f"hydra.run.dir={root / 'run'}"], capture_output=True, text=True, cwd=tmp_path
        )
        assert ended.returncode == 0, ended.stderr
        from yt8m.module import VideoClassifier

        module = VideoClassifier.load_from_checkpoint(root / "run" / "checkpoints" / "last.ckpt")
        assert list(module.hparams.quantization) == [0, 1]
        assert module.hparams.feature_sizes == sizes
