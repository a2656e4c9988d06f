"""Constants that an optimiser takes for nothing: an addition of 1e-15, a factor of 1.000001.

onnxscript's rewrite rules, which torch's exporter runs, match `x + 0` with any number up to 1e-8, and `x * 1` with any
within 1e-5 of one. What divides by such a sum then divides by zero, on some input that nobody may have at hand: so the
graph itself is looked at, whatever the inputs.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from edgeae_export.graph.layers import Array

NEAR_NOTHING = 1e-6
"""A constant above zero and up to this, or as near to one, may be taken for none; a hundred times what is known to."""
_CARRIERS = ("Identity", "Cast", "CastLike", "Expand", "Reshape", "Unsqueeze", "Squeeze")
"""Operators through which a constant's values pass unchanged."""


def lost_constants(before: onnx.ModelProto, after: onnx.ModelProto) -> list[float]:
    """The delicate constants that meet data less often than before, smallest first.

    Args:
        before: a graph.
        after: what an optimiser made of it.
    """
    return sorted(delicate_constants(before) - delicate_constants(after))


def delicate_constants(model: onnx.ModelProto) -> Counter[float]:
    """How often each constant of one value that is nearly zero or nearly one meets what comes from the input."""
    graph = model.graph
    constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    data = {value.name for value in graph.input} - set(constants)
    found: Counter[float] = Counter()
    for node in graph.node:
        if node.op_type == "Constant":
            constants |= _constant(node)
        elif node.op_type in _CARRIERS and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        elif any(tensor in data for tensor in node.input):
            data |= set(node.output)
            if node.op_type not in _CARRIERS:
                found.update(value for tensor in node.input if (value := _delicate(constants.get(tensor))) is not None)
    return found


def _constant(node: NodeProto) -> dict[str, Array]:
    for entry in node.attribute:
        if entry.name == "value":
            return {node.output[0]: numpy_helper.to_array(entry.t)}
        if entry.name in ("value_float", "value_floats"):
            return {node.output[0]: np.asarray(onnx.helper.get_attribute_value(entry), np.float32)}
    return {}


def _delicate(value: Array | None) -> float | None:
    """The one value that a constant holds everywhere, where it is delicate."""
    if value is None or not value.size or value.dtype.kind != "f":
        return None
    first = float(value.flat[0])
    near = 0 < abs(first) <= NEAR_NOTHING or 0 < abs(first - 1) <= NEAR_NOTHING * 10
    return first if near and (value == value.flat[0]).all() else None
