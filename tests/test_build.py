"""What a configuration may name, and what it may not."""

import json
import sys

import pytest

from tests.training import run_command, train
from yt8m.build import build, locate
from yt8m.errors import ConfigError

MYNET = """
import torch

class MyNet(torch.nn.Module):
    needs_video, needs_frames = True, False

    def __init__(self, *, feature_sizes, num_classes, hidden=8):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(sum(feature_sizes.values()), hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, num_classes)
        )

    def forward(self, video, frames, num_frames):
        return self.layers(video)

class MyLoss(torch.nn.Module):
    def forward(self, logits, labels, mask=None):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())

class Broken(torch.nn.Module):
    def __init__(self, **arguments):
        raise ValueError("a bug of its own")

def write_something(**arguments):
    raise AssertionError("must not be called")
"""


@pytest.fixture
def mynet(tmp_path, monkeypatch):
    """The name of a package outside of this project."""
    (tmp_path / "mynet.py").write_text(MYNET)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mynet"
    sys.modules.pop("mynet", None)


def test_a_config_cannot_name_foreign_code():
    for key, target in [
        ("model", "os.system"),
        ("model", "yt8m.models.nn.torch.hub.load"),
        ("model", "yt8m.models.nn.nn.Module"),
        ("model", "yt8m.models.nn.Sequence"),
        ("model", "yt8m.models.nn.mlp"),
        ("model", "yt8m.models.nope.NN"),
        ("model", "yt8m.models.nn"),
        ("model", "yt8m.modelsx.nn.NN"),
        ("model", "yt8m.losses.BCE"),
        ("model", ""),
        ("model", None),
        ("model", 5),
        ("model", ["yt8m.models.nn.NN"]),
        ("loss", "yt8m.models.nn.NN"),
        ("loss", "yt8m.losses.F"),
        ("optimizer", "torch.optim.lr_scheduler.StepLR"),
        ("optimizer", "torch.optim.swa_utils.AveragedModel"),
        ("optimizer", "torch.load"),
        ("scheduler", "torch.load"),
        ("dataset", "yt8m.datamodules.sample.write_sample"),
        ("dataset", "yt8m.datamodules.sample.write_sample"),
        ("dataset", "yt8m.datamodules.dataset.ShardDataset"),
    ]:
        with pytest.raises(ConfigError, match=rf"^{key}\._target_: expected a (class|function)[^\n]*$"):
            build({"_target_": target}, key)
    for section in (None, "yt8m.models.nn.NN", []):
        with pytest.raises(ConfigError, match=r"^model: expected a section with _target_"):
            build(section, "model")


def test_trusted_packages_may_define_what_a_config_names(mynet):
    sizes = {"feature_sizes": {"rgb": 4}, "num_classes": 3}
    section = {"_target_": "mynet.MyNet", "hidden": 5}
    with pytest.raises(
        ConfigError, match=r"found mynet\.MyNet; if you trust mynet, set trusted_packages=\[mynet\]$"
    ):
        build(section, "model", **sizes)
    assert "mynet" not in sys.modules  # nothing of it ran
    for trusted in (["my"], ["mynet.sub"], ["torch"], [""]):
        with pytest.raises(ConfigError, match="if you trust mynet"):
            build(section, "model", trusted=trusted, **sizes)
    assert build(section, "model", trusted=[mynet], **sizes).layers[0].out_features == 5


def test_trust_does_not_change_the_kind(mynet):
    for key, name in [
        ("model", "write_something"),
        ("dataset", "MyNet"),
        ("optimizer", "MyNet"),
        ("loss", "torch"),
    ]:
        with pytest.raises(
            ConfigError, match=rf"^{key}\._target_: expected a class derived from .*mynet\.{name}$"
        ):
            build({"_target_": f"mynet.{name}"}, key, trusted=[mynet])
    for path in ("mynet.Nope", "mynet.sub.Nope"):
        with pytest.raises(ConfigError, match=rf"found nothing at {path}; is its package installed\?"):
            locate(path, "model", [mynet])


def test_errors_of_the_users_own_code_keep_their_traceback(mynet):
    with pytest.raises(ValueError, match="a bug of its own"):
        build({"_target_": "mynet.Broken"}, "model", trusted=[mynet])


def test_an_unknown_argument_is_reported_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"NN takes .*hidden_sizes.*unexpected keyword argument 'hiden'"):
        build({"_target_": "yt8m.models.nn.NN", "hiden": 1}, "model")


def test_a_refused_value_is_reported_in_one_line():
    with pytest.raises(
        ConfigError,
        match=r"^optimizer: torch\.optim\.Adam refuses its arguments: Invalid learning rate[^\n]*$",
    ):
        build({"_target_": "torch.optim.Adam", "lr": -1.0}, "optimizer", params=[])
    huge = {"_target_": "yt8m.models.nn.NN", "hidden_sizes": [10**7, 10**7]}
    with pytest.raises(
        ConfigError, match=r"^model: yt8m\.models\.nn\.NN refuses its arguments: [^\n]*allocate[^\n]*$"
    ):
        build(huge, "model", feature_sizes={"rgb": 4}, num_classes=3)


@pytest.mark.slow
def test_a_command_trains_and_evaluates_code_that_its_user_trusts(mynet, tiny_sample, tmp_path, capfd):
    record = train(
        tmp_path / "run",
        *(
            "model._target_=mynet.MyNet",
            "+model.hidden=6",
            "loss._target_=mynet.MyLoss",
            "trusted_packages=[mynet]",
        ),
        *(
            "trainer=cpu",
            "trainer.max_epochs=1",
            "dataset.batch_size=16",
            "dataset.num_workers=0",
            *tiny_sample,
        ),
    )
    assert record["params"] == 1152 * 6 + 6 + 6 * 40 + 40
    evaluate = [
        f"ckpt_path={tmp_path}/run/checkpoints/best.ckpt",
        "trainer=cpu",
        f"hydra.run.dir={tmp_path}/eval",
    ]
    with pytest.raises(SystemExit) as ended:
        run_command("eval", *evaluate)
    assert ended.value.code == 2
    assert "if you trust mynet, set trusted_packages=[mynet]" in capfd.readouterr().err
    run_command("eval", *evaluate, "trusted_packages=[mynet]")
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert evaluated["val/gap"] == pytest.approx(record["val/gap"], abs=1e-6)


def test_a_command_refuses_code_that_its_user_does_not_trust(mynet, tmp_path, tiny_sample, capfd):
    for overrides, says in [
        (["model._target_=mynet.MyNet"], "if you trust mynet, set trusted_packages=[mynet]"),
        (["dataset._target_=mynet.MyNet"], "if you trust mynet, set trusted_packages=[mynet]"),
        (["trusted_packages=[../mynet]"], "trusted_packages: expected names of Python packages"),
        (["trusted_packages=mynet"], "trusted_packages: expected names of Python packages"),
    ]:
        with pytest.raises(SystemExit) as ended:
            run_command("train", *tiny_sample, *overrides, f"hydra.run.dir={tmp_path}")
        assert ended.value.code == 2, overrides
        assert says in capfd.readouterr().err, overrides
    assert "mynet" not in sys.modules
