"""LSTMs that are safe under mixed precision, and a bidirectional stack that reads padded videos."""

import torch
from torch import Tensor, nn

from yt8m.layers.masks import last_valid, reverse_valid
from yt8m.layers.operators import is_exporting, lstm


class LSTM(nn.LSTM):
    """One layer in one direction, `[B, T, D] -> [B, T, H]`; the parameters are those of `nn.LSTM`.

    Under bf16 autocast the layer chooses its own precision: bf16 on CUDA devices that support it, fp32 everywhere else.
    PyTorch's choice fails on both. On CUDA, autocast runs cuDNN's LSTMs in fp16, where gradients underflow: bf16
    training has no loss scaling. On CPUs without bf16 instructions, oneDNN has no bf16 LSTM and raises an error. fp16
    autocast, which comes with loss scaling, is left alone.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no initial state, outputs only
        if is_exporting():
            return self.final_cell(x.dtype, x, flat_weights(self))[0]
        dtype = safe_dtype(x)
        if dtype is None:
            return super().forward(x)[0]
        with torch.autocast(x.device.type, enabled=False):
            return self.computed_in(dtype, x)

    def computed_in(self, dtype: torch.dtype, x: Tensor) -> Tensor:
        """The layer with its input and weights cast to `dtype`; gradients reach the weights in their own dtype."""
        return self.final_cell(dtype, x, flat_weights(self))[0]

    def final_cell(self, dtype: torch.dtype, x: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs `[B, T, H]`, and the cell state after the last frame `[B, H]`, computed in `dtype`.

        Args:
            weights: in cuDNN's order: input, recurrent, biases.
        """
        start = x.new_zeros(1, x.shape[0], self.hidden_size, dtype=dtype)
        if is_exporting():
            outputs, _, cell = lstm(x, [start, start], weights)
            return outputs, cell[0]
        outputs, _, cell = torch.lstm(
            x.to(dtype),
            (start, start),
            in_one_buffer(dtype, weights),
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=True,
        )
        return outputs, cell[0]


def safe_dtype(x: Tensor) -> torch.dtype | None:
    """What a recurrent layer should compute in under bf16 autocast, instead of what PyTorch chooses; else None."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # never on "meta"
    if not autocast or torch.get_autocast_dtype(kind) != torch.bfloat16:
        return None
    in_bf16 = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if in_bf16 else torch.float32


def flat_weights(layer: nn.RNNBase) -> list[Tensor]:
    """The layer's weights in cuDNN's order: input, recurrent, biases."""
    return [getattr(layer, name) for name in layer._flat_weights_names]


def in_one_buffer(dtype: torch.dtype, weights: list[Tensor]) -> list[Tensor]:
    """The weights in `dtype`, one after another in memory, so that cuDNN need not copy them again."""
    parts = [weight.flatten().to(dtype) for weight in weights]
    flat = torch.split(torch.cat(parts), [len(part) for part in parts])
    return [part.view_as(weight) for part, weight in zip(flat, weights, strict=True)]


class BidirectionalLSTM(nn.Module):
    """A stack of bidirectional LSTM layers, `[B, T, D] -> [B, 2H]`: its output at the last valid frame.

    Equals `nn.LSTM(..., bidirectional=True)` on packed sequences, read at the last valid frame. Packing would copy
    `num_frames` to the host, so each direction is an LSTM of its own here, and the backward one reads every video
    reversed within its valid frames.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int):
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.forwards = nn.ModuleList(LSTM(size, hidden_size) for size in sizes)
        self.backwards = nn.ModuleList(LSTM(size, hidden_size) for size in sizes)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        for forward, backward in zip(self.forwards[:-1], self.backwards[:-1], strict=True):
            back = backward(reverse_valid(x, num_frames))
            x = torch.cat([forward(x), reverse_valid(back, num_frames)], dim=-1)  # [B, T, 2H]
        # At the last valid frame, the top layer's backward direction has read that frame only: one step is enough.
        ahead = self.forwards[-1](x)
        back = self.backwards[-1](last_valid(x, num_frames)[:, None])  # [B, 1, H]
        return torch.cat([last_valid(ahead, num_frames), back[:, 0]], dim=-1)
