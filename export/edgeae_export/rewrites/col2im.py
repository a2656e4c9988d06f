"""ConvTranspose -> MatMul -> Col2Im: the two halves of a transposed convolution, apart.

A ConvTranspose is a matrix product, from the input channels of each position to outputs * kernel numbers, followed by
adding the overlapping blocks into the image, which is ONNX's Col2Im. Apart, the product can run in 8 bits, with its
sums left in float, though no int8 kernel of ConvTranspose exists; the bias is added after.

Preconditions: 2-D, constant weights, one group, no dilation, explicit padding, known spatial size. Cost rule: as in
`below_shuffle`, at most `MAX_COLUMNS` numbers per position; with more, the sums in float cost more than they save.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor
from edgeae_export.rewrites.below_shuffle import MAX_COLUMNS
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "col2im"


def split_col2im(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Split every ConvTranspose with few outputs."""
    editor = GraphEditor(model)
    decisions = [_split(editor, node) for node in editor.of_type("ConvTranspose")]
    return editor.finish(), decisions


def obstacle_to_columns(editor: GraphEditor, node: NodeProto) -> str:
    """Why a ConvTranspose is not split; empty when it is."""
    window = Window.of(editor, node)
    if window is None:
        return "its weights are not constant"
    if problem := window.obstacle():
        return problem
    if len(window.kernel) != 2 or None in (editor.fixed_shape(node.input[0]), editor.fixed_shape(node.output[0])):
        return "it is not two-dimensional with a known size"
    columns = editor.constants[node.input[1]][0].size
    return f"{columns} numbers per position, at most {MAX_COLUMNS} pay" if columns > MAX_COLUMNS else ""


def _split(editor: GraphEditor, node: NodeProto) -> Decision:
    if problem := obstacle_to_columns(editor, node):
        return Decision(RULE, node.name, False, problem)
    window, weight = Window.of(editor, node), editor.constants[node.input[1]]
    sizes, image = editor.fixed_shape(node.input[0]), editor.fixed_shape(node.output[0])
    assert window is not None
    assert sizes is not None
    assert image is not None
    channels, columns = len(weight), weight[0].size
    name = f"{node.name}_columns"
    _, height, width = sizes
    # Channels last: so the product's left side is what the int8 convolution before it leaves in memory.
    positions = editor.transpose(node.input[0], [0, 2, 3, 1], f"{name}_last")
    positions = editor.reshape(positions, [0, height * width, channels], f"{name}_positions")
    matrix = editor.add_constant(weight.reshape(channels, columns), f"{name}_weight")
    product = editor.add("MatMul", [positions, matrix], name)
    product = editor.transpose(product, [0, 2, 1], f"{name}_first")
    blocks = [
        editor.add_constant(np.array(value, np.int64), f"{name}_{what}")
        for what, value in (("image", image[1:]), ("block", window.kernel))
    ]
    output = editor.add(
        "Col2Im",
        [product, *blocks],
        f"{name}_col2im",
        strides=list(window.strides),
        pads=[*window.pads_begin, *window.pads_end],
    )
    if len(node.input) > 2 and node.input[2]:
        bias = editor.constants[node.input[2]].reshape(1, -1, 1, 1)
        output = editor.add("Add", [output, editor.add_constant(bias, f"{name}_bias")], f"{name}_sum")
    editor.remove(node)
    editor.redirect(node.output[0], output)
    return Decision(RULE, node.name, True, f"a product of {columns} columns, then Col2Im")
