"""ONNX's operators for the recurrent layers of `yt8m.layers.operators`.

They run over any number of frames, which PyTorch's own translation, frame by frame, does not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

from yt8m.layers import operators  # noqa: F401  # defines them

op: Any = opset18  # its operators' types are narrower than what a translation passes

# Order of the gates; PyTorch has input, forget, cell, output and reset, update, candidate.
_LSTM_GATES = (0, 3, 1, 2)  # input, output, forget, cell
_GRU_GATES = (1, 0, 2)  # update, reset, candidate


def lstm(x: Any, state: Sequence[Any], weights: Sequence[Any]) -> tuple[Any, Any, Any]:
    """`yt8m::lstm`: outputs `[B, T, H]`, last output and last cell `[1, B, H]`."""
    size = weights[1].shape[1]
    kernel, recurrent, biases = _reordered(weights, _LSTM_GATES)
    outputs, last, cell = op.LSTM(
        op.Transpose(x, perm=[1, 0, 2]), kernel, recurrent, biases, None, state[0], state[1], hidden_size=size
    )
    return _batch_first(outputs), last, cell


def gru(x: Any, state: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
    """`yt8m::gru`: outputs `[B, T, H]` and the last one `[1, B, H]`."""
    size = weights[1].shape[1]
    kernel, recurrent, biases = _reordered(weights, _GRU_GATES)
    # As in cuDNN, the reset gate acts on the product with the recurrent weights.
    outputs, last = op.GRU(
        op.Transpose(x, perm=[1, 0, 2]),
        kernel,
        recurrent,
        biases,
        None,
        state,
        hidden_size=size,
        linear_before_reset=1,
    )
    return _batch_first(outputs), last


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.yt8m.lstm.default: lstm,
    torch.ops.yt8m.gru.default: gru,
}


def _batch_first(outputs: Any) -> Any:
    """`[T, 1, B, H]` as `[B, T, H]`."""
    return op.Transpose(op.Squeeze(outputs, op.Constant(value_ints=[1])), perm=[1, 0, 2])


def _reordered(weights: Sequence[Any], gates: Sequence[int]) -> list[Any]:
    """Kernel `[1, G·H, D]`, recurrent kernel `[1, G·H, H]`, and biases `[1, 2·G·H]` in ONNX's order of the gates."""
    size = weights[1].shape[1]
    rows = op.Constant(value_ints=[row for gate in gates for row in range(gate * size, (gate + 1) * size)])
    axis = op.Constant(value_ints=[0])
    kernel, recurrent, *biases = (op.Gather(weight, rows, axis=0) for weight in weights)
    both = op.Concat(*biases, axis=0)
    return [op.Unsqueeze(kernel, axis), op.Unsqueeze(recurrent, axis), op.Unsqueeze(both, axis)]
