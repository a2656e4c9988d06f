"""ConvTranspose -> MatMul -> Col2Im: the two halves of a transposed convolution, apart.

A ConvTranspose is a matrix product, from the input channels of each position to outputs * kernel numbers, followed by
adding the overlapping blocks into the image, which is ONNX's Col2Im. Apart, the product can run in 8 bits, with its
sums left in float, though no int8 kernel of ConvTranspose exists; the bias is added after.

It may be done where

1. weights and bias are constant;
2. there is one group without dilation, and the padding is given;
3. the map has two axes, of known size, as Col2Im is told the image's.

It pays where, as in `below_shuffle`, at most `MAX_COLUMNS` numbers are made per position; with more, the sums in float
cost more than they save.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import fixed_shape
from edgeae_export.rewrites.below_shuffle import MAX_COLUMNS
from edgeae_export.rewrites.steps import Rewrite

RULE = "col2im"


def obstacle_to_columns(layer: Layer) -> str:
    """Why a ConvTranspose is not split; empty when it is."""
    if not layer.constant:  # 1
        return "its weights are not constant"
    if why := layer.window.obstacle():  # 2
        return why
    if len(layer.window.kernel) != 2 or None in (fixed_shape(layer.input), fixed_shape(layer.output)):  # 3
        return "it is not two-dimensional with a known size"
    columns = layer.weight[0].size
    return f"{columns} numbers per position, at most {MAX_COLUMNS} pay" if columns > MAX_COLUMNS else ""


def _match(node: ir.Node) -> Layer | None:
    return Layer.of(node, "ConvTranspose")


def _replace(layer: Layer) -> str:
    sizes, image = fixed_shape(layer.input), fixed_shape(layer.output)
    assert sizes is not None, "asked by `obstacle_to_columns`"
    assert image is not None, "asked by `obstacle_to_columns`"
    (channels, height, width), window, name = sizes, layer.window, f"{layer.name}_columns"
    weight = layer.weight.reshape(channels, -1)
    edit = Edit(layer.graph, before=layer.node)
    # Channels last: so the product's left side is what the int8 convolution before it leaves in memory.
    value = edit.transpose(layer.input, [0, 2, 3, 1], f"{name}_last")
    value = edit.reshape(value, [0, height * width, channels], f"{name}_positions")
    value = edit.node("MatMul", [value, edit.constant(weight, f"{name}_weight")], name)
    value = edit.transpose(value, [0, 2, 1], f"{name}_first")
    size = edit.constant(np.array(image[1:], np.int64), f"{name}_image")
    block = edit.constant(np.array(window.kernel, np.int64), f"{name}_block")
    pads = [*window.pads_begin, *window.pads_end]
    value = edit.node("Col2Im", [value, size, block], f"{name}_col2im", strides=list(window.strides), pads=pads)
    if layer.bias is not None:
        value = edit.node("Add", [value, edit.constant(layer.bias.reshape(1, -1, 1, 1), f"{name}_bias")], f"{name}_sum")
    edit.replace(layer.output, value, layer.node)
    return f"a product of {weight.shape[1]} columns, then Col2Im"


split_col2im = Rewrite(RULE, _match, obstacle_to_columns, _replace)
"""Split every ConvTranspose with few outputs."""
