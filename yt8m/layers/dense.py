"""Dense layers."""

from itertools import pairwise

from torch import nn


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers `[..., sizes[0]] -> [..., sizes[-1]]` with a ReLU after each, including the last."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers)


def start_alive(layers: nn.Sequential) -> None:
    """Set the biases of an `mlp` to 1, where a single ReLU carries everything.

    With a bias near 0, it starts at zero for every video in a third to a half of all cases: no signal and no gradient,
    so it never recovers. A bias of 1 outweighs its inputs at first.
    """
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.ones_(layer.bias)
