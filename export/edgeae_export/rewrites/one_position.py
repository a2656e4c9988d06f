"""A ConvTranspose on a map of one position, as a Gemm: the first layer of many decoders, from a latent of [C, 1, 1].

Every output position reads the one input position through its own tap, y[o] = x * w[o + p]: a matrix product from the
input channels to all outputs. ONNX Runtime has an int8 kernel for it, and none for ConvTranspose.

Preconditions: constant weights, one group, explicit padding, at most `Cin` * output numbers of weights. Cost: none;
positions that no tap reaches become rows of zeros, which output padding or dilation alone can make, so that the
weights may not grow.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, GraphEditor
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "one_position"


def to_gemm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrite every ConvTranspose on a map of one position; one on a larger map is no concern."""
    editor = GraphEditor(model)
    decisions = []
    for node in editor.of_type("ConvTranspose"):
        shape = editor.fixed_shape(node.input[0])
        if shape is not None and len(shape) > 1 and set(shape[1:]) == {1}:
            decisions.append(_rewrite(editor, node))
    return editor.finish(), decisions


def _rewrite(editor: GraphEditor, node: NodeProto) -> Decision:
    window, output = Window.of(editor, node), editor.fixed_shape(node.output[0])
    if window is None or window.obstacle() or output is None:
        return Decision(RULE, node.name, False, "it is not a plain ConvTranspose with constant weights")
    weight = editor.constants[node.input[1]]
    inputs, outputs, *kernel = weight.shape
    matrix = np.zeros((inputs, outputs, *output[1:]), weight.dtype)
    for place in itertools.product(*map(range, output[1:])):
        tap = tuple(position + begin for position, begin in zip(place, window.pads_begin, strict=True))
        if all(0 <= index < size for index, size in zip(tap, kernel, strict=True)):
            there: tuple[Any, ...] = (..., *place)
            here: tuple[Any, ...] = (..., *tap)
            matrix[there] = weight[here]
    if matrix.size > weight.size:
        return Decision(RULE, node.name, False, "it would store more weights")
    name = f"{node.name}_product"
    bias = editor.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(outputs, weight.dtype)
    tensor = editor.reshape(node.input[0], [0, inputs], f"{name}_latent")
    constants = [
        editor.add_constant(matrix.reshape(inputs, -1), f"{name}_weight"),
        editor.add_constant(np.repeat(bias, math.prod(output[1:])), f"{name}_bias"),
    ]
    tensor = editor.add("Gemm", [tensor, *constants], name)
    end = node.output[0]
    activation = editor.only_consumer(end)
    if activation is not None and activation.op_type in UNARY_ACTIVATIONS:
        activation.input[0], end = tensor, activation.output[0]
        tensor = activation.output[0] = editor.add_name(f"{activation.name}_flat")
    tensor = editor.reshape(tensor, [0, *output], f"{name}_map")
    editor.remove(node)
    editor.redirect(end, tensor)
    return Decision(RULE, node.name, True, f"one Gemm from {inputs} numbers to {matrix[0].size}")
