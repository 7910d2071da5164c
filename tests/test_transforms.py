"""Input transforms against their definitions, what a checkpoint keeps of them, and what they refuse."""

import re
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.test_module import QUIET, classifier, expected_frames
from tests.training import TINY, run_command, train
from yt8m.datamodules.batch import Batch
from yt8m.datamodules.sample import SampleDataModule
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import Ensemble
from yt8m.transforms import L2, ReverseWhiten, Standardize

SIZES = {"rgb": 6, "audio": 2}
NAMES = "yt8m.transforms."


@pytest.fixture
def videos():
    features = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 8), dtype=np.uint8))
    return Batch(["a", "b", "c"], features, torch.tensor([3, 1, 7]), torch.tensor([[0, 1], [0, 4], [2, 0]]))


def no_sample(limit):
    raise AssertionError("reads no training data")


def whitening(tmp_path: Path, values=None, **arguments) -> ReverseWhiten:
    path = tmp_path / "eigenvals.npy"
    np.save(path, np.linspace(9, 1, 8)[:, None] if values is None else values)
    return ReverseWhiten(**{"feature_sizes": SIZES, "path": str(path), **arguments})


def prepared(transform, vectors):
    """A transform with values from `vectors` `[N, D]`, read in unequal parts by three ranks."""
    gathered = []
    for share in (vectors[::3], vectors[1::3], vectors[2::3]):
        with pytest.raises(StopIteration):
            transform.prepare(
                lambda limit, share=share: iter(share.split([2, len(share) - 2])), collect(gathered)
            )
    transform.prepare(lambda limit: iter(()), lambda own: gathered)
    return transform


def collect(gathered):
    def gather(own):
        gathered.append(own)
        raise StopIteration

    return gather


def test_standardize_is_that_of_numpy_whatever_the_ranks_and_batches():
    vectors = torch.randn(50, 8) * torch.arange(1, 9) + 100
    vectors[:, 3] = 0.1  # constant: inexact in binary
    vectors[:, 5] = 0
    transform = prepared(Standardize(feature_sizes=SIZES), vectors)
    whole = vectors.numpy().astype(np.float64)
    deviation = whole.std(axis=0)
    deviation[[3, 5]] = 1
    expected = (whole - whole.mean(axis=0)) / deviation
    assert np.abs(expected[:, [3, 5]]).max() < 1e-6
    np.testing.assert_allclose(transform(vectors).numpy(), expected, atol=2e-5)


def test_standardize_does_not_lose_digits_to_a_large_mean():
    vectors = 1e4 + torch.randn(3000, 8)
    transform = prepared(Standardize(feature_sizes=SIZES), vectors)
    np.testing.assert_allclose(1 / transform.scale, vectors.double().std(0, correction=0), rtol=1e-6)


def test_reverse_whiten_undoes_the_shift_and_the_whitening_of_rgb_alone(tmp_path):
    x = torch.randn(4, 8)
    eigenvalues = np.linspace(9, 1, 8)
    for values in (eigenvalues, eigenvalues[:, None], eigenvalues.astype(np.float32)):
        transform = whitening(tmp_path, values)
        transform.prepare(no_sample, no_sample)
        expected = x.numpy().astype(np.float64)
        expected[:, :6] = (expected[:, :6] - 4 / 512) * (np.sqrt(eigenvalues[:6]) + 1e-4)
        np.testing.assert_allclose(transform(x).numpy(), expected, atol=1e-5)
        assert torch.equal(transform(x)[:, 6:], x[:, 6:])
    for sizes in ({"mean_audio": 2, "mean_rgb": 6}, {"audio": 2, "rgb": 6}):
        transform = whitening(tmp_path, feature_sizes=sizes)
        transform.prepare(no_sample, no_sample)
        assert (transform.scale != 1).tolist() == [False] * 2 + [True] * 6, sizes


