"""BatchNormalization folded into the Conv, ConvTranspose or Gemm before it.

In inference it is y = x * a + b per channel with a = scale / sqrt(variance + epsilon) and b = bias - mean * a
(ONNX BatchNormalization): scaling the layer's output channels does the same. Computed in float64, stored in float32.

Preconditions: everything constant, the layer's output read by nothing else. Cost: none, a pass over a feature map less;
ONNX Runtime does it itself for Conv, but for ConvTranspose only in its newer versions.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import Array, GraphEditor, attribute
from edgeae_export.rewrites.decision import Decision

RULE = "batchnorm"


def fold_batchnorm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Fold every BatchNormalization that follows a layer with constant weights."""
    editor = GraphEditor(model)
    decisions = [_fold(editor, node) for node in editor.of_type("BatchNormalization")]
    return editor.finish(), decisions


def _fold(editor: GraphEditor, node: NodeProto) -> Decision:
    layer = editor.producer(node.input[0])
    if layer is None or layer.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return Decision(RULE, node.name, False, "no Conv, ConvTranspose or Gemm makes its input")
    parameters = [editor.constant(tensor) for tensor in (*node.input[1:5], layer.input[1])]
    bias = editor.constant(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else np.zeros(1, np.float32)
    if any(value is None for value in (*parameters, bias)) or attribute(node, "training_mode", 0):
        return Decision(RULE, node.name, False, "its parameters or the layer's weights are not constant")
    if editor.only_consumer(layer.output[0]) is not node:
        return Decision(RULE, node.name, False, "the layer's output is read elsewhere too")
    if layer.op_type == "Gemm" and (attribute(layer, "alpha", 1.0) != 1 or attribute(layer, "beta", 1.0) != 1):
        return Decision(RULE, node.name, False, "the Gemm scales its product")
    scale, shift, mean, variance, weight = (np.asarray(value) for value in parameters)
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attribute(node, "epsilon", 1e-5))
    new_bias = np.asarray(bias, np.float64).reshape(-1) * factor + shift - mean * factor
    new_weight = weight * _per_output(factor, layer, weight)
    hint = f"{layer.name}_folded"
    layer.input[1] = editor.add_constant(new_weight.astype(weight.dtype), f"{hint}_weight")
    name = editor.add_constant(new_bias.astype(weight.dtype), f"{hint}_bias")
    if len(layer.input) > 2:
        layer.input[2] = name
    else:
        layer.input.append(name)
    editor.remove(node)
    editor.redirect(node.output[0], layer.output[0])
    return Decision(RULE, node.name, True, f"folded into {layer.name}")


def _per_output(factor: Array, layer: NodeProto, weight: Array) -> Array:
    """The factors, shaped to multiply the output channels of the layer's weight."""
    if layer.op_type == "Gemm":
        return factor[:, None] if attribute(layer, "transB", 0) else factor[None, :]
    spatial = (1,) * (weight.ndim - 2)
    if layer.op_type == "Conv":
        return factor.reshape(-1, 1, *spatial)
    groups = attribute(layer, "group", 1)  # weight [Cin, Cout / groups, ...]: each group of inputs has its own outputs
    per_group = factor.reshape(groups, 1, -1)
    return np.repeat(per_group, weight.shape[0] // groups, axis=1).reshape(weight.shape[0], -1, *spatial)
