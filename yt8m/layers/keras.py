"""Layers as Keras builds and initializes them."""

import torch
from torch import Tensor, nn

from yt8m.layers.masks import reverse_valid
from yt8m.layers.recurrent import LSTM


class KerasLSTM(LSTM):
    """The LSTM layer of Keras with `return_sequences=True`, `[B, T, D] -> [B, T, H]`.

    It has one bias vector per gate where PyTorch has two, and Keras' initial values: Glorot uniform kernel, orthogonal
    recurrent kernel, and a bias of 0, except 1 for the forget gate. The gates use the sigmoid, Keras 3's default; Keras
    2.2, which the study ran, used its piecewise linear `hard_sigmoid`.

    With `go_backwards`, the outputs are in **reversed** time order, as in Keras: index 0 belongs to the last valid
    frame; padding stays at the end.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, go_backwards: bool = False):
        super().__init__(input_size, hidden_size)
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

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:  # type: ignore[override]
        if self.go_backwards:
            x = reverse_valid(x, num_frames)
        return super().forward(x)


def init_as_keras(model: nn.Module) -> None:
    """Give every Linear layer of `model` the initial values of a Keras Dense: Glorot uniform, zero bias."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
