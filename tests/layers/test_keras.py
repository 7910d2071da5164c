"""Keras' layers against their recurrence in NumPy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.layers.padded import NUM_FRAMES, padded_videos
from yt8m.layers.keras import KerasLSTM, init_as_keras


def keras_lstm(kernel, recurrent, bias, x, go_backwards):
    """Keras' recurrence for one video `[T, D] -> [T, H]`, outputs in the order they are computed.

    kernel [D, 4H], recurrent [H, 4H] and bias [4H] hold the gates input, forget, cell, output side by side.
    """

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = c = np.zeros(len(recurrent))
    outputs = []
    for frame in x[::-1] if go_backwards else x:
        i, f, g, o = np.split(frame @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("go_backwards", [False, True])
def test_keras_lstm_matches_keras(go_backwards):
    x = padded_videos()
    lstm = KerasLSTM(6, 4, go_backwards).double()
    nn.init.normal_(lstm.bias_ih_l0)
    kernel, recurrent = lstm.weight_ih_l0.detach().numpy().T, lstm.weight_hh_l0.detach().numpy().T
    bias = lstm.bias_ih_l0.detach().numpy()
    outputs = lstm(x, NUM_FRAMES).detach().numpy()
    for row, valid in enumerate(NUM_FRAMES.tolist()):
        expected = keras_lstm(kernel, recurrent, bias, x[row, :valid].numpy(), go_backwards)
        np.testing.assert_allclose(outputs[row, :valid], expected, rtol=1e-12, atol=1e-12)


def test_keras_lstm_has_one_bias():
    x = padded_videos()
    lstm = KerasLSTM(6, 4).double()
    assert [name for name, _ in lstm.named_parameters()] == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]
    assert list(lstm.state_dict()) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]

    torch.optim.SGD(lstm.parameters(), lr=1.0).step(lambda: lstm(x, NUM_FRAMES).sum().backward())
    assert lstm.bias_hh_l0.count_nonzero() == 0
    assert lstm.bias_ih_l0[:4].count_nonzero() == 4

    expected = lstm(x, NUM_FRAMES)
    loaded = KerasLSTM(6, 4).double()
    loaded.load_state_dict(lstm.state_dict())
    with torch.device("meta"):
        empty = KerasLSTM(6, 4).double()
    empty.to_empty(device="cpu").bias_hh_l0.fill_(7)  # uninitialized memory
    empty.reset_parameters()
    empty.load_state_dict(lstm.state_dict())
    for other in (loaded, empty, copy.deepcopy(lstm)):
        assert other(x, NUM_FRAMES).equal(expected)
        nn.init.zeros_(other.weight_hh_l0)
        assert not other(x, NUM_FRAMES).equal(expected)
    assert lstm(x, NUM_FRAMES).equal(expected)


def test_keras_initial_values():
    network = nn.ModuleDict({"dense": nn.Linear(64, 32), "lstm": KerasLSTM(64, 32)})
    init_as_keras(network)
    # Glorot uniform: within sqrt(6 / (fan in + fan out)), where a kernel of Keras holds all four gates.
    for weight, fan_out in ((network.dense.weight, 32), (network.lstm.weight_ih_l0, 4 * 32)):
        limit = (6 / (64 + fan_out)) ** 0.5
        assert weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
    assert network.dense.bias.count_nonzero() == 0

    recurrent = network.lstm.weight_hh_l0
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(32))
    gates = network.lstm.bias_ih_l0.view(4, 32)
    assert gates[1].eq(1).all()
    assert gates[[0, 2, 3]].count_nonzero() == 0
