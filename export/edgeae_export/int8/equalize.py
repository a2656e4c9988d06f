"""Equalising the ranges of channels, exactly (Nagel et al. 2019, Data-Free Quantization).

One scale serves all channels of an activation, so a channel with a small range uses few of the 255 steps. A channel can
be divided by s in every layer that writes it and multiplied by s in every layer that reads it, and the graph computes
the same: between two layers, and along a residual stream, whose sums tie many layers together.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.layers import Array, GraphEditor, attribute
from edgeae_export.graph.probe import Probe
from edgeae_export.int8.calibration import activations
from edgeae_export.int8.channel_classes import ChannelClass, channel_classes

SMALLEST = 1e-3
"""Smallest scale of a channel: one that never fires must not make weights without bound."""


def equalize(model: onnx.ModelProto, inputs: Float32Array, strength: float) -> onnx.ModelProto:
    """`Equalizer.at` for a single strength."""
    return Equalizer(model, inputs).at(strength)


class Equalizer:
    """Equalises one graph to several strengths."""

    def __init__(self, model: onnx.ModelProto, inputs: Float32Array) -> None:
        """Find what can be scaled, and how large it is.

        Args:
            model: a folded float32 graph, before its layers are split or shuffled.
            inputs: calibration inputs, float32 [n, …].
        """
        self.model = model
        classes = channel_classes(GraphEditor(model))
        self._peaks = _peaks(model, classes, inputs) if classes else []
        self._probe = Probe(model, inputs) if classes else None

    def at(self, strength: float) -> onnx.ModelProto:
        """Divide each channel by (its largest value / the largest of all channels) ** `strength`.

        Args:
            strength: 0 leaves the graph as it is; 1 gives every channel the same range, at the weights' expense.

        Returns:
            The equalised graph; the given one where that cannot be made, or computes something else on real inputs or
            on corners.
        """
        if strength == 0 or self._probe is None:
            return self.model
        editor = GraphEditor(self.model)
        try:
            equalized = _equalized(editor, channel_classes(editor), self._peaks, strength)
        except Exception:  # a form of graph that was not foreseen: it stays as it is
            return self.model
        return self.model if self._probe.difference(equalized) else equalized


def _equalized(
    editor: GraphEditor, classes: list[ChannelClass], peaks: list[Array], strength: float
) -> onnx.ModelProto:
    for each, peak in zip(classes, peaks, strict=True):
        scale = np.maximum((peak / max(float(peak.max()), 1e-30)) ** strength, SMALLEST)
        for node in each.writers:
            _divide_outputs(editor, node, scale)
        for node in each.shifts:
            _divide_constant(editor, node, scale)
        for node in each.readers:
            _multiply_inputs(editor, node, scale)
    return editor.finish()


def equalizable(model: onnx.ModelProto) -> bool:
    """Whether `equalize` would change the graph at all."""
    return bool(channel_classes(GraphEditor(model)))


def _peaks(model: onnx.ModelProto, classes: list[ChannelClass], inputs: Float32Array) -> list[Array]:
    """The largest magnitude of every channel in what the layers read, streamed."""
    read = [list(dict.fromkeys(str(node.input[0]) for node in each.readers)) for each in classes]
    peaks: list[Array] = [np.zeros(each.channels) for each in classes]
    for values in activations(model, [tensor for tensors in read for tensor in tensors], inputs):
        for index, tensors in enumerate(read):
            for tensor in tensors:
                value = np.abs(values[tensor])
                rows = value.reshape(len(value), classes[index].channels, -1)  # a flat map: channel after channel
                peaks[index] = np.maximum(peaks[index], rows.max(axis=(0, 2)))
    return peaks


def _divide_outputs(editor: GraphEditor, node: NodeProto, scale: Array) -> None:
    groups = attribute(node, "group", 1)
    if node.op_type == "ConvTranspose":  # weight [inputs, outputs / groups, ...]: each group of inputs has its outputs
        _scale_groups(editor, node, 1 / scale, groups, axis=1)
    else:
        axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
        _scale(editor, node, 1, 1 / scale, axis)
    if len(node.input) > 2 and node.input[2]:
        _scale(editor, node, 2, 1 / scale, editor.constants[node.input[2]].ndim - 1)


def _multiply_inputs(editor: GraphEditor, node: NodeProto, scale: Array) -> None:
    if node.op_type == "Conv":  # weight [outputs, inputs / groups, ...]: each group of outputs has its inputs
        _scale_groups(editor, node, scale, attribute(node, "group", 1), axis=1)
    else:
        _scale(editor, node, 1, scale, 1 if attribute(node, "transB", 0) else 0)


def _divide_constant(editor: GraphEditor, node: NodeProto, scale: Array) -> None:
    index = next(index for index, tensor in enumerate(node.input) if editor.constant(tensor) is not None)
    value = editor.constants[node.input[index]]
    _scale(editor, node, index, 1 / scale, next(a for a in range(value.ndim) if value.shape[a] == value.size))


def _scale_groups(editor: GraphEditor, node: NodeProto, factor: Array, groups: int, axis: int) -> None:
    """Scale an axis that counts anew in each of the groups that the first axis is cut into."""
    value = editor.constants[node.input[1]]
    factors = factor.reshape(groups, *(-1 if each == axis else 1 for each in range(value.ndim)))
    grouped = value.reshape(groups, value.shape[0] // groups, *value.shape[1:]) * factors
    _replace(editor, node, 1, grouped.reshape(value.shape).astype(value.dtype))


def _scale(editor: GraphEditor, node: NodeProto, index: int, factor: Array, axis: int) -> None:
    value = editor.constants[node.input[index]]
    if value.shape[axis] == 1:
        value = np.repeat(value, len(factor), axis)  # one bias for all
    repeated = np.repeat(factor, value.shape[axis] // len(factor))
    shape = [-1 if each == axis else 1 for each in range(value.ndim)]
    _replace(editor, node, index, (value * repeated.reshape(shape)).astype(value.dtype))


def _replace(editor: GraphEditor, node: NodeProto, index: int, value: Array) -> None:
    node.input[index] = editor.add_constant(value, f"{node.input[index]}_equalized")
