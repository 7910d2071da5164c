"""Checkpoints that are foreign, damaged, hostile, or of another run: one line each, and nothing runs or is written."""

import copy
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.training import TINY, run_command
from yt8m.checkpoint import describe_network, read_checkpoint
from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.restore import restore
from yt8m.train.session import lightning_session

ONE_LINE = re.compile(r"[^\n]+")
KEPT = {"root": None}  # the user's settings of the dataset: none


@pytest.fixture(scope="module")
def saved(tiny_run: Path) -> dict:
    """The content of a real checkpoint."""
    return torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def changed(saved, tmp_path):
    """Write a checkpoint in which the value at a path of keys is another; `...` removes it."""

    def write(keys: str, value: object) -> Path:
        content = copy.deepcopy(saved)
        *parents, last = (int(key) if key.isdigit() else key for key in keys.split("/"))
        place = content
        for key in parents:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


def refusal(function, *arguments, **keywords) -> str:
    """The one line in which a ConfigError says why."""
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert ONE_LINE.fullmatch(message)
    assert len(message) < 700
    return message


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "some.ckpt"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 half a zip"):
        path.write_bytes(content)
        assert f"expected a checkpoint of yt8m.train at {path}; " in refusal(read_checkpoint, path)
    for content in ([1], {}, {"state_dict": {}}, {"state_dict": {}, "hyper_parameters": "x"}, torch.ones(2)):
        torch.save(content, path)
        assert f"expected a checkpoint of yt8m.train at {path}; " in refusal(read_checkpoint, path)


def test_a_part_of_the_wrong_type_is_named(changed):
    for keys, value, says in [
        ("state_dict", ..., "state_dict should be a dictionary, found nothing"),
        ("state_dict", "x", "state_dict should be a dictionary, found a str"),
        ("state_dict", {}, "expected the weights of the network that it describes"),
        ("state_dict", {"model.classifier.bias": "x"}, "in its state_dict is no tensor"),
        ("hyper_parameters", ..., "hyper_parameters should be a dictionary, found nothing"),
        ("hyper_parameters/config", ..., "the run's configuration .* should be a dictionary, found nothing"),
        ("hyper_parameters/config", None, "the run's configuration .* should be a dictionary, found nothing"),
        ("hyper_parameters/config/dataset", ..., "config.dataset should be a dictionary, found nothing"),
        ("hyper_parameters/config/dataset", "sample", "config.dataset should be a dictionary, found a str"),
        ("hyper_parameters/config/dataset", {}, "dataset._target_: expected a class .* found nothing"),
        ("hyper_parameters/config/seed", "x", "config.seed should be a whole number, found a str"),
        ("hyper_parameters/model", "x", "hyper_parameters.model should be a dictionary, found a str"),
        ("hyper_parameters/model", {}, "model._target_: expected a class .* found nothing"),
        ("hyper_parameters/loss", {}, "loss._target_: expected a class .* found nothing"),
        ("hyper_parameters/loss", None, "hyper_parameters.loss should be a dictionary, found nothing"),
        ("hyper_parameters/feature_sizes", {"rgb": "x"}, "model: .* refuses its arguments|feature_sizes"),
        ("hyper_parameters/num_classes", ..., "num_classes"),
        ("hyper_parameters/num_classes", "x", "num_classes"),
        ("hyper_parameters/normalize", "l3", "normalize: expected none or l2, found 'l3'"),
        ("hyper_parameters/gradient_clip", {"norm": 1.0}, "gradient_clip.per: expected .*found"),
        ("hyper_parameters/gradient_clip", "x", "gradient_clip: expected"),
        ("hyper_parameters/vocabulary", "x", "vocabulary: expected rows of texts"),
        ("hyper_parameters/vocabulary", [["one"]], "vocabulary: expected 40 rows, one per class, found 1"),
        ("hyper_parameters/vocabulary", [[]] * 40, "vocabulary"),
        ("hyper_parameters/level", 5, "level: expected frame, video or segment, found 5"),
        ("hyper_parameters/_instantiator", "os.system", "unknown argument '_instantiator'"),
    ]:
        message = refusal(restore, str(changed(keys, value)), Path(), KEPT)
        assert re.search(says, message), (keys, value, message)


def test_a_checkpoint_cannot_name_foreign_code_or_trust_it(changed, tmp_path):
    target = tmp_path / "written"
    writer = {"_target_": "yt8m.datamodules.sample.write_sample", "root": str(target), "train_videos": 20}
    for keys, value in [
        ("hyper_parameters/model", {"_target_": "os.system", "command": f"touch {target}"}),
        ("hyper_parameters/model", {"_target_": "pathlib.Path.touch"}),
        ("hyper_parameters/loss", {"_target_": "os.system", "command": f"touch {target}"}),
        ("hyper_parameters/config/dataset", writer),
        (
            "hyper_parameters/config/dataset",
            {**writer, "_target_": "yt8m.datamodules.sample.write_sample"},
        ),
        ("hyper_parameters/config/dataset", {**writer, "_target_": "shutil.rmtree"}),
    ]:
        path = changed(keys, value)
        content = torch.load(path, weights_only=True)
        content["hyper_parameters"]["config"]["trusted_packages"] = ["os", "shutil", "pathlib", "yt8m"]
        content["hyper_parameters"]["trusted_packages"] = ["os", "shutil", "pathlib", "yt8m"]
        torch.save(content, path)
        assert "_target_: expected a class derived from" in refusal(restore, str(path), Path(), KEPT)
    assert not target.exists()


