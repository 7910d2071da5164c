"""Stop and resume: the weights must equal those of an uninterrupted run, bit for bit."""

import csv

import pytest
import torch

from tests.training import TINY, train

# Mid-epoch checkpoints every third batch of seven, so that one lies inside each epoch and none at its end.
EVERY_3_STEPS = (
    "callbacks.last.every_n_epochs=null",
    "+callbacks.last.every_n_train_steps=3",
    "callbacks.best=null",
    "callbacks.last_within_epoch=null",
)


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


class Stop(Exception):
    """Ends a training as an unforeseen error would."""


@pytest.fixture
def stop_at(monkeypatch):
    """Let training fail after a number of steps, once."""

    def arrange(step: int | None) -> None:
        from yt8m.module import VideoClassifier

        def on_train_batch_start(self, batch, batch_idx):
            if step is not None and self.trainer.fit_loop.epoch_loop.batch_progress.total.ready > step:
                raise Stop

        monkeypatch.setattr(VideoClassifier, "on_train_batch_start", on_train_batch_start, raising=False)

    return arrange


@pytest.mark.parametrize(
    ("options", "resumed_options"),
    [
        (["dataset.num_workers=0"], []),
        (["dataset.num_workers=2"], ["dataset.num_workers=2"]),
        (["dataset.num_workers=0"], ["dataset.num_workers=2"]),
        (["+trainer.accumulate_grad_batches=2"], ["+trainer.accumulate_grad_batches=2"]),
        (["+trainer.val_check_interval=2"], ["+trainer.val_check_interval=2"]),
        (["scheduler=cosine"], ["scheduler=cosine"]),
    ],
    ids=["0 workers", "2 workers", "0 then 2 workers", "accumulation", "validation inside", "cosine"],
)
@pytest.mark.parametrize("step", [6, 12], ids=["first epoch", "second epoch"])
@pytest.mark.slow
def test_resume_mid_epoch_equals_an_uninterrupted_run(
    tmp_path, tiny_sample, stop_at, options, resumed_options, step
):
    common = [*TINY, *tiny_sample, *EVERY_3_STEPS, "test=false"]
    train(tmp_path / "whole", *common, *options)
    stop_at(step)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", *common, *options)
    stop_at(None)
    train(tmp_path / "stopped", *common, *resumed_options, "ckpt_path=last")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


RANDOM_OBJECTIVE = (
    "mixup=0.4",
    "label_smoothing=0.1",
    "stream_dropout=0.3",
    "frame_subsample=8",
    "splice=0.5",
)


def test_what_training_draws_resumes_exactly_with_a_teacher(tmp_path, tiny_run, tiny_sample, stop_at):
    common = [*TINY, *tiny_sample, *EVERY_3_STEPS, *RANDOM_OBJECTIVE, "test=false"]
    common += [f"teacher={tiny_run / 'checkpoints' / 'best.ckpt'}"]
    train(tmp_path / "whole", *common)
    stop_at(5)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", *common)
    stop_at(None)
    train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


@pytest.mark.slow
def test_what_a_network_draws_resumes_exactly(tmp_path, tiny_sample, stop_at):
    """Frames, dropout, and the running statistics of batch norms."""
    network = ("model=mix_nextvlad", "model.num_branches=2", "model.width=0.01", "model.sample_frames=5")
    common = [*network, *TINY[4:], *tiny_sample, *EVERY_3_STEPS, "test=false"]
    train(tmp_path / "whole", *common)
    stop_at(5)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", *common)
    stop_at(None)
    train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def validations(folder):
    """GAP of every validation, by step."""
    with open(folder / "csv" / "version_0" / "metrics.csv") as file:
        return {row["step"]: row["val/gap"] for row in csv.DictReader(file) if row["val/gap"]}


@pytest.mark.parametrize(
    "callback", ["yt8m.train.resume.Checkpoint", "pytorch_lightning.callbacks.ModelCheckpoint"]
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resumed_again_and_again_from_an_epochs_last_step(tmp_path, tiny_sample, callback):
    options = [
        f"callbacks.last._target_={callback}",
        "callbacks.last.filename='{step:03d}'",
        "+callbacks.last.auto_insert_metric_name=false",
        "+callbacks.last.save_top_k=-1",
        "callbacks.last.every_n_epochs=null",
        "+callbacks.last.every_n_train_steps=1",
        "callbacks.best=null",
        "callbacks.last_within_epoch=null",
        "test=false",
        "dataset.batch_size=25",
        "trainer.max_epochs=4",
    ]

    def run(name, *more):
        train(tmp_path / name, *TINY, *tiny_sample, *options, *more)
        return tmp_path / name / "checkpoints"

    whole = run("whole")
    first = run("first", f"ckpt_path={whole / '004.ckpt'}")  # four steps are an epoch
    second = run("second", f"ckpt_path={first / '008.ckpt'}")
    third = run("third", f"ckpt_path={second / '010.ckpt'}")
    for folder in (first, second, third):
        assert max(path.name for path in folder.iterdir()) == "016.ckpt"
        ends = (torch.load(end / "016.ckpt", weights_only=True)["state_dict"] for end in (whole, folder))
        assert_equal(*ends)
    if callback.startswith("yt8m"):
        expected = validations(tmp_path / "whole")
        assert len(expected) == 4
        for name in ("first", "second", "third"):
            found = validations(tmp_path / name)
            assert found == {step: expected[step] for step in found}
            assert len(found) == {"first": 3, "second": 2, "third": 2}[name]


@pytest.mark.parametrize("monitored", [True, False])
def test_what_is_due_at_an_epochs_last_step_is_saved_there(tmp_path, tiny_sample, monitored):
    options = [
        "callbacks.best=null",
        f"+callbacks.last.monitor={'val/gap' if monitored else 'null'}",
        "callbacks.last.filename='{step:03d}'",
        "+callbacks.last.auto_insert_metric_name=false",
        "+callbacks.last.save_top_k=-1",
        "callbacks.last.every_n_epochs=null",
        "+callbacks.last.every_n_train_steps=4",
        "test=false",
        "dataset.batch_size=25",
    ]
    train(tmp_path, *TINY, *tiny_sample, *options)
    saved = sorted((tmp_path / "checkpoints").glob("*.ckpt"))
    assert [path.name for path in saved] == ["004.ckpt", "008.ckpt"]  # four steps are an epoch
    assert [torch.load(path, weights_only=True)["global_step"] for path in saved] == [4, 8]


def test_resume_at_an_epochs_end_equals_an_uninterrupted_run(tmp_path, tiny_sample):
    common = [*TINY, *tiny_sample]
    whole = train(tmp_path / "whole", *common)
    train(tmp_path / "stopped", *common, "trainer.max_epochs=1")
    resumed = train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    for key in ("val/gap", "val/loss", "train/loss", "test/gap"):
        assert whole[key] == resumed[key]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path, tiny_sample):
    first = train(tmp_path, *TINY, *tiny_sample)
    before = weights(tmp_path)
    again = train(tmp_path, *TINY, *tiny_sample, "ckpt_path=last")
    assert_equal(before, weights(tmp_path))
    for key in ("val/gap", "val/loss", "test/gap", "epochs", "train/loss"):
        assert again[key] == first[key]
