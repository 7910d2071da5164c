"""The mixture of experts and its gate, class by class from their definitions."""

import math

import torch
from torch import nn

from yt8m.layers.moe import MoE, ProbabilityGate


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@torch.no_grad()
def test_probabilities_are_those_of_the_definition():
    for experts in (1, 2, 5):
        moe, x = MoE(3, 4, experts).double(), 3 * torch.randn(2, 3, dtype=torch.float64)
        probabilities = moe(x).sigmoid()
        for row, vector in enumerate(x):
            for c in range(4):
                gates = [
                    math.exp(moe.gates.weight[c * (experts + 1) + m] @ vector) for m in range(experts + 1)
                ]
                p = 0.0
                for m in range(experts):
                    unit = c * experts + m
                    score = sigmoid(float(moe.experts.weight[unit] @ vector + moe.experts.bias[unit]))
                    p += gates[m] / sum(gates) * score
                assert abs(probabilities[row, c].item() - p) < 1e-12


def test_no_size_of_score_kills_the_gradient():
    """A probability so near 0 or 1 that float32 rounds it still has a finite logit with a gradient."""
    for bias in (-200.0, 200.0):
        moe = MoE(3, 4)
        nn.init.constant_(moe.experts.bias, bias)
        with torch.no_grad():
            moe.gates.weight[2::3] = -100  # the expert that says 0 is shut out
        logits = moe(torch.ones(2, 3))
        assert logits.isfinite().all()
        assert (logits.sign() == torch.tensor(bias).sign()).all()
        logits.sum().backward()
        assert (moe.experts.bias.grad.view(4, 2).sum(1) > 0.5).all()


def test_probability_gate_is_that_of_the_definition():
    gate, logits = ProbabilityGate(5).double(), 3 * torch.randn(4, 5, dtype=torch.float64)
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    p = logits.sigmoid()
    scores = p @ gate.weights.weight.T
    scores = (scores - scores.mean(0)) / (scores.var(0, correction=0) + 1e-3).sqrt()
    expected = p * torch.sigmoid(scores * gate.norm.weight + gate.norm.bias)
    torch.testing.assert_close(gate(logits).sigmoid(), expected, rtol=1e-12, atol=1e-12)
    gated = gate.eval()(logits * 100)  # probabilities that round to 0 and 1
    assert gated.isfinite().all()
    assert sum(parameter.numel() for parameter in gate.parameters()) == 5 * 5 + 2 * 5


def test_bfloat16_autocast_keeps_logits_in_float32():
    moe, gate, x = MoE(16, 8), ProbabilityGate(8), torch.randn(32, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = gate(moe(x))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, gate(moe(x)), rtol=0.05, atol=0.05)
