"""Averages of the weights: their definition, and that they are what is validated, tested, and kept."""

import json
import re
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.test_checkpoint import refusal
from tests.train.test_resume import EVERY_3_STEPS, assert_equal
from tests.training import TINY, run_command, train
from yt8m.checkpoint import check_average
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.train.average import EMA, SWA

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Walk(pl.LightningModule):
    """Its weights are w after w steps, and those of its buffers, too; validation notes what it finds."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("index", torch.tensor([7, 250]))
        self.seen = []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch, batch_idx):
        self.mean += 1
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.seen.append((self.weight.item(), self.mean.item(), self.index.tolist()))

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)


def walk(tmp_path, average, **options):
    """Two epochs of three steps; what every validation saw, the checkpoint at the end, and the weight left."""
    module, batches = Walk(), torch.utils.data.DataLoader(range(3))
    trainer = pl.Trainer(max_epochs=2, callbacks=[average], default_root_dir=tmp_path, **{**QUIET, **options})
    trainer.fit(module, batches, batches)
    content = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    return module, content


@pytest.mark.filterwarnings("ignore")
def test_averages_follow_their_definitions(tmp_path):
    def ema(decay, warmup, first):
        value = float(first)
        for n, weight in enumerate(range(first + 1, 7), start=1):
            share = min(decay, (1 + n) / (10 + n)) if warmup else decay
            value = share * value + (1 - share) * weight
        return value

    for average, expected in [
        (EMA(decay=0.9, warmup=False), ema(0.9, False, 1)),
        (EMA(decay=0.999, warmup=True), ema(0.999, True, 1)),
        (EMA(decay=0.9, warmup=False, start_epoch=1), ema(0.9, False, 4)),
        (EMA(decay=0.5, warmup=False, every_n_steps=3), 0.5 * 3 + 0.5 * 6),
        (SWA(), (3 + 6) / 2),
        (SWA(every_n_steps=1), (1 + 2 + 3 + 4 + 5 + 6) / 6),
        (SWA(every_n_steps=2, start_epoch=1), (4 + 6) / 2),
        (SWA(start_epoch=5), 6),  # never begun: the weights as they are
    ]:
        module, content = walk(tmp_path, average)
        assert content["state_dict"]["weight"].item() == pytest.approx(expected)
        assert content["state_dict"]["mean"].item() == pytest.approx(expected)
        assert content["state_dict"]["index"].tolist() == [7, 250]
        assert content["current_model_state"]["weight"].item() == 6
        assert module.weight.item() == pytest.approx(expected)
        assert module.seen[-1][:2] == pytest.approx((expected, expected))
        assert module.seen[-1][2] == [7, 250]
        if average.start_epoch:
            assert module.seen[0][:2] == (3, 3)


@pytest.mark.filterwarnings("ignore")
def test_accumulated_batches_are_one_update(tmp_path):
    _, content = walk(tmp_path, SWA(every_n_steps=1), accumulate_grad_batches=3)
    assert content["state_dict"]["weight"].item() == pytest.approx((1 + 2) / 2)


def whole_state(folder: Path) -> dict[str, torch.Tensor]:
    """The averaged and the current weights, and how many were averaged."""
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    parts = ("state_dict", "current_model_state", "averaging_state")
    return {f"{part}/{name}": tensor for part in parts for name, tensor in content[part].items()}


@pytest.mark.slow
def test_a_resumed_average_equals_an_uninterrupted_one(tmp_path, tiny_sample, monkeypatch):
    options = ["average=ema", "average.decay=0.8", "average.every_n_steps=2", "test=false"]
    options += ["+trainer.val_check_interval=2", "+trainer.accumulate_grad_batches=2"]

    def fail(self, batch, batch_idx):
        if self.trainer.fit_loop.epoch_loop.batch_progress.total.ready > 12:
            raise RuntimeError

    common = [*TINY, *tiny_sample, *EVERY_3_STEPS, *options]
    train(tmp_path / "whole", *common)
    monkeypatch.setattr(VideoClassifier, "on_train_batch_start", fail, raising=False)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", *common)
    monkeypatch.undo()
    train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(whole_state(tmp_path / "whole"), whole_state(tmp_path / "stopped"))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_the_average_is_validated_kept_resumed_and_evaluated(tmp_path, tiny_sample):
    common = [*TINY, *tiny_sample, "average=ema", "average.decay=0.8"]
    whole = train(tmp_path / "whole", *common)
    assert whole["average"] == "ema"
    train(tmp_path / "stopped", *common, "trainer.max_epochs=1")
    resumed = train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(whole_state(tmp_path / "whole"), whole_state(tmp_path / "stopped"))
    finished = train(tmp_path / "stopped", *common, "ckpt_path=last", "callbacks.best=null")
    path = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    run_command("eval", f"ckpt_path={path}", "trainer=cpu", f"hydra.run.dir={tmp_path / 'eval'}")
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    for key in ("gap", "loss"):
        assert whole[f"val/{key}"] == resumed[f"val/{key}"]
        assert whole[f"test/{key}"] == resumed[f"test/{key}"]
        assert whole[f"last/val/{key}"] == finished[f"val/{key}"]
        assert evaluated[f"val/{key}"] == pytest.approx(whole[f"last/val/{key}"], rel=1e-5)
    content = torch.load(path, weights_only=True)
    name = "model.classifier.weight"
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])


def test_a_stop_within_a_validation_keeps_average_and_weights_apart(tmp_path, tiny_sample, monkeypatch):
    common = [*TINY, *tiny_sample, "average=ema", "average.decay=0.8", "test=false", "callbacks.best=null"]
    train(tmp_path / "whole", *common)

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(VideoClassifier, "validation_step", validation_step)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", *common)
    monkeypatch.undo()
    train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(whole_state(tmp_path / "whole"), whole_state(tmp_path / "stopped"))


def test_what_averaging_cannot_do_is_refused(monkeypatch):
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.strategies import ModelParallelStrategy

    trainer = pl.Trainer(**QUIET, callbacks=[ModelCheckpoint(save_weights_only=True)])
    with pytest.raises(ConfigError, match="found save_weights_only=true"):
        SWA().setup(trainer, Walk(), "fit")
    monkeypatch.setattr(pl.Trainer, "strategy", ModelParallelStrategy())
    with pytest.raises(ConfigError, match="found ModelParallelStrategy, which shards them; set trainer=ddp"):
        SWA().setup(trainer, Walk(), "fit")


def test_an_average_that_does_not_fit_the_run_is_refused():
    good = {
        "callbacks": {"EMA": {"latest_update_step": 3}},
        "state_dict": {"model.weight": torch.zeros(2)},
        "current_model_state": {"model.weight": torch.zeros(2)},
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }
    path = Path("last.ckpt")
    check_average(path, good, "EMA")
    check_average(path, {"callbacks": {}}, "EMA")  # the average begins with the checkpoint's weights
    for changed, callback, says in [
        ({}, None, r"has averaged weights \(EMA\); this run has none; set the same average"),
        ({}, "SWA", r"has averaged weights \(EMA\); this run has SWA; set the same average"),
        ({"callbacks": {"EMA": {"latest_update_step": "x"}}}, "EMA", "latest_update_step should be a whole"),
        ({"averaging_state": "x"}, "EMA", "averaging_state should be a dictionary"),
        ({"averaging_state": {"n_averaged": torch.zeros(2)}}, "EMA", "expected the number of averaged"),
        ({"averaging_state": {}}, "EMA", "expected the number of averaged weights"),
        ({"current_model_state": None}, "EMA", "current_model_state should be a dictionary, found nothing"),
        ({"current_model_state": {"model.weight": 1}}, "EMA", "in its state_dict is no tensor"),
        ({"current_model_state": {"model.weight": torch.zeros(3)}}, "EMA", "other names or shapes"),
        ({"current_model_state": {"model.weight": torch.zeros(1).expand(2)}}, "EMA", "than the file holds"),
    ]:
        message = refusal(check_average, path, {**good, **changed}, callback)
        assert message.startswith("ckpt_path: "), message
        assert re.search(says, message), message
