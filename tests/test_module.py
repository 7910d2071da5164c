"""What happens to a batch before the network, and to rates behind it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yt8m.datamodules.dataset import Batch
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.schedulers import cosine, exponential

SIZES = {"rgb": 6, "audio": 2}
QUIET = {
    "limit_val_batches": 0,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def classifier(model="bi_lstm", **options):
    target = {"bi_lstm": "yt8m.models.bi_lstm.BiLSTM", "nn": "yt8m.models.nn.NN"}[model]
    width = {"hidden_size": 4} if model == "bi_lstm" else {"hidden_sizes": [4]}
    arguments = {
        "model": {"_target_": target, **width},
        "feature_sizes": SIZES,
        "num_classes": 5,
        "loss": {"_target_": "yt8m.losses.BCE"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1},
        "max_frames": 9,
    }
    return VideoClassifier(**{**arguments, **options})


@pytest.fixture
def batch():
    num_frames = torch.tensor([3, 1, 7])
    features = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 8), dtype=np.uint8))
    return Batch(["a", "b", "c"], features, num_frames, torch.tensor([[0, 1], [0, 4], [2, 0]]))


def expected_frames(batch, length):
    """Written from the definition, video by video."""
    frames, start = np.zeros((3, length, 8)), 0
    for row, count in enumerate(batch.num_frames.tolist()):
        values = batch.features[start : start + count].numpy().astype(float)
        frames[row, :count] = values * (4 / 255) + (4 / 512 - 2)
        start += count
    return frames


@pytest.mark.parametrize(("pad_to", "length"), [("longest", 7), ("max", 9)])
def test_frames_are_dequantized_and_then_padded_with_zeros(batch, pad_to, length):
    video, frames, num_frames = classifier(pad_to=pad_to).inputs(batch, video=True)
    expected = expected_frames(batch, length)
    np.testing.assert_allclose(frames.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(video.numpy(), expected.sum(1) / np.array([[3], [1], [7]]), atol=1e-6)
    assert num_frames.tolist() == [3, 1, 7]


def test_dequantization_spans_the_published_range_or_that_of_the_dataset(batch):
    batch.features[0, 0], batch.features[0, 1] = 0, 255
    for options, low, high in (({}, -1.9921875, 2.0078125), ({"quantization": [0, 1]}, 1 / 512, 1 + 1 / 512)):
        _, frames, _ = classifier(**options).inputs(batch)
        assert frames[0, 0, 0] == pytest.approx(low), options
        assert frames[0, 0, 1] == pytest.approx(high), options


def test_float_frames_are_not_dequantized(batch):
    batch.features = torch.randn(11, 8)
    _, frames, _ = classifier().inputs(batch)
    assert torch.equal(frames[2], batch.features[4:])


def test_the_mean_is_computed_only_for_networks_that_read_it(batch):
    video, frames, _ = classifier("bi_lstm").inputs(batch)
    assert video is None
    assert frames is not None
    assert classifier("bi_lstm").inputs(batch, video=True)[0] is not None


def test_a_batch_on_a_device_is_never_read_from_the_host(batch):
    """Reading a value of a meta tensor raises; reading one from a GPU would force a sync."""
    moved = batch.to("meta")
    for model, frames_shape in (("bi_lstm", (3, 7, 8)), ("nn", None)):
        _, frames, num_frames = classifier(model).to("meta").inputs(moved)
        assert (frames if frames is None else frames.shape) == frames_shape
        assert num_frames is moved.num_frames


def test_a_network_of_video_vectors_gets_the_mean_and_no_frames(batch):
    video, frames, _ = classifier("nn").inputs(batch)
    assert frames is None
    np.testing.assert_allclose(video.numpy(), expected_frames(batch, 7).sum(1) / [[3], [1], [7]], atol=1e-6)


def test_l2_scales_every_frame_and_the_mean_vector(batch):
    video, frames, _ = classifier(normalize="l2").inputs(batch, video=True)
    expected = expected_frames(batch, 7)
    mean = expected.sum(1) / [[3], [1], [7]]
    np.testing.assert_allclose(video.numpy(), mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    norms = np.linalg.norm(expected, axis=2, keepdims=True)
    np.testing.assert_allclose(
        frames.numpy(), np.divide(expected, norms, where=norms > 0, out=np.zeros_like(expected)), atol=1e-6
    )


def test_video_level_vectors_pass_as_they_are():
    features = torch.randn(2, 8)
    batch = Batch(["a", "b"], features, torch.ones(2, dtype=torch.int64), torch.tensor([[0, 1]]))
    video, frames, _ = classifier("nn", level="video").inputs(batch)
    assert torch.equal(video, features)
    assert frames is None


def test_labels_become_dense(batch):
    assert classifier().labels(batch).tolist() == [
        [False, True, False, False, True],
        [False] * 5,
        [True, False, False, False, False],
    ]


def test_a_partition_without_labels_is_an_error(batch):
    batch.label_index = None
    with pytest.raises(ConfigError, match="expected labels, found a partition without any"):
        classifier().labels(batch)


def test_an_empty_batch_changes_no_gradient():
    model = classifier()
    empty = Batch([], torch.empty(0, 8, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    model.training_step(empty, 0).backward()
    assert all(not p.grad.any() for p in model.parameters())


def rates(schedule, steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_exponential_falls_in_steps_of_examples():
    found = rates(exponential, 7, examples_per_step=100, total_steps=7, decay=0.5, every_examples=300)
    assert found == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5]
    smooth = rates(
        exponential, 4, examples_per_step=100, total_steps=4, decay=0.5, every_examples=300, staircase=False
    )
    assert smooth == pytest.approx([2 * 0.5 ** (step / 3) for step in range(4)])


def test_cosine_without_an_end_names_the_keys_that_give_it_one():
    with pytest.raises(ConfigError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        rates(cosine, 1, examples_per_step=1, total_steps=float("inf"))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("source", ["data module", "loader", "batch sampler"])
def test_the_exponential_schedule_counts_examples_without_a_configuration(source):
    import pytorch_lightning as pl

    loader = Batches(_batch_of(4) for _ in range(6))
    module = None
    if source == "loader":
        loader.batch_size = 4
    elif source == "batch sampler":
        loader.batch_sampler = SimpleNamespace(batch_size=4)
    else:
        module = pl.LightningDataModule()
        module.batch_size = 4
        module.train_dataloader = lambda: loader
    schedule = {"_target_": "yt8m.schedulers.exponential", "decay": 0.5, "every_examples": 12}
    model = classifier("nn", scheduler=schedule)
    trainer = pl.Trainer(**QUIET, max_epochs=1)
    trainer.fit(model, **({"datamodule": module} if module else {"train_dataloaders": loader}))
    # 6 batches of 4 are 24 examples: two halvings of 0.1.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_schedule_of_examples_without_any_batch_size_says_what_is_missing():
    import pytorch_lightning as pl

    schedule = {"_target_": "yt8m.schedulers.exponential"}
    trainer = pl.Trainer(**QUIET, max_epochs=1)
    with pytest.raises(ConfigError, match="expected a data module or loader with a batch_size"):
        trainer.fit(classifier("nn", scheduler=schedule), train_dataloaders=Batches([_batch_of(2)]))


def test_the_mean_loss_weighs_videos_equally():
    from yt8m.metrics import MeanLoss

    mean = MeanLoss()
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor(5.0), 1)
    assert float(mean.compute()) == 2.0


class Batches(list):
    """A loader that is neither torch's nor ours."""


