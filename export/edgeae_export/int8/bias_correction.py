"""Bias correction (Nagel et al. 2019): what rounding and clipping shift a layer's mean by is given back in its bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.editing import opened
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, name_of, named_nodes
from edgeae_export.int8.calibration import activations
from edgeae_export.int8.placement import Sites

Shifts = Mapping[str, Array]
"""Per layer, what to add to its bias: float64 [output channels]."""

ROUNDS = 2
"""The shift of a layer moves the layers after it; a second look settles them."""


def correct_biases(
    model: onnx.ModelProto, sites: Sites, inputs: Float32Array, quantized: Callable[[Shifts], onnx.ModelProto]
) -> dict[str, Array]:
    """The shifts that give every quantised Conv and Gemm its float mean back, per output channel.

    Args:
        model: the float32 graph.
        sites: where it is quantised.
        inputs: calibration inputs.
        quantized: makes the int8 graph with given shifts.
    """
    layers = [Layer(node) for node in named_nodes(opened(model).graph, sites.layers)]
    outputs = {layer.name: name_of(layer.output) for layer in layers if layer.has_bias}
    wanted = _means(model, outputs, inputs)
    shifts: dict[str, Array] = {name: np.zeros(len(mean)) for name, mean in wanted.items()}
    for _ in range(ROUNDS):
        found = _means(quantized(shifts), outputs, inputs)
        for name in shifts:
            shifts[name] = shifts[name] + wanted[name] - found[name]
    return shifts


def _means(model: onnx.ModelProto, outputs: Mapping[str, str], inputs: Float32Array) -> dict[str, Array]:
    """Mean of each output channel, over inputs and positions."""
    sums: dict[str, Array] = {}
    for values in activations(model, outputs.values(), inputs):
        for name, tensor in outputs.items():
            value = values[tensor].astype(np.float64)
            total = value.sum(axis=(0, *range(2, value.ndim))) / value[0, 0].size
            sums[name] = sums.get(name, np.zeros(1)) + total
    return {name: total / len(inputs) for name, total in sums.items()}
