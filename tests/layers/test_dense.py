"""Dense layers."""

from torch import nn

from yt8m.layers.dense import mlp


def test_mlp_ends_with_a_relu():
    layers = mlp(4, 3, 2)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert [layer.weight.shape for layer in layers[::2]] == [(3, 4), (2, 3)]