def _batch_of(size):
    features = torch.randint(0, 256, (size, 8), dtype=torch.uint8)
    labels = torch.stack([torch.arange(size), torch.arange(size) % 5], dim=1)
    return Batch([str(i) for i in range(size)], features, torch.ones(size, dtype=torch.int64), labels)


def test_cosine_warms_up_and_falls_to_its_end():
    found = rates(cosine, 101, examples_per_step=1, total_steps=100, warmup=0.1, final=0.25)
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert found[10] == pytest.approx(2.0)
    assert found[55] == pytest.approx(2 * (0.25 + 0.75 / 2))
    assert found[100] == pytest.approx(0.5)


def test_a_network_of_frames_refuses_video_level_data():
    with pytest.raises(
        ConfigError, match=r"dataset\.level: BiLSTM needs frames, expected level frame or segment"
    ):
        classifier("bi_lstm", level="video")


def test_a_network_may_have_a_training_loss_of_its_own(batch):
    class Doubled(torch.nn.Linear):
        needs_video, needs_frames = True, False

        def forward(self, video, frames, num_frames):
            return super().forward(video)

        def training_loss(self, inputs, labels, mask, loss):
            return 2 * loss(self(*inputs), labels, mask)

    network = Doubled(8, 5)
    arguments = {"loss": {"_target_": "yt8m.losses.BCE"}, "optimizer": torch.optim.SGD}
    one = VideoClassifier(model=network, feature_sizes=SIZES, num_classes=5, **arguments)
    one.log = lambda *_, **__: None
    expected = 2 * one.loss(network(*one.inputs(batch)), one.labels(batch), None)
    assert one.training_step(batch, 0).equal(expected)
    assert one.train_loss.compute() == expected
