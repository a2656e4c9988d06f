"""Weights that stay in float beside int8 layers, stored in 16 bits.

A layer is kept in float for its speed or for the precision of its sums; its weights, rounded to float16, are
still a hundred times finer than the 8 bits beside them. They are stored as float16 with a Cast behind, which ONNX
Runtime evaluates once, at load: half the bytes, the same kernels.

float16 has few exponents: numbers below 6e-5 lose bits, those below 6e-8 become zero. So a weight is stored so
only where every output and every input of the layer keeps its weights nearly as they are (a layer that reads several
physical units has small weights for large inputs), and a bias only where the rounding that follows is far coarser.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer, layers_of
from edgeae_export.graph.values import Array, attribute, constant, only_reader, read

SMALLEST = 1024
"""Numbers in a tensor below which the Cast's own bytes would eat the gain."""
MOST_LOST = 1e-3
"""Norm of what the weights of one output or input may lose, relative to their own: rounding alone is below 5e-4."""
MOST_SHIFT = 1 / 8
"""What a bias may lose, in steps of the 8 bits that its sum is rounded to next."""


def store_in_float16(graph: ir.Graph) -> None:
    """Store the float32 weights and biases of an int8 graph's float layers as float16, where it costs no precision.

    Args:
        graph: an opened graph; it is changed in place.
    """
    edit = Edit(graph)
    cast_of: dict[ir.Value, ir.Value] = {}
    for layer in layers_of(graph):
        for index, given in enumerate(layer.node.inputs[1:], start=1):
            value = constant(given)
            if given is None or value is None or value.dtype != np.float32 or value.size < SMALLEST:
                continue
            if not (_keeps_weight(layer, value) if index == 1 else _keeps_bias(layer, value)):
                continue
            if given not in cast_of:  # one for all layers that share it
                stored = edit.constant(value.astype(np.float16), f"{given.name}_half")
                cast_of[given] = edit.node("Cast", [stored], f"{given.name}_cast", to=ir.DataType.FLOAT.value)
            layer.node.replace_input_with(index, cast_of[given])


def _keeps_weight(layer: Layer, weight: Array) -> bool:
    """Whether no output and no input of the layer would lose more than `MOST_LOST`."""
    lost = _lost(weight)
    if not np.isfinite(lost).all():
        return False
    grouped = layer.op_type == "ConvTranspose" and attribute(layer.node, "group", 1) != 1
    axes = (0,) if grouped else range(2)  # of a grouped ConvTranspose, the second axis mixes outputs
    for axis in axes:
        others = tuple(other for other in range(weight.ndim) if other != axis)
        norms = [np.sqrt(np.square(each, dtype=np.float64).sum(axis=others)) for each in (lost, weight)]
        if (norms[0] > MOST_LOST * norms[1]).any():
            return False
    return True


def _keeps_bias(layer: Layer, bias: Array) -> bool:
    """Whether the layer's output is quantised next, in steps far above what the bias would lose."""
    follows = layer.activation
    steep = follows is not None and follows.op_type == "Exp"  # the others have slopes of about one
    quantizer = only_reader(layer.output if steep else layer.end, ("QuantizeLinear",))
    step = None if quantizer is None else constant(read(quantizer, 1))
    return step is not None and float(np.abs(_lost(bias)).max()) <= MOST_SHIFT * float(step)


def _lost(value: Array) -> Array:
    """What rounding to float16 takes from a tensor; infinite where it is out of range."""
    with np.errstate(over="ignore"):
        lost: Array = value.astype(np.float64) - value.astype(np.float16)
    return lost