def test_nothing_is_written_where_only_a_checkpoint_says_so(changed, tmp_path):
    """The embedded sample writes itself on first use, but not to a folder that a stranger's checkpoint names."""
    target = tmp_path / "written"
    path = changed("hyper_parameters/config/dataset/root", str(target))
    _, _, datamodule = restore(str(path), Path(), KEPT)
    datamodule.prepare_data()
    assert "dataset.root: expected" in refusal(datamodule.setup, "validate")
    assert not target.exists()
    _, _, datamodule = restore(str(path), Path(), {"root": str(target)})
    datamodule.prepare_data()
    assert target.is_dir()


def test_sizes_beyond_the_file_are_refused_before_they_are_allocated(changed, saved):
    network = {**saved["hyper_parameters"]["model"]}
    for keys, value in [
        ("hyper_parameters/num_classes", 10**7),
        ("hyper_parameters/num_classes", 10**15),
        ("hyper_parameters/feature_sizes", {"rgb": 10**9, "audio": 10**9}),
        ("hyper_parameters/model", {**network, "mlp_sizes": {"rgb": [10**6, 10**6], "audio": [10**6]}}),
        ("hyper_parameters/model", {**network, "projection_size": 10**7, "hidden_sizes": {"rgb": 10**7}}),
        ("hyper_parameters/model", {**network, "num_layers": 10**9}),
        ("hyper_parameters/model", {**network, "width": 1e30}),
        ("hyper_parameters/model", {**network, "width": float("nan")}),
    ]:
        assert refusal(VideoClassifier.load_from_checkpoint, changed(keys, value)), (keys, value)
    # A tensor of 4 TB that takes 4 bytes of the file.
    huge = torch.zeros(1).expand(10**6, 10**6)
    path = changed("state_dict/model.classifier.weight", huge)
    assert "more than the file holds" in refusal(VideoClassifier.load_from_checkpoint, path)


def test_a_network_is_described_by_what_differs(saved):
    hparams = saved["hyper_parameters"]
    found = describe_network(hparams)
    assert (found[""], found["classes"], found["projection_size"]) == ("NNStreamLSTM", 40, 16)


def resume(path: Path, folder: Path, *overrides: str) -> str:
    """What `yt8m.train` says about resuming from a checkpoint that it refuses."""
    with pytest.raises(SystemExit) as ended:
        run_command("train", f"ckpt_path={path}", f"hydra.run.dir={folder}", "trainer=cpu", *overrides)
    assert ended.value.code == 2
    (line,) = (line for line in (folder / "train.log").read_text().splitlines() if "error: " in line)
    return line.partition("error: ")[2]


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tiny_run, tiny_sample, tmp_path):
    path = tiny_run / "checkpoints" / "last.ckpt"
    for number, (overrides, says) in enumerate(
        [
            (
                ["model.projection_size=24"],
                "is of NNStreamLSTM with projection_size 16; this run has NNStreamLSTM with projection_size 24; set",
            ),
            (["model=nn"], "is of NNStreamLSTM with .*; this run has NN with .*hidden_sizes .*; set"),
            (
                ["dataset.num_classes=50"],
                "is of NNStreamLSTM with 40 classes; this run has NNStreamLSTM with 50 classes",
            ),
            (
                ["weight_decay={classifier: 1e-8}"],
                r"was trained with weight_decay \{\}; this run has \{'classifier': 1e-08\}; set the same",
            ),
            (["optimizer=sgd"], r"was trained with torch\.optim\.Adam; this run has torch\.optim\.SGD; set"),
        ]
    ):
        data = tiny_sample
        if "num_classes" in overrides[0]:
            data = [f"dataset.root={tmp_path / 'data'}", *tiny_sample[1:]]
        model = [] if overrides == ["model=nn"] else TINY[:4]
        message = resume(path, tmp_path / str(number), *model, *TINY[4:], *data, *overrides)
        assert re.search(rf"^ckpt_path: the checkpoint at {path} {says}", message), message


