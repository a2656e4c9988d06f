"""Shuffles and maps written channels last, so that ONNX Runtime's int8 convolutions meet no Transpose.

ONNX Runtime runs QLinearConv channels last and cancels Transposes that meet, but it has no rule for DepthToSpace, and
none for a Reshape to a map. With the Conv's channels ordered (row phase, column phase, channel), the shuffle is

    Transpose to channels last, Reshape [N, H, W, b, b*C], Transpose (0, 1, 3, 2, 4), Reshape [N, b*H, b*W, C], and back

whose outer Transposes cancel and whose middle one copies whole blocks. When `phase_split` made one Conv per row phase,
the rows are interleaved by one Concat instead. Shuffles over one or three axes, or of unequal strides, are written
alike. A Gemm that makes a map has its columns reordered to channels last. A nearest Resize by whole factors, which ONNX
Runtime computes channels last element by element, becomes two Concats of a map with itself: the bytes of 64 channels
of 32x32 took 11 us instead of 67.

Preconditions: axes of known size, DepthToSpace in DCR mode, a Reshape that makes one map of each row of the Gemm. Cost
rule: for int8 graphs; in float32 ONNX Runtime blocks channels instead, and the Transposes would stay.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, GraphEditor, attribute
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.resize_phases import nearest_factors
from edgeae_export.rewrites.sibling_gemms import gemm_weights

RULE = "channels_last"
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def to_channels_last(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrite every DepthToSpace and other shuffle, every nearest Resize, and every Gemm -> Reshape to a map."""
    editor = GraphEditor(model)
    decisions = [_shuffle(editor, node) for node in editor.of_type("DepthToSpace")]
    decisions += [_repeat(editor, node) for node in editor.of_type("Resize", "Upsample")]
    for node in editor.of_type("Transpose"):
        decisions += _general(editor, node)
    for node in editor.of_type("Reshape"):
        decisions += _map(editor, node)
    return editor.finish(), decisions


def _shuffle(editor: GraphEditor, node: NodeProto) -> Decision:
    shape = editor.fixed_shape(node.input[0])
    if shape is None or attribute(node, "mode", "DCR") != "DCR":
        return Decision(RULE, node.name, False, "its size is not known, or its mode is not DCR")
    block = attribute(node, "blocksize", 1)
    depth, height, width = shape
    channels = depth // block**2
    rows = editor.producer(node.input[0])
    if rows is not None and rows.op_type == "Concat" and _is_rows(editor, rows, node, block, depth):
        parts = []
        for row in rows.input:
            part = editor.transpose(row, _LAST, f"{node.name}_last")
            parts.append(editor.reshape(part, [0, height, 1, width * block * channels], f"{node.name}_row"))
        tensor = editor.add("Concat", parts, f"{node.name}_interleave", axis=2)
        how = "the row phases interleaved by one Concat"
    else:
        tensor = editor.transpose(node.input[0], _LAST, f"{node.name}_last")
        tensor = editor.reshape(tensor, [0, height, width, block, block * channels], f"{node.name}_blocks")
        tensor = editor.transpose(tensor, [0, 1, 3, 2, 4], f"{node.name}_interleave")
        how = "a copy of whole blocks"
    tensor = editor.reshape(tensor, [0, block * height, block * width, channels], f"{node.name}_map")
    tensor = editor.transpose(tensor, _FIRST, f"{node.name}_first")
    editor.remove(node)
    editor.redirect(node.output[0], tensor)
    return Decision(RULE, node.name, True, f"the shuffle channels last: {how}")


