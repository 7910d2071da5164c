"""Batch norm over valid frames, against PyTorch's on the same rows without padding."""

import copy

import torch
from torch import nn

from tests.layers.padded import NUM_FRAMES, padded_videos
from yt8m.layers.batch_norm import BatchNorm


def batch_norm() -> BatchNorm:
    norm = BatchNorm(6).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def unpadded(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([row[:valid] for row, valid in zip(x, NUM_FRAMES, strict=True)])


def test_statistics_are_those_of_the_valid_frames():
    norm = batch_norm()
    expected = nn.BatchNorm1d(6, eps=1e-3, momentum=1).double()  # the first batch sets the running statistics
    expected.load_state_dict(norm.state_dict())
    for padding in (0, 1e6):
        x, module = padded_videos(), copy.deepcopy(norm)
        for row, valid in zip(x, NUM_FRAMES, strict=True):
            row[valid:] = padding
        x.requires_grad_()
        rows = unpadded(x.detach()).requires_grad_()
        output, oracle = unpadded(module(x, NUM_FRAMES)), copy.deepcopy(expected)
        torch.testing.assert_close(output, oracle(rows), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(module.running_mean, oracle.running_mean)
        torch.testing.assert_close(module.running_var, oracle.running_var)
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), x)
        (want,) = torch.autograd.grad(oracle(rows).pow(3).sum(), rows)
        torch.testing.assert_close(unpadded(gradient), want, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(unpadded(module.eval()(x, NUM_FRAMES)), oracle.eval()(rows))


def test_without_frames_every_row_counts():
    x, norm = torch.randn(7, 6, dtype=torch.float64), batch_norm()
    expected = nn.BatchNorm1d(6, eps=1e-3).double()
    expected.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), expected(x))


def test_running_statistics_reach_the_published_decay():
    norm = BatchNorm(6, decay=0.9).double()
    want_mean, want_var = torch.zeros(6).double(), torch.ones(6).double()
    for step in range(100):
        x = torch.randn(5, 6, dtype=torch.float64) * 3 + 2
        norm(x)
        decay = min(0.9, step / (step + 9))
        want_mean = decay * want_mean + (1 - decay) * x.mean(0)
        want_var = decay * want_var + (1 - decay) * x.var(0)
    torch.testing.assert_close(norm.running_mean, want_mean)
    torch.testing.assert_close(norm.running_var, want_var)


def test_a_single_row_is_normalized_with_the_running_statistics():
    norm = batch_norm()
    norm(torch.randn(8, 6, dtype=torch.float64))
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    frames = torch.cat([x[:, None], torch.randn(1, 3, 6)], dim=1)  # one valid frame
    output = norm(x)
    torch.testing.assert_close(output, copy.deepcopy(norm).eval()(x))
    torch.testing.assert_close(norm(frames, torch.tensor([1]))[:, 0], output)
    assert all(value.equal(before[name]) for name, value in norm.state_dict().items())
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.abs().min() > 0


def test_bfloat16_input_keeps_float32_statistics():
    norm, x = BatchNorm(6), (torch.randn(64, 6) + 30).bfloat16()
    output = norm(x)
    assert output.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(output.float(), BatchNorm(6)(x.float()), rtol=0.01, atol=0.01)
