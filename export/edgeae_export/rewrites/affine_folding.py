"""Gemm -> Reshape -> Conv or ConvTranspose, folded into one Gemm when nothing nonlinear lies between them.

The composition of affine maps is affine: the new weight's rows are what the convolution makes of each row of the old
weight, and the new bias what it makes of the old bias. Computed in float64, stored in float32. An activation that
follows is moved before the new Reshape, with which elementwise functions commute.

It may be done where

1. all weights and biases are constant, and the Gemm scales nothing;
2. the padding is given, and the same on both sides, as the convolution that computes the new weight takes it;
3. what lies between them is read by nothing else, which would need the Gemm too;
4. the size of the map is known;
5. the Reshape makes one map of each row: it may as well fold rows into the batch, and others out of it.

It pays where there are no more weights to store and to read, and then it takes no more multiply-adds either, as a
convolution uses each of its weights at every position. This holds for small latents: a decoder's first layer is a Gemm
from few numbers to a small map, and the convolution after it holds the largest weight of all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, fixed_shape, keeps_rows, maker, only_reader, read
from edgeae_export.rewrites.steps import Rewrite

RULE = "affine_folding"


@dataclass(frozen=True)
class _Affine:
    """The three, in their order."""

    gemm: Layer
    reshape: ir.Node
    layer: Layer

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def counts(self) -> tuple[int, int, int]:
        """Multiply-adds and weights as they are, and either one after folding."""
        gemm, layer = self.gemm, self.layer
        inputs, outputs = gemm.weight.size // gemm.outputs, math.prod(fixed_shape(layer.output) or ())
        return gemm.multiply_adds + layer.multiply_adds, gemm.weight.size + layer.weight.size, inputs * outputs


def _match(node: ir.Node) -> _Affine | None:
    layer = Layer.of(node, "Conv", "ConvTranspose")
    reshape = maker(layer.input, {"Reshape"}) if layer else None
    gemm = Layer.of(read(reshape).producer(), "Gemm") if reshape else None
    return _Affine(gemm, reshape, layer) if layer and reshape and gemm else None


def _obstacle(found: _Affine) -> str:
    gemm, reshape, layer = found.gemm, found.reshape, found.layer
    if not layer.constant or gemm.matrix is None:  # 1
        return "its weights or those of the Gemm before it are not constant"
    window = layer.window
    if window.auto_pad != "NOTSET" or window.output_shape or window.pads_begin != window.pads_end:  # 2
        return "its padding is not the same on both sides"
    if only_reader(gemm.output) is not reshape or only_reader(layer.input) is not layer.node:  # 3
        return "what lies between it and the Gemm is read elsewhere too"
    if fixed_shape(layer.input) is None or fixed_shape(layer.output) is None:  # 4
        return "the size of the map is not known"
    if not keeps_rows(reshape):  # 5
        return "the reshape between them makes other rows than the Gemm's"
    _, stored, after = found.counts
    if after > stored:
        return f"it would not pay: {_told(found, 'would become')}"
    return ""


def _replace(found: _Affine) -> str:
    gemm, layer, name = found.gemm, found.layer, f"{found.layer.name}_folded"
    told = f"folded into {gemm.name}: {_told(found, 'became')}"
    shape = fixed_shape(layer.input) or ()
    weight, bias = (_convolved(layer, rows.reshape(-1, *shape)) for rows in gemm.matrix or ())
    bias = bias[0] + layer.bias_or_zeros.reshape(-1, *(1,) * (bias.ndim - 2))
    edit = Edit(layer.graph, before=layer.nodes[-1])
    constants = [
        edit.constant(weight.reshape(len(weight), -1).astype(np.float32), f"{name}_weight"),
        edit.constant(bias.reshape(-1).astype(np.float32), f"{name}_bias"),
    ]
    value = edit.node("Gemm", [gemm.input, *constants], name)
    value = edit.again(layer.activation, value, f"{name}_activation")
    value = edit.reshape(value, [-1, *bias.shape], f"{name}_map")
    edit.replace(layer.end, value, gemm.node, found.reshape, *layer.nodes)
    return told


def _told(found: _Affine, become: str) -> str:
    work, stored, after = found.counts
    return f"{work:,} multiply-adds {become} {after:,}, and {stored:,} weights {after:,}"


def _convolved(layer: Layer, maps: Array) -> Array:
    """The layer without its bias, on a batch of maps, in float64."""
    window, transposed = layer.window, layer.op_type == "ConvTranspose"
    rows, weight = (torch.from_numpy(np.array(value, np.float64)) for value in (maps, layer.weight))
    places = window.strides, window.pads_begin, window.dilations
    result: Array = torch.convolution(
        rows, weight, None, *places, transposed, window.output_padding, window.groups
    ).numpy()
    return result


fold_affine = Rewrite(RULE, _match, _obstacle, _replace)
"""Fold every Gemm -> Reshape -> convolution that is worth it."""
