"""A convolution with few outputs, widened with zeros to what the int8 kernels want, and cut again.

An output channel depends on its own rows of the weight alone: further rows of zeros make further channels, and without
these the output is what it was.

It may be done where

1. weights and bias are constant, so that they are widened already;
2. there is one group: the outputs are divided evenly among several.

It pays in int8, for a kernel of more than one position. ONNX Runtime's symmetric kernels write at least 16 channels at
once (MLAS, ConvSym); a convolution with fewer falls back to a matrix product over copied patches. With 64 inputs, a 3x3
kernel and 64x64 positions, 3 outputs measured 350 us and 16 outputs 204 us on AVX-512 VNNI: four fifths of the wider
product are zeros, and it is still faster. It takes `FEWEST_POSITIONS`: on 16x16 it took 25 % to 45 % less time with 8
to 64 inputs, on 8x8 5 % to 20 %, which the zeros that are stored are not worth.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, fixed_shape, only_reader
from edgeae_export.rewrites.steps import Rewrite

RULE = "wide_outputs"
OUTPUTS = 16
FEWEST_POSITIONS = 256


def _match(node: ir.Node) -> Layer | None:
    layer = Layer.of(node, "Conv")
    return layer if layer and layer.constant and layer.outputs < OUTPUTS else None  # 1


def _obstacle(layer: Layer) -> str:
    if layer.window.groups != 1:  # 2
        return "it has groups"
    shape = fixed_shape(layer.output)
    if math.prod(layer.window.kernel) == 1 or shape is None or math.prod(shape[1:]) < FEWEST_POSITIONS:
        return "it reads single positions, or writes few"
    return ""


def _replace(layer: Layer) -> str:
    outputs, name = layer.outputs, f"{layer.name}_wide"
    relu = only_reader(layer.output, {"Relu"})  # before the cut it goes on fusing with the convolution
    edit = Edit(layer.graph, before=relu or layer.node)
    constants = [edit.constant(_wider(layer.weight), f"{name}_weight")]
    if layer.bias is not None:
        constants.append(edit.constant(_wider(layer.bias), f"{name}_bias"))
    value = edit.again(layer.node, layer.input, name, *constants)
    value = edit.again(relu, value, f"{name}_activation")
    cut = [edit.constant(np.array([index], np.int64), f"{name}_cut") for index in (0, outputs, 1)]
    value = edit.node("Slice", [value, *cut], f"{name}_outputs")
    edit.replace((relu or layer.node).outputs[0], value, layer.node, *([relu] if relu else []))
    return f"{outputs} outputs widened to {OUTPUTS}, then cut"


def _wider(array: Array) -> Array:
    """With zeros behind, along its first axis."""
    return np.pad(array, [(0, OUTPUTS - len(array))] + [(0, 0)] * (array.ndim - 1))


widen_outputs = Rewrite(RULE, _match, _obstacle, _replace)
"""Widen every Conv with fewer than `OUTPUTS` outputs."""