def _is_rows(editor: GraphEditor, concat: NodeProto, shuffle: NodeProto, block: int, depth: int) -> bool:
    """Whether a Concat joins exactly the row phases, for this shuffle alone."""
    equal = all(editor.shape(tensor)[1:2] == (depth // block,) for tensor in concat.input)
    alone = editor.only_consumer(concat.output[0]) is shuffle
    return attribute(concat, "axis", 0) == 1 and len(concat.input) == block and equal and alone


def _general(editor: GraphEditor, interleave: NodeProto) -> list[Decision]:
    """The shuffle of `subpixel` over any axes: Reshape to phases, Transpose, Reshape; any other is no concern."""
    phases, merge = editor.producer(interleave.input[0]), editor.only_consumer(interleave.output[0])
    if phases is None or merge is None or phases.op_type != "Reshape" or merge.op_type != "Reshape":
        return []
    split, shape = editor.fixed_shape(phases.output[0]), editor.fixed_shape(merge.output[0])
    if split is None or shape is None or len(split) % 2 == 0:
        return []
    count = len(split) // 2
    order = [0, count + 1, *(axis for index in range(count) for axis in (count + 2 + index, 1 + index))]
    blocks, strides, channels = split[count + 1 :], split[:count], split[count]
    lengths = tuple(block * stride for block, stride in zip(blocks, strides, strict=True))
    if attribute(interleave, "perm", []) != order or shape != (channels, *lengths):
        return []
    if editor.fixed_shape(phases.input[0]) != (math.prod(strides) * channels, *blocks):
        return []
    name, last = merge.name, [0, *range(2, count + 2), 1]
    tensor = editor.transpose(phases.input[0], last, f"{name}_last")
    tensor = editor.reshape(tensor, [0, *blocks, *strides, channels], f"{name}_blocks")
    pairs = [axis for index in range(count) for axis in (1 + index, 1 + count + index)]
    tensor = editor.transpose(tensor, [0, *pairs, 2 * count + 1], f"{name}_interleave")
    tensor = editor.reshape(tensor, [0, *lengths, channels], f"{name}_map")
    tensor = editor.transpose(tensor, [0, count + 1, *range(1, count + 1)], f"{name}_first")
    editor.remove(merge)
    editor.redirect(merge.output[0], tensor)
    return [Decision(RULE, name, True, "the shuffle channels last: a copy of whole blocks")]


def _repeat(editor: GraphEditor, node: NodeProto) -> Decision:
    """A nearest Resize as Concats of a map with itself."""
    factors, shape = nearest_factors(editor, node), editor.fixed_shape(node.input[0])
    if factors is None or shape is None:
        return Decision(RULE, node.name, False, "it is not a nearest one by whole factors, rounded down")
    channels, height, width = shape
    rows, columns = factors
    tensor = editor.transpose(node.input[0], _LAST, f"{node.name}_last")
    tensor = editor.add("Concat", [tensor] * columns, f"{node.name}_columns", axis=3)
    tensor = editor.reshape(tensor, [0, height, 1, width * columns * channels], f"{node.name}_row")
    tensor = editor.add("Concat", [tensor] * rows, f"{node.name}_rows", axis=2)
    tensor = editor.reshape(tensor, [0, height * rows, width * columns, channels], f"{node.name}_map")
    tensor = editor.transpose(tensor, _FIRST, f"{node.name}_first")
    editor.remove(node)
    editor.redirect(node.output[0], tensor)
    return Decision(RULE, node.name, True, "channels last: every pixel and every row repeated by a Concat")


def _map(editor: GraphEditor, node: NodeProto) -> list[Decision]:
    """Gemm -> (activation) -> Reshape [N, C, H, W]: reorder the Gemm's columns; anything else is no concern."""
    gemm = editor.producer(node.input[0])
    if gemm is not None and gemm.op_type in UNARY_ACTIVATIONS and editor.only_consumer(gemm.output[0]) is node:
        gemm = editor.producer(gemm.input[0])
    weights = gemm_weights(editor, gemm) if gemm is not None and gemm.op_type == "Gemm" else None
    shape = editor.fixed_shape(node.output[0])
    if gemm is None or weights is None or shape is None or len(shape) != 3:
        return []
    if editor.only_consumer(gemm.output[0]) is None:
        return [Decision(RULE, gemm.name, False, "its output is read elsewhere too")]
    if not editor.keeps_rows(node):
        return [Decision(RULE, gemm.name, False, "the reshape after it makes other rows than the Gemm's")]
    channels, height, width = shape
    order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
    inputs = [gemm.input[0]]
    for value, what in zip(weights, ("weight", "bias"), strict=True):
        inputs.append(editor.add_constant(value[..., order], f"{gemm.name}_last_{what}"))
    tensor = editor.add("Gemm", inputs, f"{gemm.name}_last")
    editor.remove(gemm)
    editor.redirect(gemm.output[0], tensor)
    last = editor.reshape(node.input[0], [-1, height, width, channels], f"{node.name}_last")
    first = editor.transpose(last, _FIRST, f"{node.name}_first")
    editor.remove(node)
    editor.redirect(node.output[0], first)
    return [Decision(RULE, gemm.name, True, "its columns reordered, so that the map lies channels last")]
