"""A training that goes on with another batch size, accumulation, number of readers, or number of processes."""

import json

import pytest
import torch

from tests.training import DDP, TINY, in_processes, train

RECORDS = 100  # of the tiny sample
EVERY_STEP = (
    "callbacks.best=null",
    "callbacks.last_within_epoch=null",
    "callbacks.last.every_n_epochs=null",
    "+callbacks.last.every_n_train_steps=1",
    "test=false",
    "model.dropout=0",
    "trainer.log_every_n_steps=1",
)


@pytest.fixture
def seen(monkeypatch):
    """Ids of all batches that training steps see, by epoch; `stop` ends training at a batch, as an error would."""
    from yt8m.module import VideoClassifier

    class Seen:
        def __init__(self):
            self.stop, self.batches, self.steps, self.rates = None, [], [], []

    found = Seen()
    step = VideoClassifier.training_step

    def training_step(self, batch, batch_idx):
        if found.stop is not None and len(found.batches) == found.stop:
            raise RuntimeError("stop")
        found.batches.append((self.trainer.current_epoch, batch_idx, list(batch.ids)))
        found.steps.append(self.trainer.global_step)
        found.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", training_step)
    return found


def test_goes_on_with_another_batch_size_accumulation_and_readers(tmp_path, tiny_sample, seen):
    common = [*TINY, *tiny_sample, *EVERY_STEP, "scheduler=cosine"]
    seen.stop = 10  # in the second epoch: 7 batches of 16 are an epoch
    with pytest.raises(SystemExit):
        train(tmp_path, *common)
    before = [batch for batch in seen.batches if batch[0] == 0 or batch[1] < 3]
    seen.batches.clear()
    seen.stop = 4  # three steps of one batch of 5 are behind, and a third of the next one
    options = ("dataset.batch_size=5", "+trainer.accumulate_grad_batches=3", "dataset.num_workers=1")
    with pytest.raises(SystemExit):
        train(tmp_path, *common, *options, "ckpt_path=last")
    # 48 records are 3 steps of 15 and 3 records: what is left of the fourth step is a step of its own.
    assert [(epoch, index, len(ids)) for epoch, index, ids in seen.batches] == [
        (1, 9, 4),
        (1, 10, 4),
        (1, 11, 4),
        (1, 12, 5),
    ]
    before += seen.batches[:3]  # the fourth one is in no step
    seen.batches.clear()
    seen.steps.clear()
    seen.rates.clear()
    seen.stop = None
    train(tmp_path, *common, "dataset.batch_size=10", "ckpt_path=last", "trainer.max_epochs=3")
    whole = [name for epoch, _, ids in before + seen.batches if epoch == 1 for name in ids]
    assert len(whole) == len(set(whole)) == RECORDS
    assert [(epoch, index) for epoch, index, _ in seen.batches] == [
        *((1, index) for index in range(6, 10)),
        *((2, index) for index in range(10)),
    ]
    assert seen.steps == list(range(11, 25))  # 7 + 3 + 1 were taken
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 25
    assert saved["epoch"] == 2
    # The schedule counts steps of ten: it stands at 16 of 30, and ends where training does.
    assert saved["lr_schedulers"][0]["last_epoch"] == 30
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)
    assert all(first > second for first, second in zip(seen.rates, seen.rates[1:], strict=False))


def test_goes_on_in_the_epoch_that_max_steps_ended(tmp_path, tiny_sample, seen):
    common = [*TINY, *tiny_sample, "test=false", "callbacks.best=null"]
    train(tmp_path, *common, "+trainer.max_steps=3")
    train(tmp_path, *common, "ckpt_path=last", "trainer.max_epochs=1", "dataset.batch_size=10")
    assert {epoch for epoch, _, _ in seen.batches} == {0}
    names = [name for _, _, ids in seen.batches for name in ids]
    assert len(names) == len(set(names)) == RECORDS


def test_goes_on_from_a_checkpoint_of_an_earlier_version(tmp_path, tiny_sample, seen):
    common = [*TINY, *tiny_sample, *EVERY_STEP]
    seen.stop = 3
    with pytest.raises(SystemExit):
        train(tmp_path, *common)
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    place = content["SampleDataModule"]
    assert place.pop("records") == 48
    del place["order"]["accumulate"]
    torch.save(content | {"SampleDataModule": place | {"batch": 3}}, path)
    seen.stop = None
    train(tmp_path, *common, "ckpt_path=last", "dataset.batch_size=32")
    first = [ids for epoch, _, ids in seen.batches if epoch == 0]
    assert [len(ids) for ids in first] == [16, 16, 16, 16, 32, 4]
    assert len({name for ids in first for name in ids}) == RECORDS


@pytest.mark.slow
def test_one_process_goes_on_as_two_and_two_as_one(tmp_path, tiny_sample):
    """With the global batch unchanged, losses and weights are those of one process, but for rounding."""
    common = [*TINY, *tiny_sample, *EVERY_STEP, "dataset.bucket_by_length=true"]
    one, two = ("dataset.batch_size=10",), ("dataset.batch_size=5", *DDP)

    def run(name, *options):
        folder = tmp_path / name
        in_processes("train", *common, f"hydra.run.dir={folder}", *options)
        return json.loads((folder / "metrics.json").read_text())

    whole = run("whole", *one)
    changing = [f"hydra.run.dir={tmp_path / 'changing'}", *common]
    in_processes("train", *changing, *one, "+trainer.max_steps=4")
    in_processes("train", *changing, *two, "+trainer.max_steps=13", "ckpt_path=last")
    changed = run("changing", *one, "ckpt_path=last")
    for key in ("train/loss", "val/loss", "val/gap"):
        assert changed[key] == pytest.approx(whole[key], rel=1e-4), key
    ends = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "changing")
    ]
    assert [end["global_step"] for end in ends] == [20, 20]
    for key, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][key], value, rtol=1e-3, atol=1e-5)
