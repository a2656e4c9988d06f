"""Constants that an optimiser takes for nothing: an addition of 1e-15, a factor of 1.000001.

onnxscript's rewrite rules, which torch's exporter runs, match `x + 0` with any number up to 1e-8, and `x * 1` with any
within 1e-5 of one. What divides by such a sum then divides by zero, on some input that nobody may have at hand: so the
graph itself is looked at, whatever the inputs.
"""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir

from edgeae_export.graph.editing import opened
from edgeae_export.graph.values import Array, constant

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
    graph = opened(model).graph
    carried: dict[ir.Value | None, Array | None] = {}
    data: set[ir.Value | None] = {value for value in graph.inputs if constant(value) is None}
    found: Counter[float] = Counter()
    for node in graph:
        values = [carried.get(value, constant(value)) for value in node.inputs]
        if node.op_type in _CARRIERS and values[0] is not None:
            carried[node.outputs[0]] = values[0]
        elif not data.isdisjoint(node.inputs):
            data.update(node.outputs)
            if node.op_type not in _CARRIERS:
                found.update(each for value in values if (each := _delicate(value)) is not None)
    return found


def _delicate(value: Array | None) -> float | None:
    """The one value that a constant holds everywhere, where it is delicate."""
    if value is None or not value.size or value.dtype.kind != "f":
        return None
    first = float(value.flat[0])
    near = 0 < abs(first) <= NEAR_NOTHING or 0 < abs(first - 1) <= NEAR_NOTHING * 10
    return first if near and (value == value.flat[0]).all() else None
