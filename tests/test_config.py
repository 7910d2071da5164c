"""Every option of every config group composes, and names something that can be built."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tests.models.networks import STUDY
from yt8m.build import build
from yt8m.config import CONFIG_DIR, as_folder

GROUPS = (
    "model",
    "dataset",
    "transform",
    "loss",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "debug",
)

NEED_EIGENVALUES = ("reverse_whiten",)


def options(group: str) -> list[str]:
    folder = Path(CONFIG_DIR, group)
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("train", overrides=["output_dir=/nowhere", *overrides])


def test_every_option_composes():
    for group in (*GROUPS, "experiment"):
        for option in options(group):
            if option.startswith("published/"):
                continue  # tests/test_published.py composes and trains them
            extra = ("transform.path=e.npy",) if option in NEED_EIGENVALUES else ()
            config = composed(f"logger=[{option}]" if group == "logger" else f"{group}={option}", *extra)
            OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_quickstart_takes_every_network():
    for model in options("model"):
        section = OmegaConf.to_container(composed("experiment=quickstart", f"model={model}").model)
        classes = 3862 if model in STUDY else 40  # the published heads on the video vector cannot be narrowed
        with torch.device("meta"):
            network = build(section, "model", feature_sizes={"rgb": 1024, "audio": 128}, num_classes=classes)
        assert sum(p.numel() for p in network.parameters()) < 1.5e6, model


def test_no_group_is_empty():
    assert all(options(group) for group in GROUPS)


def test_datasets_build():
    scripts_rely_on = {
        "root",
        "batch_size",
        "num_workers",
        "max_frames",
        "features",
        "num_classes",
        "on_corrupt",
    }
    for dataset in options("dataset"):
        config = OmegaConf.to_container(composed(f"dataset={dataset}").dataset, resolve=True)
        assert build(config, "dataset", seed=0).num_classes == config["num_classes"]
        assert scripts_rely_on | {"train", "validate", "test"} <= config.keys(), dataset


def test_losses_build():
    for loss in options("loss"):
        assert callable(build(dict(composed(f"loss={loss}").loss), "loss")), loss


def test_optimizers_build():
    for optimizer in options("optimizer"):
        config = dict(composed(f"optimizer={optimizer}").optimizer)
        built = build(config, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
        assert built.param_groups[0]["lr"] == config["lr"], optimizer


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
    takes |= {"_target_", "matmul", "cuda_streams"}
    for option in options("trainer"):
        assert set(composed(f"trainer={option}").trainer) <= takes, option


def test_overrides_become_a_folder_name():
    name = as_folder("model=nn,dataset.root=/a/../b c,+model.hidden_sizes=[1,2]")
    assert name == "model=nn,dataset.root=-a-..-b-c,+model.hidden_sizes=-1,2-"
    assert len(as_folder("x" * 1000).encode()) <= 255
