"""A Conv whose output channels leave parts of the kernel zero, split into Convs with smaller kernels.

The stacked kernel of `subpixel` covers the taps of all phases; those of one row phase leave whole rows of it zero.
Split by row phase, the Convs skip these rows; their outputs are joined again by a Concat, which costs next to nothing
where channels lie last in memory.

Preconditions: constant weights, stride 1, one group, no dilation, explicit padding. Cost rule: at least `MIN_SAVING`
of the multiply-adds saved: each further Conv has its own start-up and reads the map again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, Array, GraphEditor, attribute
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "phase_split"
MIN_SAVING = 0.2


@dataclass(frozen=True)
class Trimmed:
    """A kernel without its outer zeros."""

    weight: Array
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]


def split_phases(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Split every Conv that feeds a shuffle, or a ConvTranspose merged with one, by row phase."""
    editor = GraphEditor(model)
    decisions = [
        _split(editor, node, block) for node in editor.of_type("Conv") if (block := _row_phases(editor, node)) > 1
    ]
    return editor.finish(), decisions


def trim(weight: Array, pads_begin: tuple[int, ...], pads_end: tuple[int, ...]) -> Trimmed:
    """Drop outer rows and columns of zeros, as far as the padding that they stand for can shrink with them."""
    begin, end = list(pads_begin), list(pads_end)
    for axis in range(2, weight.ndim):
        others = tuple(index for index in range(weight.ndim) if index != axis)
        used = np.flatnonzero(np.any(weight != 0, axis=others))
        size, index = weight.shape[axis], axis - 2
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        first, beyond = min(first, begin[index]), min(size - 1 - last, end[index])
        begin[index] -= first
        end[index] -= beyond
        weight = np.take(weight, range(first, size - beyond), axis)
    return Trimmed(weight, tuple(begin), tuple(end))


def _row_phases(editor: GraphEditor, node: NodeProto) -> int:
    """How many row phases the Conv's output channels hold, outermost: 1 when they hold none."""
    reader = editor.only_consumer(node.output[0])
    if reader is not None and reader.op_type in UNARY_ACTIVATIONS:
        reader = editor.only_consumer(reader.output[0])
    if reader is None:
        return 1
    if reader.op_type == "DepthToSpace" and attribute(reader, "mode", "DCR") == "DCR":
        return int(attribute(reader, "blocksize", 1))
    if reader.op_type == "ConvTranspose":
        return int(attribute(reader, "strides", [1, 1])[0])
    return 1


def _split(editor: GraphEditor, node: NodeProto, phases: int) -> Decision:
    window = Window.of(editor, node)
    if window is None or window.obstacle() or any(stride != 1 for stride in window.strides):
        return Decision(RULE, node.name, False, "it is not a plain Conv with stride 1 and constant weights")
    weight = editor.constants[node.input[1]]
    if len(weight) % phases:
        return Decision(RULE, node.name, False, f"its channels do not divide into {phases} row phases")
    bias = (
        editor.constants[node.input[2]]
        if len(node.input) > 2 and node.input[2]
        else np.zeros(len(weight), weight.dtype)
    )
    parts = [trim(part, window.pads_begin, window.pads_end) for part in np.split(weight, phases)]
    saved = 1 - sum(part.weight.size for part in parts) / weight.size
    if saved < MIN_SAVING:
        return Decision(RULE, node.name, False, f"it would save {100 * saved:.0f} % of the multiply-adds")
    activation = editor.only_consumer(node.output[0])
    if activation is not None and activation.op_type not in UNARY_ACTIVATIONS:
        activation = None
    outputs = []
    for row, (part, part_bias) in enumerate(zip(parts, np.split(bias, phases), strict=True)):
        name = f"{node.name}_row{row}"
        inputs = [
            node.input[0],
            editor.add_constant(part.weight, f"{name}_weight"),
            editor.add_constant(part_bias, f"{name}_bias"),
        ]
        pads = [*part.pads_begin, *part.pads_end]
        output = editor.add("Conv", inputs, name, kernel_shape=list(part.weight.shape[2:]), pads=pads)
        if activation is not None:
            output = editor.copy_of(activation, output, f"{activation.name}_row{row}")
        outputs.append(output)
    joined = editor.add("Concat", outputs, f"{node.name}_rows", axis=1)
    end = node if activation is None else activation
    editor.remove(node, end)
    editor.redirect(end.output[0], joined)
    kernels = " and ".join("x".join(map(str, part.weight.shape[2:])) for part in parts)
    return Decision(RULE, node.name, True, f"kernels {kernels}, {100 * saved:.0f} % of the multiply-adds saved")
