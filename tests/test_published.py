"""The published recipes: each says where it is from, and trains."""

import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from tests.test_config import composed, options
from tests.test_module import QUIET, Batches
from yt8m.config import CONFIG_DIR
from yt8m.datamodules.batch import Batch
from yt8m.module import VideoClassifier
from yt8m.schema import Objective, validate

RECIPES = [option for option in options("experiment") if option.startswith("published/")]
SIZES = {"rgb": 6, "audio": 4}


def test_each_opens_with_its_command_its_source_and_what_was_run():
    networks = []
    for recipe in RECIPES:
        with open(f"{CONFIG_DIR}/experiment/{recipe}.yaml", encoding="utf-8") as file:
            head, _, settings = file.read().partition("defaults:")
        command = rf"^# .+: python -m yt8m\.train experiment={recipe}( \S+=\S+)* dataset\.root=PATH$"
        assert re.search(command, head, re.M), recipe
        assert re.search(r"^# Source: .+\.$", head, re.M), recipe
        assert re.search(r"^# Not run here at full size", head, re.M), recipe  # until it has a result of ours
        networks += re.findall(r"override /model: (\w+)", settings)
    assert len(networks) == len(RECIPES)
    assert set(networks) == {
        *("logistic", "moe", "frame_logistic", "dbof", "lstm", "gru", "gated_dbof", "soft_dbow"),
        *("netvlad", "netrvlad", "netfv", "nextvlad", "mix_nextvlad"),
    }


def arguments(recipe: str, eigenvalues: str = "eigenvals.npy") -> list[str]:
    needs_them = recipe.endswith("nextvlad")
    return [f"experiment={recipe}", *([f"transform.path={eigenvalues}"] if needs_them else [])]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_each_trains(tmp_path):
    """A step of the recipe's own loss, optimizer, schedule, decay, and transform, on a narrow network."""
    np.save(tmp_path / "eigenvals.npy", np.linspace(2, 1, 6))
    for recipe in RECIPES:
        overrides = arguments(recipe, str(tmp_path / "eigenvals.npy"))
        config = OmegaConf.to_container(composed(*overrides, "model.width=0.01"), resolve=True)
        validate("train", config)
        level = config["dataset"]["level"]
        torch.manual_seed(0)
        classifier = VideoClassifier(
            feature_sizes={f"mean_{name}": size for name, size in SIZES.items()}
            if level == "video"
            else SIZES,
            num_classes=5,
            objective={key: config[key] for key in Objective.model_fields},
            level=level,
            config=config,
            **{key: config[key] for key in ("model", "loss", "optimizer", "scheduler", "weight_decay")},
            **{key: config[key] for key in ("gradient_clip", "transform", "normalize")},
        )
        num_frames = torch.tensor([1, 1, 1] if level == "video" else [4, 1, 6])
        features = torch.randint(0, 256, (int(num_frames.sum()), 10), dtype=torch.uint8)
        features = torch.randn(3, 10) if level == "video" else features
        videos = Batch(["a", "b", "c"], features, num_frames, torch.tensor([[0, 1], [1, 4], [2, 0]]))
        before = {name: value.clone() for name, value in classifier.model.named_parameters()}
        pl.Trainer(**QUIET, max_steps=1).fit(classifier, train_dataloaders=Batches([videos]))
        unchanged = [n for n, p in classifier.model.named_parameters() if torch.equal(p, before[n])]
        # Three videos may leave a hidden unit without a gradient, but no class.
        assert all(p.isfinite().all() for p in classifier.model.parameters()), recipe
        assert len(unchanged) < len(before) / 4, (recipe, unchanged)
        assert not [name for name in unchanged if "classifier" in name], recipe
        decays = {group["weight_decay"] for group in classifier.trainer.optimizers[0].param_groups}
        assert decays == {0.0, *config["weight_decay"].values()}, recipe