def test_files_that_hold_no_eigenvalues_are_refused_in_one_line(tmp_path):
    empty, archive, pickled = (tmp_path / name for name in ("empty.npy", "some.npz", "pickled.npy"))
    empty.touch()
    np.savez(archive, np.ones(8))
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    cases = [(tmp_path / "none.npy", "No such file"), (empty, ""), (archive, "found an archive")]
    cases.append((pickled, "[Pp]ickle|object|allow_pickle|Python"))
    cases.append((tmp_path, "directory"))
    for path, says in cases:
        with pytest.raises(
            ConfigError, match=rf"^transform\.path: [^\n]*{re.escape(str(path))}[^\n]*({says})[^\n]*$"
        ):
            ReverseWhiten(feature_sizes=SIZES, path=str(path)).prepare(no_sample, no_sample)
    for values, says in [
        (np.ones(5), r"found shape \[5\]"),
        (np.ones((8, 2)), r"found shape \[8, 2\]"),
        (np.float64(1), r"found shape \[\]"),
        (np.array([1, 1, 0, 1, 1, 1.0]), "above 0, found 0.0 as number 2"),
        (np.array([np.nan] * 6), "finite.* found nan"),
        (np.array(["1"] * 6), "found <U1"),
        (np.ones(6, dtype=complex), "found complex128"),
    ]:
        with pytest.raises(ConfigError, match=rf"^transform\.path: expected a NumPy file of 6 .*{says}"):
            whitening(tmp_path, values).prepare(no_sample, no_sample)
    with pytest.raises(
        ConfigError, match=r"^transform\.feature: expected .* found 'flow' for features rgb, audio"
    ):
        whitening(tmp_path, feature="flow")


def test_every_vector_is_transformed_and_padding_stays_zero(videos):
    expected = expected_frames(videos, 7)
    valid = np.arange(7) < videos.num_frames.numpy()[:, None]
    mean = expected.sum(1) / videos.num_frames.numpy()[:, None]
    frames_alone = expected[valid]
    transform = prepared(Standardize(feature_sizes=SIZES), torch.from_numpy(frames_alone))
    shift, scale = frames_alone.mean(0), 1 / frames_alone.std(0)
    for model, has_frames in (("bi_lstm", True), ("nn", False)):
        video, frames, _ = classifier(model, transform=transform).inputs(videos, video=True)
        np.testing.assert_allclose(video.numpy(), (mean - shift) * scale, atol=1e-5)
        if has_frames:
            np.testing.assert_allclose(frames.numpy()[valid], (frames_alone - shift) * scale, atol=1e-5)
            assert not frames.numpy()[~valid].any()
    features = torch.randn(2, 8)
    vectors = Batch(["a", "b"], features, torch.ones(2, dtype=torch.int64))
    video, _, _ = classifier("nn", level="video", transform=L2(feature_sizes=SIZES)).inputs(vectors)
    torch.testing.assert_close(video, features / features.norm(dim=1, keepdim=True))


def test_normalize_is_the_earlier_name_of_l2(videos):
    l2 = {"_target_": NAMES + "L2"}
    models = [classifier(transform=l2), classifier(normalize="l2"), classifier(transform=l2, normalize="l2")]
    inputs = [model.inputs(videos, video=True) for model in models]
    assert all(torch.equal(one[0], inputs[0][0]) and torch.equal(one[1], inputs[0][1]) for one in inputs)
    assert all(model.hparams.transform == l2 and model.hparams.normalize == "none" for model in models)
    with pytest.raises(
        ConfigError, match=r"^normalize: expected none beside transform .*Standardize, found l2; leave"
    ):
        classifier(transform={"_target_": NAMES + "Standardize"}, normalize="l2")


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_transform_without_values_says_so(videos):
    model = classifier(transform={"_target_": NAMES + "Standardize"})
    with pytest.raises(ConfigError, match="Standardize has no values before training starts"):
        model.inputs(videos)
    with pytest.raises(
        ConfigError, match=r"^transform\._target_: expected a class .* found yt8m\.losses\.BCE"
    ):
        classifier(transform={"_target_": "yt8m.losses.BCE"})
    with pytest.raises(ConfigError, match=r"^transform: expected a section or a Transform, found 'l2'"):
        classifier(transform="l2")
    trainer = pl.Trainer(**QUIET, max_epochs=1)
    with pytest.raises(
        ConfigError, match=r"reads the training shards, expected a YT8MDataModule, found none"
    ):
        trainer.fit(model, train_dataloaders=[videos])


