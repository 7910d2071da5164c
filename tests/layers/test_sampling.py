"""Random frames in training, every frame in evaluation."""

import torch

from yt8m.layers.sampling import SampleFrames


def test_training_draws_valid_frames_uniformly_with_replacement():
    num_frames = torch.tensor([5, 1, 3])
    frames = torch.arange(7.0).repeat(3, 1)[..., None]  # each frame holds its own index
    sample = SampleFrames(6000)
    drawn, count = sample(frames, num_frames)
    assert count.tolist() == [6000] * 3
    for row, valid in enumerate(num_frames):
        share = torch.bincount(drawn[row, :, 0].long(), minlength=7) / 6000
        assert share[valid:].eq(0).all()
        assert (share[:valid] - 1 / valid).abs().max() < 0.03


def test_seed_decides_the_frames():
    frames, num_frames = torch.randn(2, 9, 3), torch.tensor([9, 4])
    sample, drawn = SampleFrames(4), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sample(frames, num_frames)[0])
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_evaluation_and_null_keep_every_frame():
    frames, num_frames = torch.randn(2, 9, 3), torch.tensor([9, 4])
    for sample in (SampleFrames(4).eval(), SampleFrames(None)):
        kept, count = sample(frames, num_frames)
        assert kept is frames
        assert count is num_frames


def test_the_last_draw_stays_below_the_number_of_frames(monkeypatch):
    frames, num_frames = torch.randn(1, 300, 2), torch.tensor([300])
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 1 - 2**-24))
    drawn, _ = SampleFrames(2)(frames, num_frames)
    assert drawn[0, 0].equal(frames[0, 299])
