"""A training step's own kernels, against what they replace."""

import pytest
import torch

from yt8m.datamodules.quantization import dequantize
from yt8m.errors import ConfigError
from yt8m.inputs import _pad_on_cpu, pad_on_gpu
from yt8m.labels import dense_labels
from yt8m.losses import BCE, Asymmetric
from yt8m.optimization import make_optimizer
from yt8m.schema import Trainer, check
from yt8m.train.session import lightning_session


def by_autograd(logits, labels, mask=None, epsilon=BCE.epsilon):
    """The formula, as autograd differentiates it."""
    true, false = logits.sigmoid(), (-logits).sigmoid()
    loss = -labels * (true + epsilon).log() - (1 - labels) * (false + epsilon).log()
    return loss.where(torch.ones_like(labels, dtype=torch.bool) if mask is None else mask, 0).sum(1).mean()


def test_cross_entropy_and_its_gradient_are_those_of_the_formula_bit_by_bit():
    torch.manual_seed(0)
    # Three blocks. The mean over a power of two scales gradients exactly, whatever the order of factors.
    shape = (512, 300)
    logits = (torch.randn(shape) * 8).requires_grad_()
    hard, soft, mask = torch.rand(shape) < 0.01, torch.rand(shape), torch.rand(shape) < 0.5
    for labels, rated in ((hard, None), (hard, mask), (hard.float(), None), (soft, None), (soft, mask)):
        expected, found = by_autograd(logits, labels.float(), rated), BCE()(logits, labels, rated)
        assert found.equal(expected)
        ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
        if labels is soft:  # the two terms of a soft label are added in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)
        else:
            assert ours.equal(theirs)
    half = logits.detach().bfloat16().requires_grad_()
    BCE()(half, hard, None).backward()
    assert half.grad.dtype == torch.bfloat16
    assert half.grad.equal(torch.autograd.grad(by_autograd(half.float(), hard.float()), half)[0])


@pytest.mark.parametrize(
    "loss", [BCE(), Asymmetric(), Asymmetric(gamma_neg=2, gamma_pos=0, clip=0), Asymmetric(0, 1.5, 0.2)]
)
def test_the_gradient_of_a_one_pass_loss_is_its_derivative(loss):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    hard, soft, mask = torch.rand(3, 5) < 0.5, torch.rand(3, 5, dtype=torch.double), torch.rand(3, 5) < 0.5
    for labels in (hard, soft):
        for rated in (None, mask):
            assert torch.autograd.gradcheck(lambda x, y=labels, m=rated: loss.of_videos(x, y, m), logits)


def test_frames_are_padded_alike_on_a_cpu_and_on_a_gpu():
    torch.manual_seed(0)
    num_frames = torch.tensor([3, 1, 7])
    stored = torch.randint(0, 256, (11, 8), dtype=torch.uint8)
    for features, limits in ((stored, (-2.0, 2.0)), (torch.randn(11, 8), None)):
        values = features if limits is None else dequantize(features, limits)
        for pad in (_pad_on_cpu, pad_on_gpu):
            sums, frames = pad(features, num_frames, 9, limits, sums=True, frames=True)
            start = 0
            for row, (frame, count) in enumerate(zip(frames, num_frames.tolist(), strict=True)):
                torch.testing.assert_close(frame[:count], values[start : start + count], rtol=0, atol=1e-6)
                assert not frame[count:].any()
                own = features[start : start + count]
                torch.testing.assert_close(sums[row].double(), own.double().sum(0), rtol=1e-6, atol=1e-6)
                start += count


def test_labels_become_dense_also_when_there_are_none():
    pairs = torch.tensor([[0, 1], [0, 4], [2, 0]])
    expected = torch.zeros(3, 5, dtype=torch.bool)
    expected[pairs[:, 0], pairs[:, 1]] = True
    assert dense_labels(pairs, 3, 5).equal(expected)
    assert not dense_labels(pairs[:0], 3, 5).any()


def test_a_resumed_optimizer_keeps_this_runs_kernel():
    """A checkpoint of fp16, or from before fused steps, holds another."""
    weights = {"weight": torch.nn.Parameter(torch.randn(4))}
    adam = {"_target_": "torch.optim.Adam", "lr": 0.1}
    for before, after in ((False, True), (True, False)):
        old, new = (make_optimizer(adam, weights, None, fused=fused) for fused in (before, after))
        weights["weight"].grad = torch.randn(4)
        old.step()
        new.load_state_dict(old.state_dict())
        assert bool(new.param_groups[0]["fused"]) == after
        new.step()
    chosen = make_optimizer({**adam, "foreach": True}, weights, None, fused=True)
    assert not chosen.param_groups[0]["fused"]


def test_the_precision_of_products_is_one_of_three():
    check(Trainer, {"matmul": "medium"})
    with pytest.raises(ConfigError, match=r"matmul: expected highest, high or medium, or null, found 'low'"):
        check(Trainer, {"matmul": "low"})


def test_a_session_computes_with_zero_in_place_of_subnormal_numbers():
    smallest = torch.tensor(2e-38)
    with lightning_session():
        assert smallest * 0.1 == 0
    assert smallest * 0.1 > 0
