"""Every option of every config group composes, and names something that can be built."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from yt8m.build import build, locate
from yt8m.config import CONFIG_DIR, as_folder

GROUPS = ("model", "dataset", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug")


def options(group: str) -> list[str]:
    folder = Path(CONFIG_DIR, group)
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("train", overrides=["output_dir=/nowhere", *overrides])


ALL = [f"{group}={option}" for group in (*GROUPS, "experiment") for option in options(group)]


@pytest.mark.parametrize("choice", ALL)
def test_every_option_composes(choice):
    config = composed(
        f"logger=[{choice.removeprefix('logger=')}]" if choice.startswith("logger=") else choice
    )
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_no_group_is_empty():
    assert all(options(group) for group in GROUPS)


@pytest.mark.parametrize("model", options("model"))
def test_a_model_is_one_file_one_config_one_class(model):
    target = composed(f"model={model}").model._target_
    module, _, name = target.rpartition(".")
    assert module == f"yt8m.models.{model}"
    assert name.lower() == model.replace("_", "")
    assert locate(target, "model").__name__ == name


@pytest.mark.parametrize("dataset", options("dataset"))
def test_datasets_build(dataset):
    config = OmegaConf.to_container(composed(f"dataset={dataset}").dataset, resolve=True)
    datamodule = build(config, "dataset", seed=0)
    assert datamodule.num_classes == config["num_classes"]
    scripts_rely_on = {
        "root",
        "batch_size",
        "num_workers",
        "max_frames",
        "features",
        "num_classes",
        "on_corrupt",
    }
    assert scripts_rely_on | {"train", "validate", "test"} <= config.keys()


def test_the_error_about_frames_names_every_dataset_that_has_them():
    from yt8m.module import FRAME_DATASETS

    level = {name: composed(f"dataset={name}").dataset.level for name in options("dataset")}
    assert sorted(FRAME_DATASETS) == sorted(name for name, value in level.items() if value != "video")


@pytest.mark.parametrize("loss", options("loss"))
def test_losses_build(loss):
    assert callable(build(dict(composed(f"loss={loss}").loss), "loss"))


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_optimizers_build(optimizer):
    import torch

    config = dict(composed(f"optimizer={optimizer}").optimizer)
    built = build(config, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    assert built.param_groups[0]["lr"] == config["lr"]


@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_callbacks_and_loggers_instantiate(group, tmp_path):
    for option in options(group):
        choice = f"{group}=[{option}]" if group == "logger" else f"{group}={option}"
        for part in composed(choice, f"output_dir={tmp_path}")[group].values():
            if part:
                assert instantiate(part, _convert_="all") is not None


def test_the_trainer_takes_every_key_of_its_configs():
    import inspect

    import pytorch_lightning

    takes = set(inspect.signature(pytorch_lightning.Trainer.__init__).parameters)
    for option in options("trainer"):
        assert set(composed(f"trainer={option}").trainer) - {"_target_"} <= takes, option


def test_overrides_become_a_folder_name():
    name = as_folder("model=nn,dataset.root=/a/../b c,+model.hidden_sizes=[1,2]")
    assert name == "model=nn,dataset.root=-a-..-b-c,+model.hidden_sizes=-1,2-"
    assert len(as_folder("x" * 1000).encode()) <= 255
