"""BatchNormalization folded into the Conv, ConvTranspose or Gemm before it.

In inference it is y = x * a + b per channel with a = scale / sqrt(variance + epsilon) and b = bias - mean * a
(ONNX BatchNormalization): scaling the layer's output channels does the same. Computed in float64, stored in float32.

It may be done where

1. a Conv, ConvTranspose or Gemm makes what is normalised; with anything else the rewrite has nothing to do;
2. everything is constant, and the running statistics are used: in training mode they are the batch's own;
3. the layer's output is read by nothing else, which would see it scaled;
4. a Gemm scales nothing itself: its factors would apply to the new bias too.

It always pays: a pass over a feature map less. ONNX Runtime does it itself for Conv, but for ConvTranspose only in its
newer versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, attribute, constant, name_of, only_reader, read
from edgeae_export.rewrites.steps import Rewrite

RULE = "batchnorm"
_LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class _Normalised:
    """A BatchNormalization, and the layer before it."""

    node: ir.Node
    layer: Layer

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def statistics(self) -> list[Array | None]:
        """Scale, bias, mean and variance, each [channels]."""
        return [constant(value) for value in self.node.inputs[1:5]]


def _match(node: ir.Node) -> _Normalised | None:
    if node.op_type != "BatchNormalization":
        return None
    layer = Layer.of(read(node).producer(), *_LAYERS)  # 1
    return _Normalised(node, layer) if layer else None


def _obstacle(found: _Normalised) -> str:
    layer, node = found.layer, found.node
    if not layer.constant or any(value is None for value in found.statistics) or attribute(node, "training_mode", 0):
        return "its parameters or the layer's weights are not constant"  # 2
    if only_reader(layer.output) is not node:  # 3
        return "the layer's output is read elsewhere too"
    return "the Gemm scales its product" if layer.is_scaled else ""  # 4


def _replace(found: _Normalised) -> str:
    layer, node = found.layer, found.node
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in found.statistics)
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    weight, bias = layer.weight, layer.bias_or_zeros.astype(np.float64).reshape(-1)
    edit = Edit(layer.graph, before=layer.node)
    folded = {
        "weight": weight * _per_output(factor, layer),
        "bias": bias * factor + shift - mean * factor,
    }
    constants = [
        edit.constant(value.astype(weight.dtype), f"{layer.name}_folded_{what}") for what, value in folded.items()
    ]
    layer.set_constants(*constants)
    edit.replace(node.outputs[0], layer.output, node)
    return f"folded into {layer.name}"


def _per_output(factor: Array, layer: Layer) -> Array:
    """The factors, shaped to multiply the output channels of the layer's weight."""
    weight = layer.weight
    if layer.op_type == "ConvTranspose":  # [Cin, Cout / groups, ...]: each group of inputs has its own outputs
        groups, spatial = attribute(layer.node, "group", 1), (1,) * (weight.ndim - 2)
        per_group = factor.reshape(groups, 1, -1)
        return np.repeat(per_group, weight.shape[0] // groups, axis=1).reshape(weight.shape[0], -1, *spatial)
    return factor.reshape([-1 if axis == layer.output_axis else 1 for axis in range(weight.ndim)])


fold_batchnorm = Rewrite(RULE, _match, _obstacle, _replace)
"""Fold every BatchNormalization that follows a layer with constant weights."""
