"""What training minimizes, against loops over videos."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.losses import BCE
from yt8m.module import VideoClassifier
from yt8m.objective import Mix, drop_streams, splice, subsample

SIZES = {"rgb": 6, "audio": 2}
CLASSES = 5


class Recorder(torch.nn.Module):
    """A linear network of the mean and the frames that keeps what it was given."""

    needs_video, needs_frames = True, True

    def __init__(self):
        super().__init__()
        self.classifier = torch.nn.Linear(sum(SIZES.values()), CLASSES)

    def forward(self, video, frames, num_frames):
        self.given = video, frames, num_frames
        return self.classifier(video if frames is None else video + frames.sum(1))


def squared_error(logits, labels, mask):
    return (logits - labels.float()).square().sum(1).mean()


def classifier(level="frame", feature_sizes=SIZES, **objective):
    torch.manual_seed(0)
    network = Recorder()
    network.needs_frames = level != "video"
    return VideoClassifier(
        model=network,
        feature_sizes=feature_sizes,
        num_classes=CLASSES,
        loss=squared_error,
        optimizer=torch.optim.SGD,
        objective=objective,
        level=level,
    )


@pytest.fixture
def batch():
    num_frames = torch.tensor([3, 1, 7, 4])
    features = torch.randn(15, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1], [0, 4], [2, 0], [3, 3]])
    return Batch([*"abcd"], features, num_frames, labels)


def test_without_settings_it_is_the_loss_of_the_network(batch):
    model = classifier()
    loss = model.objective(model, batch)
    expected = squared_error(model(*model.inputs(batch)), model.labels(batch), None)
    assert loss == expected
    assert VideoClassifier(
        **{**model.hparams, "model": model.model, "loss": squared_error, "objective": None}
    )


def test_mixup_mixes_vectors_frames_lengths_and_labels_alike(batch):
    model = classifier(mixup=0.8)
    torch.manual_seed(5)
    loss = model.objective(model, batch)
    torch.manual_seed(5)
    mix = Mix.draw(4, 0.8, torch.device("cpu"))
    assert sorted(mix.partner.tolist()) == [0, 1, 2, 3]
    assert (mix.partner != torch.arange(4)).any()

    video, frames, num_frames = model.inputs(batch)
    labels = model.labels(batch)
    mixed_video, mixed_frames, mixed_lengths = model.model.given
    total = 0.0
    for row, (share, other) in enumerate(zip(mix.share.tolist(), mix.partner.tolist(), strict=True)):
        torch.testing.assert_close(mixed_video[row], share * video[row] + (1 - share) * video[other])
        for time in range(7):
            own = frames[row, time] if time < num_frames[row] else torch.zeros(8)
            theirs = frames[other, time] if time < num_frames[other] else torch.zeros(8)
            torch.testing.assert_close(mixed_frames[row, time], share * own + (1 - share) * theirs)
        assert mixed_lengths[row] == max(num_frames[row], num_frames[other])
        target = share * labels[row].float() + (1 - share) * labels[other].float()
        logits = model.model.classifier(mixed_video[row] + mixed_frames[row].sum(0))
        total += ((logits - target) ** 2).sum().item()
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


def test_the_share_of_a_video_has_the_moments_of_its_beta_distribution():
    torch.manual_seed(0)
    for alpha in (0.2, 1.0, 8.0):
        share = Mix.draw(20_000, alpha, torch.device("cpu")).share
        assert share.mean().item() == pytest.approx(0.5, abs=0.01), alpha
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05), alpha


def test_label_smoothing_gives_each_class_its_part(batch):
    model = classifier(label_smoothing=0.2)
    logits = model(*model.inputs(batch))
    expected = 0.0
    for row in range(4):
        for index in range(CLASSES):
            label = float([row, index] in batch.label_index.tolist())
            expected += ((logits[row, index] - (0.8 * label + 0.2 / CLASSES)) ** 2).item()
    assert model.objective(model, batch).item() == pytest.approx(expected / 4, rel=1e-5)


def test_a_dropped_stream_is_zero_and_never_the_last_one():
    sizes = {"rgb": 3, "audio": 2, "flow": 1}
    video, frames = torch.rand(6000, 6) + 1, torch.rand(6000, 2, 6) + 1
    torch.manual_seed(0)
    counts = {}
    for probability in (0.3, 1.0):
        dropped_video, dropped_frames, _ = drop_streams(
            (video, frames, torch.full((6000,), 2)), sizes, probability
        )
        kept = torch.stack([part.any(1) for part in dropped_video.split([3, 2, 1], dim=1)], dim=1)  # [B, F]
        columns = kept[:, [0, 0, 0, 1, 1, 2]]
        assert torch.equal(dropped_video, video * columns)
        assert torch.equal(dropped_frames, frames * columns[:, None])
        assert kept.any(1).all()
        counts[probability] = kept.float().mean(0)
    # A feature stays with 0.7, or as one of three where all would go.
    np.testing.assert_allclose(counts[0.3], [0.7 + 0.3**3 / 3] * 3, atol=0.025)
    np.testing.assert_allclose(counts[1.0], [1 / 3] * 3, atol=0.025)


def test_streams_are_dropped_from_what_the_network_reads(batch):
    model = classifier(stream_dropout=1.0)
    model.objective(model, batch)
    video, frames, _ = model.model.given
    rgb, audio = video.split([6, 2], dim=1)
    assert torch.equal(rgb.any(1), ~audio.any(1))
    assert torch.equal(frames[..., :6].flatten(1).any(1), rgb.any(1))


def test_subsampled_frames_are_distinct_in_order_and_uniform(batch):
    batch.features = torch.arange(15.0)[:, None].expand(15, 8)  # each frame is its number
    torch.manual_seed(0)
    seen = torch.zeros(15)
    for _ in range(500):
        sampled = subsample(batch, 3)
        assert sampled.num_frames.tolist() == [3, 1, 3, 3]
        assert sampled.longest == 3
        parts = sampled.features[:, 0].split([3, 1, 3, 3])
        for part, (first, count) in zip(parts, ((0, 3), (3, 1), (4, 7), (11, 4)), strict=True):
            numbers = part.tolist()
            assert numbers == sorted(set(numbers))
            assert set(numbers) <= set(range(first, first + count))
            seen[part.long()] += 1
    np.testing.assert_allclose(seen / 500, [1] * 4 + [3 / 7] * 7 + [3 / 4] * 4, atol=0.08)
    assert subsample(batch, 7) is batch


def test_spliced_videos_have_half_of_two_videos_and_the_labels_of_both(batch):
    batch.features = torch.arange(15.0)[:, None].expand(15, 8)  # each frame is its number
    counts, owner = [3, 1, 7, 4], [0] * 3 + [1] + [2] * 7 + [3] * 4
    labels = [{c for row, c in batch.label_index.tolist() if row == video} for video in range(4)]
    torch.manual_seed(0)
    times, seen = torch.zeros(4, 4), torch.zeros(15)
    for _ in range(1000):
        spliced = splice(batch, 0.6)
        parts = spliced.features[:, 0].long().split(spliced.num_frames.tolist())
        assert spliced.longest == max(map(len, parts))
        pairs = spliced.label_index.tolist()
        assert pairs == sorted(pairs)
        for video, part in enumerate(parts):
            videos = [owner[frame] for frame in part]
            other = videos[0]
            found = {c for row, c in pairs if row == video}
            if other == video:
                assert torch.equal(part, torch.tensor([f for f in range(15) if owner[f] == video]))
                assert (spliced.ids[video], found) == (batch.ids[video], labels[video])
            else:
                given, kept = counts[other] // 2, counts[video] - counts[video] // 2
                assert videos == [other] * given + [video] * kept
                for half in part.split([given, kept]):
                    assert half.tolist() == sorted(set(half.tolist()))
                assert spliced.ids[video] == f"{batch.ids[video]}+{batch.ids[other]}"
                assert found == labels[video] | labels[other]
                seen[part[:given]] += 1
            times[video, other] += 1
    assert not times[[0, 2, 3], 1].any()  # one frame has no half
    # Each of the others with 0.6 · 1/4, the same frames as often as one another.
    for video, other in ((0, 2), (0, 3), (1, 0), (1, 2), (1, 3), (2, 0), (2, 3), (3, 0), (3, 2)):
        assert times[video, other] == pytest.approx(150, abs=50)
    for frames in (seen[:3], seen[4:11], seen[11:]):
        np.testing.assert_allclose(frames / frames.mean(), torch.ones(len(frames)), atol=0.25)
    assert splice(replace(batch, label_index=None), 1.0).ids == batch.ids  # the loss will ask for labels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sampled_frames_are_page_locked_as_the_batch_is(batch):
    locked = replace(batch, features=batch.features.pin_memory())
    for sample in (lambda source: subsample(source, 1), lambda source: splice(source, 1)):
        assert sample(locked).features.is_pinned()
        assert not sample(batch).features.is_pinned()


def test_a_batch_on_a_device_is_never_read_from_the_host(batch, monkeypatch):
    """Reading a value of a meta tensor raises; reading one from a GPU would force a sync."""
    # The meta device lacks this one operation.
    monkeypatch.setattr("torch.distributions.Beta.sample", lambda self: torch.rand_like(self.concentration1))
    model = classifier(mixup=0.4, label_smoothing=0.1, stream_dropout=0.5).to("meta")
    model.objective.teachers = [told(torch.empty(4, CLASSES, device="meta"))]
    assert model.objective(model, batch.to("meta")).is_meta


def test_settings_that_do_not_fit_the_data_are_refused():
    for options, says in (
        ({"level": "segment", "mixup": 0.4}, "mixup: expected videos whose every label is known, .*=segment"),
        (
            {"level": "segment", "splice": 0.4},
            "splice: expected videos whose every label is known, .*=segment",
        ),
        ({"level": "video", "frame_subsample": 3}, "frame_subsample: expected frame-level data, .*=video"),
        ({"level": "video", "splice": 0.4}, "splice: expected frame-level data, .*=video"),
        (
            {"feature_sizes": {"rgb": 8}, "stream_dropout": 0.1},
            "stream_dropout: expected two features or more, found only rgb",
        ),
        ({"mixup": -1.0}, "objective.mixup: expected a number, 0 or more, found -1.0"),
        ({"mixp": 1}, "objective.mixp: expected no such setting, found 1"),
        ({"label_smoothing": 2}, "objective.label_smoothing: expected a number from 0 to 1, found 2"),
        ({"frame_subsample": 0}, "objective.frame_subsample: expected a whole number, 1 or more, or null"),
    ):
        with pytest.raises(ConfigError, match=says) as raised:
            classifier(**options)
        assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_training_draws_what_evaluation_never_sees(batch):
    import pytorch_lightning as pl

    class Batches(list):
        pass

    model = classifier(mixup=0.4, label_smoothing=0.1, stream_dropout=0.9, frame_subsample=2)
    seen = {"train": [], "val": []}
    model.model.register_forward_hook(
        lambda network, *_: seen["train" if network.training else "val"].append(network.given)
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, Batches([batch]), Batches([batch]))
    whole = model.inputs(batch)
    for found, expected in zip(seen["val"][0], whole, strict=True):
        assert torch.equal(found, expected)
    video, frames, num_frames = seen["train"][0]
    assert frames.shape == (4, 2, 8)
    assert int(num_frames.max()) == 2
    assert not torch.equal(video, whole[0])


def told(probabilities, known=None):
    """A teacher that says the same about every batch."""
    return lambda batch, mix, temperature: (
        (probabilities.logit() / temperature).sigmoid(),
        None if known is None else torch.tensor(known),
    )


def test_teachers_are_averaged_and_weighed_against_the_labels(batch):
    probabilities = torch.rand(2, 4, CLASSES, generator=torch.Generator().manual_seed(1))
    known = [[True, True, False, False], [True, False, True, False]]
    for temperature, weight, partly in ((1.0, 0.5, False), (2.0, 0.3, False), (2.0, 0.3, True)):
        model = classifier(distillation={"temperature": temperature, "weight": weight})
        model.loss = BCE()
        model.objective.teachers = [
            told(p, k if partly else None) for p, k in zip(probabilities, known, strict=True)
        ]
        logits = model(*model.inputs(batch)).tolist()
        total = 0.0
        for row in range(4):
            teachers = [
                p[row].tolist() for p, k in zip(probabilities, known, strict=True) if k[row] or not partly
            ]
            for index in range(CLASSES):
                x, y = logits[row][index], float([row, index] in batch.label_index.tolist())
                hard = cross_entropy(x, y)
                if not teachers:
                    total += hard
                    continue
                said = [sigmoid(math.log(q[index] / (1 - q[index])) / temperature) for q in teachers]
                soft = cross_entropy(x / temperature, sum(said) / len(said))
                total += (1 - weight) * hard + weight * temperature**2 * soft
        assert model.objective(model, batch).item() == pytest.approx(total / 4, rel=1e-5)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy(x, y):
    """With the starter code's ε."""
    return -y * math.log(sigmoid(x) + 1e-5) - (1 - y) * math.log(sigmoid(-x) + 1e-5)


