"""A ConvTranspose on a map of one position, as a Gemm: the first layer of many decoders, from a latent of [C, 1, 1].

Every output position reads the one input position through its own tap, y[o] = x * w[o + p]: a matrix product from the
input channels to all outputs. A position that no tap reaches gets a column of zeros, and so the bias alone.

It may be done where

1. weights and bias are constant;
2. there is one group without dilation, and the padding is given, so that the output's size is known.

It pays where no more weights are stored: output padding asks for columns of zeros. ONNX Runtime has an int8 kernel for
the product, and none for ConvTranspose.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, fixed_shape
from edgeae_export.rewrites.steps import Rewrite

RULE = "one_position"


def product_weight(layer: Layer, sizes: tuple[int, ...]) -> Array:
    """The Gemm's weight [inputs, outputs, *sizes] for a ConvTranspose's [inputs, outputs, *kernel]."""
    window, weight = layer.window, layer.weight
    matrix = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    for place in itertools.product(*map(range, sizes)):
        tap = tuple(position + begin for position, begin in zip(place, window.pads_begin, strict=True))
        if all(index < size for index, size in zip(tap, window.kernel, strict=True)):
            there: tuple[Any, ...] = (..., *place)
            here: tuple[Any, ...] = (..., *tap)
            matrix[there] = weight[here]
    return matrix


def _match(node: ir.Node) -> Layer | None:
    layer = Layer.of(node, "ConvTranspose")
    return layer if layer and set((fixed_shape(layer.input) or ())[1:]) == {1} else None


def _obstacle(layer: Layer) -> str:
    output = fixed_shape(layer.output)
    if not layer.constant or layer.window.obstacle() or output is None:  # 1, 2
        return "it is not a plain ConvTranspose with constant weights"
    return "it would store more weights" if math.prod(output[1:]) > math.prod(layer.window.kernel) else ""


def _replace(layer: Layer) -> str:
    output = fixed_shape(layer.output)
    assert output is not None, "asked by `_obstacle`"
    name, inputs, (outputs, *sizes) = f"{layer.name}_product", len(layer.weight), output
    edit = Edit(layer.graph, before=layer.nodes[-1])
    value = edit.reshape(layer.input, [0, inputs], f"{name}_latent")
    weight = edit.constant(product_weight(layer, tuple(sizes)).reshape(inputs, -1), f"{name}_weight")
    bias = edit.constant(np.repeat(layer.bias_or_zeros, math.prod(sizes)), f"{name}_bias")
    value = edit.node("Gemm", [value, weight, bias], name)
    value = edit.again(layer.activation, value, f"{name}_activation")
    value = edit.reshape(value, [0, outputs, *sizes], f"{name}_map")
    edit.replace(layer.end, value, *layer.nodes)
    return f"one Gemm from {inputs} numbers to {math.prod(output)}"


to_gemm = Rewrite(RULE, _match, _obstacle, _replace)
"""Rewrite every ConvTranspose on a map of one position; one on a larger map is no concern."""