@pytest.mark.slow
def test_a_state_of_training_that_is_damaged_is_refused(changed, saved, tiny_sample, tmp_path):
    names = saved["optimizer_states"][0]["param_groups"][0]["params"]
    groups = [{"params": names[:1]}, {"params": names[1:]}]
    for number, (keys, value, says) in enumerate(
        [
            ("optimizer_states", ..., "optimizer_states should be a list, found nothing"),
            ("optimizer_states", "x", "optimizer_states should be a list, found a str"),
            ("optimizer_states", [], "expected the state of one optimizer"),
            ("optimizer_states/0", {}, "optimizer_states.state should be a dictionary"),
            ("optimizer_states/0/param_groups", [{}], "expected the state of an optimizer of"),
            ("optimizer_states/0/param_groups", groups, r"groups of \[\d+\] tensors .*, found \[1, \d+\]"),
            ("loops", ..., "loops should be a dictionary, found nothing"),
            ("loops", {}, "loops.fit_loop should be a dictionary, found nothing"),
            ("loops/fit_loop/epoch_progress", "x", "loops.fit_loop.epoch_progress should be a dictionary"),
            ("callbacks", "x", "callbacks should be a dictionary, found a str"),
            ("callbacks/RunStats", {}, "expected the state of RunStats"),
            ("lr_schedulers", None, "lr_schedulers should be a list"),
            ("train_loss", "x", "train_loss should be a dictionary"),
            ("SampleDataModule", ..., "expected the position in a dataset of SampleDataModule"),
            ("SampleDataModule", {}, "SampleDataModule.epoch should be a whole number"),
            ("epoch", "x", "epoch should be a whole number"),
        ]
    ):
        message = resume(changed(keys, value), tmp_path / str(number), *TINY, *tiny_sample)
        assert message.startswith("ckpt_path: "), (keys, value, message)
        assert re.search(says, message), (keys, value, message)


class OwnNet(torch.nn.Module):
    """Says nothing of what it needs."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.layer = torch.nn.Linear(4, num_classes)

    def forward(self, video, frames, num_frames):
        return self.layer(video)


def own_loss(logits, labels, mask=None):
    return (logits - labels.float()).square().mean()


def own(**arguments) -> VideoClassifier:
    return VideoClassifier(
        **{
            "model": OwnNet(),
            "feature_sizes": {"rgb": 4},
            "num_classes": 3,
            "loss": own_loss,
            "optimizer": partial(torch.optim.SGD, lr=0.5),
            **arguments,
        }
    )


def test_objects_of_ones_own_train_save_and_load(tmp_path):
    rng = np.random.default_rng(0)
    batches = [
        Batch(
            ids=["a", "b"],
            features=torch.from_numpy(rng.integers(0, 256, (5, 4), dtype=np.uint8)),
            num_frames=torch.tensor([2, 3]),
            label_index=torch.tensor([[0, 1], [1, 2]]),
        )
    ]
    classifier = own()
    assert classifier.needs_frames
    assert classifier.needs_video
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    before = classifier.model.layer.weight.clone()
    with lightning_session():
        trainer.fit(classifier, loader, loader)
    assert not torch.equal(before, classifier.model.layer.weight)
    path = tmp_path / "own.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)["hyper_parameters"]
    assert content["model"]["_instance_"].endswith("test_checkpoint.OwnNet")
    assert content["loss"]["_instance_"].endswith("test_checkpoint.own_loss")

    again = VideoClassifier.load_from_checkpoint(path, model=OwnNet(), loss=own_loss)
    assert torch.equal(again.model.layer.weight, classifier.model.layer.weight)
    assert "optimizer: the checkpoint was saved with an object of" in refusal(again.configure_optimizers)
    message = refusal(VideoClassifier.load_from_checkpoint, path, loss=own_loss)
    assert re.search(
        r"^model: the checkpoint was saved with an object of .*OwnNet, .* pass it in Python: .*model=…",
        message,
    )
    assert "loss: the checkpoint was saved" in refusal(
        VideoClassifier.load_from_checkpoint, path, model=OwnNet()
    )
    message = refusal(VideoClassifier.load_from_checkpoint, path, model=OwnNet(5), loss=own_loss)
    assert message.startswith("ckpt_path: expected the weights of this network")
    assert "weights_only: expected true" in refusal(
        VideoClassifier.load_from_checkpoint, path, weights_only=False
    )


def test_what_is_neither_section_nor_object_is_refused():
    for arguments, says in [
        ({"model": "nn"}, r"^model: expected a section or a torch\.nn\.Module, found 'nn'"),
        ({"model": OwnNet}, r"^model: expected a section or a torch\.nn\.Module, found <class"),
        ({"loss": "bce"}, r"^loss: expected a section or a function, found 'bce'"),
        ({"num_classes": 0}, r"^num_classes: expected a whole number from 1 to 10,000,000, found 0$"),
        ({"feature_sizes": {}}, r"^feature_sizes: expected names and sizes of features, found {}$"),
        ({"level": "video"}, r"OwnNet needs frames, expected level frame"),
    ]:
        message = refusal(own, **arguments)
        assert re.search(says, message), message
    for optimizer in ("adam", torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda parameters: None):
        assert "optimizer: expected a section, or a function" in refusal(
            own(optimizer=optimizer).configure_optimizers
        )
