"""Layers and tensor operations that several models share.

Frames are padded: of `x [B, T, D]` only `x[b, :num_frames[b]]` is valid, with 1 <= num_frames <= T. Every
operation here keeps padding out of valid results and their gradients, without waiting for `num_frames` on the
host.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from yt8m.errors import ConfigError

Size = TypeVar("Size")  # one width, or the widths of several layers


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers `[..., sizes[0]] -> [..., sizes[-1]]` with a ReLU after each, also after the last."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers)


def split_features(x: Tensor, feature_sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The features that lie side by side in `[..., D]`, in configured order: `[..., D_f]` by name."""
    return dict(zip(feature_sizes, x.split(list(feature_sizes.values()), dim=-1), strict=True))


def match_features(
    feature_sizes: Mapping[str, int], key: str, defaults: Mapping[str, Size], chosen: Mapping[str, Size]
) -> dict[str, Size]:
    """Pick each feature's entry from a setting that is given per modality.

    A feature takes the entry of its own name, else of the first token of its name (split at "_") that has
    one: `mean_rgb` takes `rgb`, `audio_embedding` takes `audio`.

    Args:
        feature_sizes: the configured features; only the names matter.
        key: the constructor argument that is being read, for error messages.
        defaults: the model's own entries.
        chosen: entries that replace or join the defaults.

    Returns:
        One entry per feature, in configured order.

    Raises:
        ConfigError: a feature has no entry, or an added entry belongs to no feature (a misspelt name).
    """
    entries = {**defaults, **chosen}
    picked = {}
    for feature in feature_sizes:
        match = next((name for name in (feature, *feature.split("_")) if name in entries), None)
        if match is None:
            raise ConfigError(
                f"model.{key}: expected an entry for feature {feature!r}, found {', '.join(entries)}; "
                f"add one with +model.{key}.{feature}=…"
            )
        picked[feature] = match
    if unused := sorted(set(entries) - set(defaults) - set(picked.values())):
        raise ConfigError(
            f"model.{key}: expected entries named after features ({', '.join(feature_sizes)}) or tokens of "
            f"their names, found {unused[0]!r}; rename or remove model.{key}.{unused[0]}"
        )
    return {feature: entries[match] for feature, match in picked.items()}


def valid_frames(x: Tensor, num_frames: Tensor) -> Tensor:
    """Which frames of `x [B, T, D]` are not padding, bool `[B, T]`."""
    return torch.arange(x.shape[1], device=x.device) < num_frames.to(x.device)[:, None]


def last_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """The last valid frame of each video, `[B, T, D] -> [B, D]`."""
    return x[torch.arange(x.shape[0], device=x.device), num_frames.to(x.device) - 1]


def reverse_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """`x [B, T, D]` with the valid frames of each video in reversed order, still before the padding.

    Its own inverse.
    """
    time = torch.arange(x.shape[1], device=x.device)
    mirrored = (num_frames.to(x.device)[:, None] - 1 - time) % x.shape[1]  # [B, T]; padding wraps around
    return x.gather(1, mirrored[..., None].expand_as(x))


def max_over_valid(x: Tensor, num_frames: Tensor) -> Tensor:
    """The maximum over the valid frames, `[B, T, D] -> [B, D]`."""
    return x.masked_fill(~valid_frames(x, num_frames)[..., None], -torch.inf).amax(dim=1)


class BidirectionalLSTM(nn.Module):
    """A stack of bidirectional LSTM layers, `[B, T, D] -> [B, 2H]`: its output at the last valid frame.

    Equals `nn.LSTM(..., bidirectional=True)` on packed sequences, read at the last valid frame. Packing needs
    `num_frames` on the host, so here each direction is an LSTM of its own, and the backward one reads every
    video reversed within its valid frames.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int):
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(size, hidden_size, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(nn.LSTM(size, hidden_size, batch_first=True) for size in sizes)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        for forward, backward in zip(self.forwards[:-1], self.backwards[:-1], strict=True):
            ahead, _ = forward(x)
            back, _ = backward(reverse_valid(x, num_frames))
            x = torch.cat([ahead, reverse_valid(back, num_frames)], dim=-1)  # [B, T, 2H]
        # At the last frame the top layer's backward direction has read that frame only: one step is enough.
        ahead, _ = self.forwards[-1](x)
        back, _ = self.backwards[-1](last_valid(x, num_frames)[:, None])  # [B, 1, H]
        return torch.cat([last_valid(ahead, num_frames), back[:, 0]], dim=-1)


class KerasLSTM(nn.LSTM):
    """The LSTM layer of Keras with `return_sequences=True`, `[B, T, D] -> [B, T, H]`.

    It has one bias vector per gate where PyTorch has two, and Keras' initial values: Glorot uniform kernel,
    orthogonal recurrent kernel, zero bias but 1 for the forget gate. With `go_backwards` the outputs are in
    **reversed** time order, as in Keras: index 0 belongs to the last valid frame; padding stays at the end.
    """

    def __init__(self, input_size: int, hidden_size: int, go_backwards: bool = False):
        super().__init__(input_size, hidden_size, batch_first=True)
        self.go_backwards = go_backwards
        # nn.LSTM computes with two biases: the second becomes a constant zero, neither trained nor saved.
        del self.bias_hh_l0
        self.register_buffer("bias_hh_l0", torch.zeros_like(self.bias_ih_l0), persistent=False)
        self._init_flat_weights()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight_ih_l0)
        nn.init.orthogonal_(self.weight_hh_l0)
        nn.init.zeros_(self.bias_hh_l0)
        nn.init.zeros_(self.bias_ih_l0)
        self.bias_ih_l0[self.hidden_size : 2 * self.hidden_size] = 1  # gates: input, forget, cell, output

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        if self.go_backwards:
            x = reverse_valid(x, num_frames)
        return super().forward(x)[0]


def init_as_keras(model: nn.Module) -> None:
    """Give every Linear layer of `model` the initial values of a Keras Dense: Glorot uniform, zero bias."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
