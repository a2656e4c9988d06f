"""Equalising the ranges of an activation's channels, exactly (Nagel et al. 2019, Data-Free Quantization).

One scale serves all channels of an activation, so a channel with a small range uses few of the 255 steps. ReLU and
LeakyReLU are positively homogeneous, f(x / s) = f(x) / s for s > 0: a channel can be divided by s in the layer before
and multiplied by s in the layer after, and the graph computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.calibration import activations
from edgeae_export.editor import Array, GraphEditor, attribute
from edgeae_export.graph import WEIGHTED_OPS, Float32Array
from edgeae_export.probe import Probe

HOMOGENEOUS = ("Relu", "LeakyRelu")
SMALLEST = 1e-3
"""Smallest scale of a channel: one that never fires must not make weights without bound."""


@dataclass(frozen=True)
class _Pair:
    """A layer, its activation, and the one layer that reads it."""

    before: NodeProto
    activation: NodeProto
    after: NodeProto
    channels: int


def equalize(model: onnx.ModelProto, inputs: Float32Array, strength: float) -> onnx.ModelProto:
    """Divide each channel by (its largest value / the largest of all channels) ** `strength`.

    Args:
        model: a folded float32 graph, before its layers are split or shuffled.
        inputs: calibration inputs, float32 [n, …].
        strength: 0 leaves the graph as it is; 1 gives every channel the same range, at the weights' expense.

    Returns:
        The equalised graph; the given one where that cannot be made, or computes something else on real inputs or on
        corners.
    """
    editor = GraphEditor(model)
    pairs = _pairs(editor)
    if strength == 0 or not pairs:
        return model
    try:
        equalized = _equalized(editor, pairs, _largest(model, pairs, inputs), strength)
    except Exception:  # a form of graph that was not foreseen: it stays as it is
        return model
    return model if Probe(model, inputs).difference(equalized) else equalized


def _equalized(editor: GraphEditor, pairs: list[_Pair], largest: dict[str, Array], strength: float) -> onnx.ModelProto:
    for pair in pairs:
        peak = largest[pair.activation.output[0]]
        scale = np.maximum((peak / max(float(peak.max()), 1e-30)) ** strength, SMALLEST)
        _divide_outputs(editor, pair.before, scale)
        _multiply_inputs(editor, pair.after, scale)
    return editor.finish()


def equalizable(model: onnx.ModelProto) -> bool:
    """Whether `equalize` would change the graph at all."""
    return bool(_pairs(GraphEditor(model)))


def _pairs(editor: GraphEditor) -> list[_Pair]:
    return [pair for node in editor.of_type(*HOMOGENEOUS) if (pair := _pair(editor, node)) is not None]


def _pair(editor: GraphEditor, node: NodeProto) -> _Pair | None:
    before = editor.producer(node.input[0])
    after = editor.only_consumer(node.output[0])
    if after is not None and after.op_type in ("Reshape", "Flatten"):
        if not editor.keeps_rows(after):
            return None
        after = editor.only_consumer(after.output[0])
    if before is None or after is None or editor.only_consumer(before.output[0]) is not node:
        return None
    if not _has_plain_weights(editor, before) or not _has_plain_weights(editor, after):
        return None
    if after.input[0] not in _readable_from(editor, node.output[0]):
        return None
    outputs, inputs = _outputs(editor, before), _inputs(editor, after)
    channels = min(outputs, inputs)
    return None if max(outputs, inputs) % channels else _Pair(before, node, after, channels)


def _readable_from(editor: GraphEditor, tensor: str) -> set[str]:
    """The tensor itself, and what one reshape makes of it."""
    return {tensor, *(node.output[0] for node in editor.consumers(tensor))}


def _has_plain_weights(editor: GraphEditor, node: NodeProto) -> bool:
    if node.op_type not in WEIGHTED_OPS or node.op_type == "MatMul" or attribute(node, "group", 1) != 1:
        return False
    scaled = attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0)
    return not scaled and all(editor.constant(tensor) is not None for tensor in node.input[1:] if tensor)


def _axes(node: NodeProto) -> tuple[int, int]:
    """The axes of the weight that stand for outputs and for inputs."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0, 1
    return 1, 0


def _outputs(editor: GraphEditor, node: NodeProto) -> int:
    return int(editor.constants[node.input[1]].shape[_axes(node)[0]])


def _inputs(editor: GraphEditor, node: NodeProto) -> int:
    return int(editor.constants[node.input[1]].shape[_axes(node)[1]])


def _largest(model: onnx.ModelProto, pairs: list[_Pair], inputs: Float32Array) -> dict[str, Array]:
    """The largest magnitude of every channel, streamed; a flat activation holds its channels one after the other."""
    channels = {pair.activation.output[0]: pair.channels for pair in pairs}
    largest: dict[str, Array] = {name: np.zeros(count) for name, count in channels.items()}
    for values in activations(model, list(channels), inputs):
        for name, value in values.items():
            peaks = np.abs(value).reshape(len(value), channels[name], -1).max(axis=(0, 2))
            largest[name] = np.maximum(largest[name], peaks)
    return largest


def _divide_outputs(editor: GraphEditor, node: NodeProto, scale: Array) -> None:
    axis = _axes(node)[0]
    _scale(editor, node, 1, 1 / scale, axis)
    if len(node.input) > 2 and node.input[2]:
        _scale(editor, node, 2, 1 / scale, 0)


def _multiply_inputs(editor: GraphEditor, node: NodeProto, scale: Array) -> None:
    _scale(editor, node, 1, scale, _axes(node)[1])


def _scale(editor: GraphEditor, node: NodeProto, index: int, factor: Array, axis: int) -> None:
    value = editor.constants[node.input[index]]
    repeated = np.repeat(factor, value.shape[axis] // len(factor))
    shape = [-1 if each == axis else 1 for each in range(value.ndim)]
    scaled = (value * repeated.reshape(shape)).astype(value.dtype)
    node.input[index] = editor.add_constant(scaled, f"{node.input[index]}_equalized")
