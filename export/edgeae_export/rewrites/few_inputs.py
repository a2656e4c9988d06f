"""A convolution of one to three input channels, padded with zeros to the four that the int8 kernels take at once.

ONNX Runtime's symmetric int8 kernels read channels by fours (MLAS, ConvSym); fewer fall back to a matrix product over
copied patches, or stay in float, whose map must then be converted to bytes and turned channels last. On 64x64 pictures
of three channels, a first layer of 64 outputs took 176 us in int8 as it is and 96 us padded (AVX-512 VNNI); in float
158 us, and 310 us more until its map was in bytes.

Preconditions: constant weights, one group. Cost rule: for int8 graphs; `FEWEST_VALUES` written, below which a first
layer in float is as fast and exact.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "few_inputs"
CHANNELS = 4
FEWEST_VALUES = 1 << 16


def pad_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Pad the input of every Conv with fewer than `CHANNELS` channels."""
    editor = GraphEditor(model)
    decisions = []
    for node in editor.of_type("Conv"):
        weight = editor.constant(node.input[1])
        if weight is not None and weight.shape[1] < CHANNELS:
            decisions.append(_pad(editor, node))
    return editor.finish(), decisions


def _pad(editor: GraphEditor, node: NodeProto) -> Decision:
    window = Window.of(editor, node)
    if window is None or window.groups != 1:
        return Decision(RULE, node.name, False, "its weights are not constant, or it has groups")
    shape = editor.fixed_shape(node.output[0])
    if shape is None or math.prod(shape) < FEWEST_VALUES:
        return Decision(RULE, node.name, False, f"it writes fewer than {FEWEST_VALUES} numbers, or how many is unknown")
    weight = editor.constants[node.input[1]]
    missing = CHANNELS - weight.shape[1]
    zeros = np.zeros((len(weight), missing, *weight.shape[2:]), weight.dtype)
    pads = np.zeros((2, weight.ndim), np.int64)
    pads[1, 1] = missing
    name = f"{node.name}_padded"
    amounts = editor.add_constant(pads.reshape(-1), f"{name}_amounts")
    node.input[0] = editor.add("Pad", [node.input[0], amounts], name)
    node.input[1] = editor.add_constant(np.concatenate([weight, zeros], axis=1), f"{name}_weight")
    return Decision(RULE, node.name, True, f"{missing} channels of zeros beside its own")
