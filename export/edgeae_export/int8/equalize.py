"""Equalising the ranges of channels, exactly (Nagel et al. 2019, Data-Free Quantization).

One scale serves all channels of an activation, so a channel with a small range uses few of the 255 steps. A channel can
be divided by s in every layer that writes it and multiplied by s in every layer that reads it, and the graph computes
the same: between two layers, and along a residual stream, whose sums tie many layers together.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.editing import Edit, closed, opened
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.probe import Probe
from edgeae_export.graph.values import Array, attribute, constant, name_of, read
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
        classes = channel_classes(opened(model).graph)
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
        try:
            equalized = _equalized(self.model, self._peaks, strength)
        except Exception:  # a form of graph that was not foreseen: it stays as it is
            return self.model
        return self.model if self._probe.difference(equalized) else equalized


def _equalized(model: onnx.ModelProto, peaks: list[Array], strength: float) -> onnx.ModelProto:
    graph = opened(model)
    edit = Edit(graph.graph)
    for each, peak in zip(channel_classes(graph.graph), peaks, strict=True):
        scale = np.maximum((peak / max(float(peak.max()), 1e-30)) ** strength, SMALLEST)
        for layer in each.writers:
            _divide_outputs(edit, layer, scale)
        for shift in each.shifts:
            _scale(edit, shift.node, shift.index, 1 / scale, shift.axis)
        for layer in each.readers:
            _multiply_inputs(edit, layer, scale)
    return closed(graph)


def equalizable(model: onnx.ModelProto) -> bool:
    """Whether `equalize` would change the graph at all."""
    return bool(channel_classes(opened(model).graph))


def _peaks(model: onnx.ModelProto, classes: list[ChannelClass], inputs: Float32Array) -> list[Array]:
    """The largest magnitude of every channel in what the layers read, streamed."""
    read_by = [list(dict.fromkeys(name_of(layer.input) for layer in each.readers)) for each in classes]
    peaks: list[Array] = [np.zeros(each.channels) for each in classes]
    for values in activations(model, [name for names in read_by for name in names], inputs):
        for index, names in enumerate(read_by):
            for name in names:
                value = np.abs(values[name])
                rows = value.reshape(len(value), classes[index].channels, -1)  # a flat map: channel after channel
                peaks[index] = np.maximum(peaks[index], rows.max(axis=(0, 2)))
    return peaks


def _divide_outputs(edit: Edit, layer: Layer, scale: Array) -> None:
    if layer.op_type == "ConvTranspose":  # [inputs, outputs / groups, ...]: each group of inputs has its own outputs
        _scale_groups(edit, layer, 1 / scale)
    else:
        _scale(edit, layer.node, 1, 1 / scale, layer.output_axis)
    if layer.bias is not None:
        _scale(edit, layer.node, 2, 1 / scale, layer.bias.ndim - 1)


def _multiply_inputs(edit: Edit, layer: Layer, scale: Array) -> None:
    if layer.op_type == "Conv":  # [outputs, inputs / groups, ...]: each group of outputs has its own inputs
        _scale_groups(edit, layer, scale)
    else:
        _scale(edit, layer.node, 1, scale, 1 - layer.output_axis)


def _scale_groups(edit: Edit, layer: Layer, factor: Array) -> None:
    """Scale a weight's second axis, which counts anew in each of the groups that the first is cut into."""
    weight, groups = layer.weight, attribute(layer.node, "group", 1)
    factors = factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    grouped = weight.reshape(groups, -1, *weight.shape[1:]) * factors
    _replace(edit, layer.node, 1, grouped.reshape(weight.shape).astype(weight.dtype))


def _scale(edit: Edit, node: ir.Node, index: int, factor: Array, axis: int) -> None:
    """Scale a constant along an axis, of which each channel may have several positions, one after the other."""
    value = constant(read(node, index))
    assert value is not None, "a class holds only what has constants"
    if value.shape[axis] == 1:
        value = np.repeat(value, len(factor), axis)  # one bias for all
    repeated = np.repeat(factor, value.shape[axis] // len(factor))
    shape = [-1 if each == axis else 1 for each in range(value.ndim)]
    _replace(edit, node, index, (value * repeated.reshape(shape)).astype(value.dtype))


def _replace(edit: Edit, node: ir.Node, index: int, value: Array) -> None:
    node.replace_input_with(index, edit.constant(value, f"{name_of(read(node, index))}_equalized"))
