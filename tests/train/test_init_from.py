"""Weights of a checkpoint as the beginning of another training."""

import logging
import re

import torch

from tests.test_checkpoint import refusal
from tests.training import TINY, train
from yt8m.module import VideoClassifier
from yt8m.train.init_from import init_from


def classifier(num_classes=5, hidden_sizes=(4, 6), model=None, transform=None):
    return VideoClassifier(
        model=model or {"_target_": "yt8m.models.nn.NN", "hidden_sizes": list(hidden_sizes)},
        feature_sizes={"rgb": 3},
        num_classes=num_classes,
        loss={"_target_": "yt8m.losses.BCE"},
        optimizer={"_target_": "torch.optim.Adam", "lr": 0.1},
        transform=transform,
    )


def save(path, classifier, **changed):
    hparams = dict(classifier.hparams.items())
    torch.save({"state_dict": classifier.state_dict(), "hyper_parameters": hparams, **changed}, path)
    return path


def test_what_fits_is_copied_and_the_rest_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = classifier()
    path = save(tmp_path / "source.ckpt", source)
    for options, anew, not_used in [
        ({}, [], []),
        (
            {"num_classes": 7},
            ["classifier.weight [7, 6] (there [5, 6])", "classifier.bias [7] (there [5])"],
            [],
        ),
        ({"hidden_sizes": (4,)}, ["classifier.weight [5, 4] (there [5, 6])"], ["[6, 4]"]),
        ({"hidden_sizes": (4, 6, 6)}, ["[6, 6] (not there)"], []),
    ]:
        target = classifier(**options)
        before = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
        caplog.clear()
        init_from(path, target)
        (line,) = caplog.messages
        for text in (*anew, *not_used):
            assert text in line, options
        assert ("made anew" in line, "not used" in line) == (bool(anew), bool(not_used))
        theirs = source.model.state_dict()
        for name, tensor in target.model.state_dict().items():
            fits = name in theirs and theirs[name].shape == tensor.shape
            assert torch.equal(tensor, theirs[name] if fits else before[name]), name


def test_what_is_no_such_checkpoint_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    good, path = classifier(), tmp_path / "source.ckpt"
    huge = {"model.classifier.weight": torch.zeros(1).expand(5, 6)}
    for source, changed, target, says in [
        (good, {"state_dict": Code()}, good, "expected a checkpoint of yt8m.train"),
        (good, {"state_dict": huge}, good, "more than the file holds"),
        (good, {"hyper_parameters": {}}, good, "hyper_parameters.model should be a dictionary"),
        (
            *(good, {}, classifier(model={"_target_": "yt8m.models.keras_nn.KerasNN", "width": 0.01})),
            r"expected the weights of KerasNN in .*, found those of NN; choose its model",
        ),
        (good, {}, classifier(num_classes=7, hidden_sizes=(5, 9)), "none of the same name and shape"),
    ]:
        message = refusal(init_from, save(path, source, **changed), target)
        assert re.search(f"^init_from: .*{says}", message), message
    assert refusal(init_from, tmp_path / "none.ckpt", good).startswith(
        "init_from: expected a checkpoint, found"
    )
    assert not (tmp_path / "ran").exists()


def test_a_training_begins_with_the_averaged_weights_and_resumes_without_them(tmp_path, tiny_sample):
    common = [*TINY, *tiny_sample, "test=false"]
    train(tmp_path / "first", *common, "average=ema", "average.decay=0.8")
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    tuned = [*common, f"init_from={path}", "optimizer.lr=1e-12"]
    record = train(tmp_path / "tuned", *tuned, "trainer.max_epochs=1")
    assert record["init_from"] == str(path)
    expected = torch.load(path, weights_only=True)["state_dict"]
    saved = tmp_path / "tuned" / "checkpoints" / "last.ckpt"
    for name, tensor in torch.load(saved, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(tensor, expected[name])
    path.unlink()
    assert train(tmp_path / "tuned", *tuned, "ckpt_path=last")["epochs"] == 2


def test_the_input_transform_is_that_of_the_checkpoint_or_a_warning(tmp_path, caplog):
    standardize, l2 = ({"_target_": f"yt8m.transforms.{name}"} for name in ("Standardize", "L2"))
    source = classifier(transform=standardize)
    source.transform.scale.copy_(torch.tensor([2.0, 3.0, 4.0]))
    path = save(tmp_path / "source.ckpt", source)
    target = classifier(transform=standardize)
    init_from(path, target)
    assert target.transform.prepared
    assert target.transform.scale.tolist() == [2.0, 3.0, 4.0]
    assert "reads inputs of" not in caplog.text
    for other, name in ((None, "none"), (l2, "yt8m.transforms.L2")):
        init_from(path, classifier(transform=other))
        assert f"reads inputs of transform yt8m.transforms.Standardize, this run's of {name}" in caplog.text