def test_a_networks_own_loss_is_given_the_labels_and_the_teachers(batch):
    model = classifier(label_smoothing=0.5)
    model.objective.teachers = [told(torch.full((4, CLASSES), 0.5))]
    given = {}

    def training_loss(inputs, labels, mask, loss):
        given["labels"] = labels
        return loss(model(*inputs), labels, mask)

    without = model.objective(model, batch)
    model.model.training_loss = training_loss
    assert model.objective(model, batch) == without
    assert given["labels"].unique().tolist() == pytest.approx([0.1, 0.6])


def test_teachers_know_the_labels_that_were_not_rated(batch):
    """Those count for the teacher alone."""
    batch.label_mask = torch.tensor([[0, 1], [1, 0], [2, 0], [3, 3]])
    model = classifier(level="segment", distillation={"temperature": 1, "weight": 0.25})
    model.loss = BCE()
    soft = torch.rand(4, CLASSES, generator=torch.Generator().manual_seed(1))
    model.objective.teachers = [told(soft)]
    logits, labels, mask = model(*model.inputs(batch)), model.labels(batch), model.mask(batch)
    expected = 0.75 * BCE()(logits, labels, mask) + 0.25 * BCE()(logits, soft)
    torch.testing.assert_close(model.objective(model, batch), expected)
