"""Two CPU processes must see what one sees: every video once, the same metrics, the same weights."""

import json

import pytest
import torch

from tests.train.damage import copy_of_sample, damage
from tests.training import DDP, TINY, in_processes, run_command, train


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_as_one(tmp_path, tiny_sample):
    # Without dropout, for the ranks' random numbers differ. 100 and 30 videos: neither divides by the batches.
    common = [*TINY, *tiny_sample, "model.dropout=0", "trainer.max_epochs=1"]
    common += ["transform=standardize", "transform.max_videos=40"]  # each rank reads its share of them
    one = train(tmp_path / "one", *common, "dataset.batch_size=14")
    in_processes("train", *common, "dataset.batch_size=7", f"hydra.run.dir={tmp_path / 'two'}", *DDP)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    for key in (
        "train/loss",
        *(f"val/{name}" for name in ("loss", "hit1", "perr", "gap", "map")),
        "test/gap",
    ):
        assert two[key] == pytest.approx(one[key], rel=2e-4), key

    scales = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"][
            "transform.scale"
        ]
        for run in ("one", "two")
    )
    torch.testing.assert_close(*scales, rtol=1e-6, atol=0)

    checkpoint = f"ckpt_path={tmp_path / 'one' / 'checkpoints' / 'last.ckpt'}"
    run_command("eval", checkpoint, "trainer=cpu", f"hydra.run.dir={tmp_path / 'eval-one'}")
    in_processes("eval", checkpoint, "trainer=cpu", f"hydra.run.dir={tmp_path / 'eval-two'}", *DDP)
    alone, together = (
        json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in ("eval-one", "eval-two")
    )
    for name in ("loss", "hit1", "perr", "gap", "map"):
        assert together[f"val/{name}"] == pytest.approx(alone[f"val/{name}"], rel=1e-6), name


@pytest.mark.slow
def test_two_ranks_resume_mid_epoch_as_if_never_stopped(tmp_path, tiny_sample):
    every_2_steps = (
        "callbacks.last.every_n_epochs=null",
        "+callbacks.last.every_n_train_steps=2",
        "callbacks.best=null",
        "callbacks.last_within_epoch=null",
        "test=false",
    )
    # Dropout is on: each rank must get its own random state back.
    common = [*TINY, *tiny_sample, *every_2_steps, "dataset.batch_size=7", *DDP]
    in_processes("train", *common, f"hydra.run.dir={tmp_path / 'whole'}")
    in_processes("train", *common, f"hydra.run.dir={tmp_path / 'stopped'}", "+trainer.max_steps=11")
    in_processes("train", *common, f"hydra.run.dir={tmp_path / 'stopped'}", "ckpt_path=last")
    whole, stopped = (
        torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in ("whole", "stopped")
    )
    assert whole["global_step"] == stopped["global_step"] == 16
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, stopped["state_dict"][key]), key


@pytest.mark.slow
def test_losses_weigh_videos_equally_whichever_rank_has_them(tmp_path, tiny_sample):
    options = copy_of_sample(tiny_sample, tmp_path / "data")
    for partition in ("train", "validate"):
        shards = sorted((tmp_path / "data" / partition).glob("*.tfrecord"))
        damage(shards[0], slice(1, None, 3))
        damage(shards[1], slice(0, 4))
    # The weights stay as they are, so that the order of the steps does not matter.
    common = [*TINY, *options, "model.dropout=0", "trainer.max_epochs=1", "optimizer.lr=1e-12"]
    one = train(tmp_path / "one", *common, "dataset.batch_size=14")
    in_processes("train", *common, "dataset.batch_size=7", f"hydra.run.dir={tmp_path / 'two'}", *DDP)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["skipped"] == one["skipped"]
    for key in ("train/loss", "val/loss", "val/gap"):
        assert two[key] == pytest.approx(one[key], rel=1e-6), key


@pytest.mark.slow
def test_a_rank_with_nothing_but_empty_batches_does_not_hang(tmp_path, tiny_sample):
    options = copy_of_sample(tiny_sample, tmp_path / "data")
    for partition in ("train", "validate"):
        first, *others = sorted((tmp_path / "data" / partition).glob("*.tfrecord"))
        damage(first, slice(1, None))
        for shard in others:
            damage(shard, slice(None))
    common = [*TINY, *options, "dataset.batch_size=7", "trainer.max_epochs=2", "optimizer.lr=1e-12"]
    common += ["model.dropout=0"]
    one = train(tmp_path / "one", *common)
    in_processes("train", *common, f"hydra.run.dir={tmp_path / 'two'}", *DDP)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    for key in ("train/loss", "val/loss", "val/gap"):
        assert two[key] == pytest.approx(one[key], rel=1e-6), key
