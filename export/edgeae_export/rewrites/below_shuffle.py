"""A convolution moved below the shuffle before it: DepthToSpace -> Conv becomes one ConvTranspose on the small map.

With block b, kernel k and begin padding p, the Conv reads y[b*i + a] = x[i, (a, channel)] and computes

    out[o] = sum over t of y[o + t - p] * w[t]

so the element x[i, (a, channel)] reaches out[b*i + a + p - t] with weight w[t]: a ConvTranspose from the b*b*channels
of the small map with stride b, kernel b + k - 1 and padding k - 1 - p, whose tap r holds w[a + k - 1 - r]. After
`subpixel` this removes the shuffle and the large map in front of a decoder's last convolution altogether.

Preconditions: constant weights, stride 1, one group, no dilation, padding of at most k - 1, and a shuffle that
nothing else reads. Cost rule: few outputs. A ConvTranspose spreads (b + k - 1)^2 * outputs numbers per position of
the small map; up to `MAX_COLUMNS` of them it beats the convolution on the large map.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import Array, GraphEditor, attribute
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "below_shuffle"
MAX_COLUMNS = 64
"""Numbers a ConvTranspose may spread per input position: a decoder's last layer, 16 for one channel, 48 for three."""


def move_below_shuffle(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Merge every DepthToSpace with the Conv after it, where it pays."""
    editor = GraphEditor(model)
    decisions = []
    for node in editor.of_type("Conv"):
        shuffle = editor.producer(node.input[0])
        if shuffle is not None and shuffle.op_type == "DepthToSpace":
            decisions.append(_merge(editor, shuffle, node))
    return editor.finish(), decisions


def obstacle_to_merging(editor: GraphEditor, node: NodeProto, block: int) -> str:
    """Why a Conv could not be merged with a shuffle of `block` before it; empty when it can."""
    window = Window.of(editor, node)
    if window is None:
        return "its weights are not constant"
    if problem := window.obstacle():
        return problem
    if len(window.kernel) != 2 or any(stride != 1 for stride in window.strides):
        return f"its stride is {'x'.join(map(str, window.strides))}"
    kernels = (*window.kernel, *window.kernel)
    if any(pad >= kernel for pad, kernel in zip((*window.pads_begin, *window.pads_end), kernels, strict=True)):
        return "it is padded by as much as its kernel"
    columns = len(editor.constants[node.input[1]]) * int(np.prod([block + kernel - 1 for kernel in window.kernel]))
    if columns > MAX_COLUMNS:
        return f"it has too many outputs: {columns} numbers per position, at most {MAX_COLUMNS} pay"
    return ""


def _merge(editor: GraphEditor, shuffle: NodeProto, node: NodeProto) -> Decision:
    block = attribute(shuffle, "blocksize", 1)
    if editor.only_consumer(shuffle.output[0]) is not node:
        return Decision(RULE, node.name, False, "the shuffle before it is read elsewhere too")
    if problem := obstacle_to_merging(editor, node, block):
        return Decision(RULE, node.name, False, problem)
    window = Window.of(editor, node)
    assert window is not None
    merged = merged_kernel(editor.constants[node.input[1]], block, attribute(shuffle, "mode", "DCR"))
    name = f"{node.name}_below_shuffle"
    inputs = [shuffle.input[0], editor.add_constant(merged, f"{name}_weight"), *node.input[2:]]
    pads = zip((*window.pads_begin, *window.pads_end), (*window.kernel, *window.kernel), strict=True)
    output = editor.add(
        "ConvTranspose",
        inputs,
        name,
        kernel_shape=list(merged.shape[2:]),
        strides=[block, block],
        pads=[kernel - 1 - pad for pad, kernel in pads],
    )
    editor.remove(shuffle, node)
    editor.redirect(node.output[0], output)
    return Decision(RULE, node.name, True, "merged with the shuffle before it into one ConvTranspose on the small map")


def merged_kernel(weight: Array, block: int, mode: str) -> Array:
    """The ConvTranspose's weight [block * block * C, outputs, ...] for a Conv's [outputs, C, ...]."""
    outputs, channels, height, width = weight.shape
    merged = np.zeros((block, block, channels, outputs, block + height - 1, block + width - 1), weight.dtype)
    flipped = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    for a, b in itertools.product(range(block), repeat=2):
        merged[a, b, :, :, a : a + height, b : b + width] = flipped
    if mode == "CRD":  # channels of the small map ordered (channel, row phase, column phase)
        merged = merged.transpose(2, 0, 1, 3, 4, 5)
    return merged.reshape(block * block * channels, outputs, *merged.shape[4:])
