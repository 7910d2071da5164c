"""A program as an ONNX file, with its weights in float32, float16 or int8."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import ExportedProgram

from yt8m.errors import ConfigError
from yt8m.export.recurrent import TRANSLATIONS

_SMALLEST = 1024  # numbers of a tensor that is stored in fewer bits
_LARGEST = np.finfo(np.float16).max
_MOST_BYTES = 2**31 - 2**20  # of a protobuf message, with room for the graph


def convert(program: ExportedProgram, inputs: list[str]) -> onnx.ModelProto:
    """The program in ONNX. Its outputs are named `scores`."""
    # Both report what they leave as it is, on each use.
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=inputs,
            output_names=["scores"],
            dynamic_shapes=None,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    model: onnx.ModelProto = converted.model_proto
    return model


def shrink(model: onnx.ModelProto, precision: str) -> None:
    """Store the matrices of weights as `fp16`, or as `int8` with a scale per row, in place.

    They become float32 again when the file is loaded, and everything is computed in float32: every network keeps its
    range and its operators, and only the rounding of the weights changes the scores.
    """
    graph, nodes = model.graph, []
    for stored in [one for one in graph.initializer if _is_large(one)]:
        name, values = stored.name, numpy_helper.to_array(stored)
        graph.initializer.remove(stored)
        small = f"{name}.{precision}"
        if precision == "fp16":
            half = values.clip(-_LARGEST, _LARGEST).astype(np.float16)
            graph.initializer.append(numpy_helper.from_array(half, small))
            nodes.append(helper.make_node("Cast", [small], [name], to=TensorProto.FLOAT))
        else:
            rows = tuple(range(1, values.ndim))
            scale = np.maximum(np.abs(values).max(axis=rows) / 127, np.finfo(np.float32).tiny).astype(
                np.float32
            )
            whole = np.rint(values / scale.reshape(-1, *[1] * len(rows))).astype(np.int8)
            graph.initializer.append(numpy_helper.from_array(whole, small))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            nodes.append(helper.make_node("DequantizeLinear", [small, f"{name}.scale"], [name], axis=0))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def save(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Write the model with `metadata` in its properties.

    Raises:
        ConfigError: it is larger than an ONNX file can be.
    """
    size = sum(len(one.raw_data) for one in model.graph.initializer)
    if size > _MOST_BYTES:
        raise ConfigError(
            f"precision: expected at most 2 GB of weights, the most an ONNX file holds, found {size / 1e9:.2f} GB; set "
            "precision=fp16 or int8, or a .pt2 output"
        )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _is_large(tensor: onnx.TensorProto) -> bool:
    large = bool(len(tensor.dims) >= 2 and np.prod(tensor.dims) >= _SMALLEST)
    return large and tensor.data_type == TensorProto.FLOAT
