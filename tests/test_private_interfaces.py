"""What the package uses of libraries beyond their documented interfaces; upper bounds in pyproject.toml guard it.

A failure here names what to adapt before a bound is raised.
"""

import inspect
import tomllib
from pathlib import Path

import pytorch_lightning as pl
import torch

ROOT = Path(__file__).resolve().parents[1]


def test_lightning_loops_tell_where_training_is():
    """`yt8m.datamodules.datamodule`, `yt8m.train.resume`: the position of an exact resume."""
    loop = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").fit_loop
    assert {"ready", "started", "processed", "completed"} <= vars(loop.epoch_progress.current).keys()
    assert {"ready", "completed"} <= vars(loop.epoch_loop.batch_progress.current).keys()
    assert hasattr(loop.epoch_loop.batch_progress, "is_last_batch")
    assert isinstance(loop.restarted_mid_epoch, bool)
    assert callable(loop.reset_restart_stage)


def test_lightning_ends_between_batches_when_a_signal_was_received():
    """`yt8m.train.stop` sets this flag on Ctrl-C."""
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert trainer._signal_connector.received_sigterm is False
    assert trainer.received_sigterm is False
    trainer._signal_connector.received_sigterm = True
    assert trainer.received_sigterm is True


def test_lightning_fabric_writes_checkpoints_through_this_class():
    """`yt8m.checkpoint` and `yt8m.train` replace its `save_checkpoint`."""
    from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

    parameters = inspect.signature(TorchCheckpointIO.save_checkpoint).parameters
    assert [*parameters] == ["self", "checkpoint", "path", "storage_options"]


def test_lightning_asks_here_which_file_systems_are_installed(monkeypatch):
    """`yt8m.train.session` answers by what is imported."""
    from fsspec.implementations.local import LocalFileSystem
    from lightning_fabric.utilities import cloud_io

    asked = []
    monkeypatch.setattr(cloud_io, "module_available", asked.append)
    assert not cloud_io._is_object_storage(LocalFileSystem())
    assert "s3fs" in asked


def test_model_checkpoint_has_the_hooks_that_are_overridden():
    """`yt8m.train.resume.Checkpoint` saves what is due after an epoch's last batch after its validation."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    assert "on_train_batch_end" in vars(ModelCheckpoint)
    assert "on_train_epoch_end" in vars(ModelCheckpoint)


def test_dependencies_with_private_use_have_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounded = {line.split(">")[0]: line for line in project["dependencies"] if "<" in line}
    assert {"pytorch-lightning", "hydra-core"} <= bounded.keys()


def test_weight_averaging_has_the_parts_that_are_overridden():
    """`yt8m.train.average` keeps the average apart from the weights, wherever a run stops."""
    from pytorch_lightning.callbacks import WeightAveraging
    from torch.optim.swa_utils import AveragedModel

    callback = WeightAveraging()
    assert {"_average_model", "_device", "_latest_update_step"} <= vars(callback).keys()
    assert callable(callback._swap_models)
    assert callable(callback._copy_average_to_current)
    assert "n_averaged" in dict(AveragedModel(torch.nn.Linear(1, 1)).named_buffers())


def test_a_module_can_forget_that_it_was_compiled():
    """`yt8m.train.compiled` lets a network run as it is where `torch.compile` fails."""
    module = torch.nn.Linear(1, 1)
    module.compile(backend="eager")
    assert callable(module._compiled_call_impl)
    module._compiled_call_impl = None
    assert module(torch.zeros(1, 1)).shape == (1, 1)
    assert isinstance(torch._dynamo.config.recompile_limit, int)
