"""Independent parts of a network on CUDA streams of their own, so that a GPU computes them at the same time."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_wanted = False


def set_cuda_streams(wanted: bool) -> None:
    """Whether `at_once` uses CUDA streams, in this process."""
    global _wanted
    _wanted = wanted


def cuda_streams() -> bool:
    """What `set_cuda_streams` has set."""
    return _wanted


def at_once(parts: Sequence[Callable[[], Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The results of all parts, which do not depend on each other.

    With `set_cuda_streams(True)` and inputs on a GPU, the first part runs on the current stream and each further one on
    a stream of its own, as does its backward pass, which autograd runs where the forward pass ran. The host calls the
    parts in the given order, so they draw the same random numbers either way. Compiled and exported graphs, which fuse
    and order their kernels themselves, do not use streams.

    Args:
        parts: of a network, each from inputs to its result.
        inputs: all tensors that the parts read, except parameters and buffers, which live longer than a step.
    """
    device = inputs[0].device
    if not _wanted or device.type != "cuda" or torch.compiler.is_compiling():
        return [part() for part in parts]
    current = torch.cuda.current_stream(device)
    sides = [_side_stream(device, number) for number in range(1, len(parts))]
    for side in sides:
        side.wait_stream(current)  # which computes the inputs
    results = []
    for part, stream in zip(parts, [current, *sides], strict=True):
        with torch.cuda.stream(stream):
            results.append(part())
    for side, result in zip(sides, results[1:], strict=True):
        current.wait_stream(side)
        # The allocator would otherwise hand out memory again as soon as the stream that allocated it is done with it.
        result.record_stream(current)
        for tensor in inputs:
            tensor.record_stream(side)
    return results


@functools.cache
def _side_stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """Kept, because memory that the allocator has cached for a stream is used again on that stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
