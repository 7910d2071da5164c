"""The shared layers against loops and recurrences written from their definitions."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from yt8m.errors import ConfigError
from yt8m.layers.recurrent import (
    BidirectionalLSTM,
    KerasLSTM,
    init_as_keras,
    last_valid,
    match_features,
    max_over_valid,
    mlp,
    reverse_valid,
    split_features,
)

NUM_FRAMES = torch.tensor([5, 1, 7, 3])


@pytest.fixture
def x() -> torch.Tensor:
    """Four videos of up to 7 frames, padded to 9; every valid value is negative, padding is zero."""
    x = -torch.rand(4, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, valid in zip(x, NUM_FRAMES, strict=True):
        row[valid:] = 0
    return x


def test_operations_on_valid_frames(x):
    for row, video in enumerate(x):
        valid = NUM_FRAMES[row]
        assert last_valid(x, NUM_FRAMES)[row].equal(video[valid - 1])
        assert reverse_valid(x, NUM_FRAMES)[row].equal(torch.cat([video[:valid].flip(0), video[valid:]]))
        assert reverse_valid(reverse_valid(x, NUM_FRAMES), NUM_FRAMES).equal(x)
        assert max_over_valid(x, NUM_FRAMES)[row].equal(video[:valid].max(dim=0).values)


def test_split_features_keeps_the_order():
    parts = split_features(torch.arange(6).expand(2, 3, 6), {"b": 2, "a": 1, "c": 3})
    assert {name: part[0, 0].tolist() for name, part in parts.items()} == {
        "b": [0, 1],
        "a": [2],
        "c": [3, 4, 5],
    }
    assert list(parts) == ["b", "a", "c"]


def test_mlp_ends_with_a_relu():
    kinds = [type(layer) for layer in mlp(4, 3, 2)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]


DEFAULTS = {"rgb": 20, "audio": 3}


@pytest.mark.parametrize(
    ("features", "chosen", "expected"),
    [
        (["rgb", "audio"], {}, [20, 3]),
        (["mean_audio", "mean_rgb"], {}, [3, 20]),
        (["audio_embedding"], {}, [3]),
        (["rgb", "audio"], {"rgb": 7}, [7, 3]),
        (["rgb", "optical_flow"], {"flow": 9}, [20, 9]),
        (["rgb", "mean_rgb"], {"mean_rgb": 8}, [20, 8]),  # the exact name comes before a token
        (["rgb_audio"], {}, [20]),  # the first token that has an entry
    ],
)
def test_match_features(features, chosen, expected):
    sizes = match_features(dict.fromkeys(features, 1), "hidden_sizes", DEFAULTS, chosen)
    assert sizes == dict(zip(features, expected, strict=True))
    assert list(sizes) == features


def test_feature_without_an_entry_is_an_error():
    with pytest.raises(
        ConfigError, match=r"^model\.hidden_sizes: .*'flow', found rgb, audio; .*model\.hidden_sizes\.flow="
    ):
        match_features({"rgb": 1, "flow": 1}, "hidden_sizes", DEFAULTS, {})


def test_entry_without_a_feature_is_an_error():
    with pytest.raises(
        ConfigError, match=r"^model\.hidden_sizes: .*rgb, audio.*'rbg'.*remove model\.hidden_sizes\.rbg$"
    ):
        match_features({"rgb": 1, "audio": 1}, "hidden_sizes", DEFAULTS, {"rbg": 5})


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_bidirectional_lstm_is_that_of_torch(x, num_layers):
    lstm = BidirectionalLSTM(6, 4, num_layers).double()
    reference = nn.LSTM(6, 4, num_layers, batch_first=True, bidirectional=True).double()
    for layer in range(num_layers):
        for ours, suffix in ((lstm.forwards[layer], ""), (lstm.backwards[layer], "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                weight = getattr(reference, f"{name}_l{layer}{suffix}")
                getattr(ours, f"{name}_l0").data.copy_(weight.data)

    packed = pack_padded_sequence(x, NUM_FRAMES, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    expected = torch.stack([video[valid - 1] for video, valid in zip(outputs, NUM_FRAMES, strict=True)])
    torch.testing.assert_close(lstm(x, NUM_FRAMES), expected, rtol=1e-12, atol=1e-12)
    count = [sum(parameter.numel() for parameter in module.parameters()) for module in (lstm, reference)]
    assert count[0] == count[1]


def keras_lstm(kernel, recurrent, bias, x, go_backwards):
    """Keras' recurrence for one video `[T, D] -> [T, H]`, outputs in the order in which they arise.

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
def test_keras_lstm_is_that_of_keras(x, go_backwards):
    lstm = KerasLSTM(6, 4, go_backwards).double()
    nn.init.normal_(lstm.bias_ih_l0)
    kernel, recurrent = lstm.weight_ih_l0.detach().numpy().T, lstm.weight_hh_l0.detach().numpy().T
    bias = lstm.bias_ih_l0.detach().numpy()
    outputs = lstm(x, NUM_FRAMES).detach().numpy()
    for row, valid in enumerate(NUM_FRAMES.tolist()):
        expected = keras_lstm(kernel, recurrent, bias, x[row, :valid].numpy(), go_backwards)
        np.testing.assert_allclose(outputs[row, :valid], expected, rtol=1e-12, atol=1e-12)


def test_keras_lstm_has_one_bias(x):
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
    empty.to_empty(device="cpu").bias_hh_l0.fill_(7)  # whatever lay in that memory
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
