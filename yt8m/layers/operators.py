"""Recurrent layers as single operators for `torch.export`, which would unroll them over its example's frames.

A program that was exported with them runs for any number of frames. It holds `torch.ops.yt8m.lstm` and
`torch.ops.yt8m.gru`, which an exporter to another format translates as one node each; `as_aten` replaces them with
PyTorch's own operators, so that the program loads without this package.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# One layer, one direction, with biases, batch first, in evaluation.
_SETTINGS = (True, 1, 0.0, False, False, True)

#: Whether `torch.export` is tracing; before torch 2.7, only this name told so.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


@torch.library.custom_op("yt8m::lstm", mutates_args=())
def lstm(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM layer, without gradients: outputs `[B, T, H]`, last output and last cell `[1, B, H]`.

    Args:
        x: `[B, T, D]`.
        state: output and cell before the first frame, `[1, B, H]` each.
        weights: `[4H, D]`, `[4H, H]`, biases `[4H]` and `[4H]`; gates in the order input, forget, cell, output.
    """
    return torch.lstm(x, state, weights, *_SETTINGS)


@torch.library.custom_op("yt8m::gru", mutates_args=())
def gru(x: Tensor, state: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A GRU layer, without gradients: outputs `[B, T, H]` and the last one `[1, B, H]`.

    Args:
        x: `[B, T, D]`.
        state: output before the first frame, `[1, B, H]`.
        weights: `[3H, D]`, `[3H, H]`, biases `[3H]` and `[3H]`; gates in the order reset, update, candidate.
    """
    return torch.gru(x, state, weights, *_SETTINGS)


@lstm.register_fake
def _(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    outputs = x.new_empty(x.shape[0], x.shape[1], weights[1].shape[1])
    return outputs, torch.empty_like(state[0]), torch.empty_like(state[1])


@gru.register_fake
def _(x: Tensor, state: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1], weights[1].shape[1]), torch.empty_like(state)


_ATEN: dict[Any, Any] = {
    torch.ops.yt8m.lstm.default: torch.ops.aten.lstm.input,
    torch.ops.yt8m.gru.default: torch.ops.aten.gru.input,
}


def as_aten(program: "ExportedProgram") -> "ExportedProgram":
    """The program, changed in place to hold PyTorch's operators alone.

    Decomposing it afterwards (`run_decompositions`) unrolls the layers for the example's length.
    """
    for node in program.graph.nodes:
        if node.target in _ATEN:
            node.target = _ATEN[node.target]
            node.args = (*node.args, *_SETTINGS)
    program.graph_module.recompile()
    return program
