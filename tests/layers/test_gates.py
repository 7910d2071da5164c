"""Gates, unit by unit from their definitions."""

import torch
from torch import Tensor, nn

from yt8m.layers.gates import ContextGate, SEGate


def randomized(gate: nn.Module) -> nn.Module:
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    return gate.double()


def normalized(x: Tensor, norm: nn.Module) -> Tensor:
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-3).sqrt()
    return x * norm.weight + norm.bias


def test_context_gate_is_that_of_the_paper():
    gate, x = randomized(ContextGate(4)), torch.randn(5, 4, dtype=torch.float64)
    expected = x * normalized(x @ gate.weights.weight.T, gate.norm).sigmoid()
    torch.testing.assert_close(gate(x), expected)
    assert sum(parameter.numel() for parameter in gate.parameters()) == 4 * 4 + 2 * 4


def test_se_gate_is_that_of_the_paper():
    gate, x = randomized(SEGate(8, 4)), torch.randn(5, 8, dtype=torch.float64)
    squeezed = normalized(x @ gate.squeeze.weight.T, gate.norm).clamp(min=0)
    torch.testing.assert_close(gate(x), x * (squeezed @ gate.excite.weight.T).sigmoid())
    assert sum(parameter.numel() for parameter in gate.parameters()) == 8 * 2 + 2 * 2 + 2 * 8
    assert SEGate(8, 100).squeeze.out_features == 1
