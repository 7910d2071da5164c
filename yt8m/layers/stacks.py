"""Stacks of recurrent layers whose states after the last valid frame describe a video."""

import torch
from torch import Tensor, nn

from yt8m.layers.keras import KerasLSTM
from yt8m.layers.masks import last_valid, valid_frames
from yt8m.layers.operators import gru, is_exporting
from yt8m.layers.recurrent import flat_weights, in_one_buffer, safe_dtype

_SHUT = 1e4  # a gate at ±1e4 is 0 or 1 exactly, in float64 and in bf16


class FinalLSTM(KerasLSTM):
    """An LSTM that also returns its final state: `[B, T, D] -> [B, T, H]` and `[B, 2H]`, cell and output.

    The fused LSTM returns the cell state after frame T, which is padding in most videos. So the input gets one more
    column, 1 in padding, that opens the forget gate and shuts the input gate: the cell keeps its value through padding.
    """

    hold: Tensor

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size)
        signs = torch.tensor([-1.0, 1.0, 0.0, 0.0])  # gates: input, forget, cell, output
        column = _SHUT * signs.repeat_interleave(hidden_size)[:, None]  # [4H, 1]
        self.register_buffer("hold", column, persistent=False)

    def forward(self, x: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        dtype = safe_dtype(x)
        if dtype is None:
            return self._final(self.weight_ih_l0.dtype, x, num_frames)
        with torch.autocast(x.device.type, enabled=False):
            return self._final(dtype, x, num_frames)

    def _final(self, dtype: torch.dtype, x: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        padding = ~valid_frames(x, num_frames)[..., None]
        x = torch.cat([x.masked_fill(padding, 0), padding.to(x.dtype)], dim=-1)  # [B, T, D + 1]
        weights = [torch.cat([self.weight_ih_l0, self.hold], dim=1), self.weight_hh_l0]
        outputs, cell = self.final_cell(dtype, x, [*weights, self.bias_ih_l0, self.bias_hh_l0])
        return outputs, torch.cat([cell, last_valid(outputs, num_frames)], dim=-1)


class GRU(nn.GRU):
    """One layer in one direction, `[B, T, D] -> [B, T, H]`, safe under mixed precision as `yt8m.layers.recurrent.LSTM`.

    As in TensorFlow's `GRUCell`, there is one bias vector per gate. It starts at 1 for the reset and update gates and
    at 0 for the candidate; the kernels start as Keras' do. The reset gate acts on the product U·h, as in cuDNN, where
    TensorFlow multiplies U by the reset state.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size, batch_first=True)
        # As in KerasLSTM: the second bias becomes a constant zero, neither trained nor saved.
        del self.bias_hh_l0
        self.register_buffer("bias_hh_l0", torch.zeros_like(self.bias_ih_l0), persistent=False)
        self._init_flat_weights()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight_ih_l0)
        nn.init.orthogonal_(self.weight_hh_l0)
        nn.init.zeros_(self.bias_hh_l0)
        nn.init.zeros_(self.bias_ih_l0)
        self.bias_ih_l0[: 2 * self.hidden_size] = 1  # gates: reset, update, candidate

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no initial state, outputs only
        if is_exporting():
            outputs: Tensor = gru(x, x.new_zeros(1, x.shape[0], self.hidden_size), flat_weights(self))[0]
            return outputs
        dtype = safe_dtype(x)
        if dtype is None:
            return super().forward(x)[0]
        with torch.autocast(x.device.type, enabled=False):
            start = x.new_zeros(1, x.shape[0], self.hidden_size, dtype=dtype)
            weights = in_one_buffer(dtype, flat_weights(self))
            return torch.gru(x.to(dtype), start, weights, True, 1, 0.0, self.training, False, True)[0]


class LSTMStack(nn.Module):
    """LSTM layers one on another, `[B, T, D] -> [B, 2·L·H]`: cell and output of each after the last valid frame."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int):
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(FinalLSTM(size, hidden_size) for size in sizes)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        states = []
        for layer in self.layers:
            x, state = layer(x, num_frames)
            states.append(state)
        return torch.cat(states, dim=-1)


class GRUStack(nn.Module):
    """GRU layers one on another, `[B, T, D] -> [B, L·H]`: the output of each at the last valid frame."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int):
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(GRU(size, hidden_size) for size in sizes)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(last_valid(x, num_frames))
        return torch.cat(states, dim=-1)