def test_the_sample_of_the_training_shards(tiny_sample, standardized_run):
    root = tiny_sample[0].removeprefix("dataset.root=")
    sizes = {"rgb": 1024, "audio": 128}
    shards = {"root": root, "features": sizes, "num_classes": 40, "train": "train/*.tfrecord"}
    module = SampleDataModule(**shards, num_workers=0, batch_size=16, sample={})
    module.setup("fit")
    whole = [name for batch in module.training_sample(None) for name in batch.ids]
    assert len(whole) == len(set(whole)) == 100
    few = [name for batch in module.training_sample(37) for name in batch.ids]
    assert few == whole[:37]
    module.limit_videos = 20
    assert len([name for batch in module.training_sample(37) for name in batch.ids]) == 20


@pytest.fixture(scope="module")
def standardized_run(tmp_path_factory, tiny_sample):
    folder = tmp_path_factory.mktemp("standardized")
    train(
        folder,
        *TINY,
        *tiny_sample,
        "transform=standardize",
        "trainer.max_epochs=1",
        "transform.max_videos=40",
    )
    return folder


def test_a_checkpoint_keeps_what_the_transform_knows(standardized_run, tmp_path, tiny_sample):
    path = standardized_run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    scale = content["state_dict"]["transform.scale"]
    assert scale.isfinite().all()
    assert not torch.equal(scale, torch.ones_like(scale))
    restored = VideoClassifier.load_from_checkpoint(path)
    assert torch.equal(restored.transform.scale, scale)
    run_command("eval", f"ckpt_path={path}", "trainer=cpu", f"hydra.run.dir={tmp_path / 'eval'}")

    # A resumed run keeps the values, although another sample would give others.
    again = "ckpt_path=last", "trainer.max_epochs=2"
    train(standardized_run, *TINY, *tiny_sample, "transform=standardize", "transform.max_videos=3", *again)
    resumed = torch.load(path, weights_only=True)
    assert resumed["epoch"] > content["epoch"]
    assert torch.equal(resumed["state_dict"]["transform.scale"], scale)

    with pytest.raises(SystemExit):
        train(tmp_path / "other", *TINY, *tiny_sample, f"ckpt_path={path}")
    says = "was trained with transform yt8m.transforms.Standardize; this run has none; set the same transform"
    assert says in (tmp_path / "other" / "train.log").read_text()


def test_an_ensemble_shares_inputs_only_where_the_transform_is_the_same(standardized_run, tiny_run):
    plain = VideoClassifier.load_from_checkpoint(tiny_run / "checkpoints" / "last.ckpt").eval()
    path = standardized_run / "checkpoints" / "last.ckpt"
    one, same, other = (VideoClassifier.load_from_checkpoint(path).eval() for _ in range(3))
    other.transform.shift += 1
    count = []
    for model in (one, same, other, plain):
        model.inputs = lambda *args, inner=model.inputs, **keys: count.append(1) or inner(*args, **keys)
    frames = torch.randint(0, 256, (5, 1152), dtype=torch.uint8)
    videos = Batch(["a", "b"], frames, torch.tensor([3, 2]))
    models = [one, same, other, plain]
    scores = Ensemble(models, [0.4, 0.3, 0.2, 0.1]).predict_step(videos, 0)
    assert len(count) == 3
    expected = sum(w * m.predict_step(videos, 0) for w, m in zip([0.4, 0.3, 0.2, 0.1], models, strict=True))
    torch.testing.assert_close(scores, expected)


def test_old_checkpoints_load(tiny_run, tmp_path):
    content = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    del content["hyper_parameters"]["transform"]
    content["hyper_parameters"]["normalize"] = "l2"
    torch.save(content, tmp_path / "old.ckpt")
    assert isinstance(VideoClassifier.load_from_checkpoint(tmp_path / "old.ckpt").transform, L2)
