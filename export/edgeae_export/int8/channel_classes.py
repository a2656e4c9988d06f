"""Channels that must be scaled together: the values that residual sums, activations and moves tie to each other.

A positively homogeneous operator, f(x / s) = f(x) / s for s > 0, hands a channel's scale on; a sum wants the same scale
on both sides; a flattened map holds each channel's positions one after the other. So values fall into classes, each
with one scale per channel, that layers write into and read from. A class may be scaled where every way into it and out
of it is a layer with constant weights (Nagel et al. 2019 for one activation between two layers; a residual stream is
the same with more of both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import constant, fixed_shape, rank, read

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool",
     "GlobalMaxPool", "Resize", "Upsample"}
)  # fmt: skip
"""Operators of one tensor that treat every channel alike, and its scale with it."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Shift:
    """A sum with a constant per channel, which is scaled too."""

    node: ir.Node
    index: int
    """Which of the two inputs is the constant."""
    axis: int
    """The constant's axis of channels; it has one element along every other."""


@dataclass(frozen=True)
class ChannelClass:
    """Values whose channels share their scales."""

    channels: int
    values: list[ir.Value]
    writers: list[Layer]
    """Layers whose outputs are in the class."""
    readers: list[Layer]
    """Layers whose inputs are in the class."""
    shifts: list[Shift]


def channel_classes(graph: ir.Graph) -> list[ChannelClass]:
    """The classes whose channels may be scaled, in the graph's order."""
    finder = _Finder()
    for node in graph:
        finder.take(node)
    finder.frozen.update((graph.inputs[0], *graph.outputs))
    return finder.classes()


class _Finder:
    """Union-find over a graph's values."""

    def __init__(self) -> None:
        self.frozen: set[ir.Value | None] = set()
        self._parent: dict[ir.Value, ir.Value] = {}
        self._layers: list[Layer] = []
        self._shifts: list[Shift] = []

    def take(self, node: ir.Node) -> None:
        """Say what a node does to the channels of what it reads and writes."""
        layer = Layer.of(node, *_LAYERS)
        shift = _shift(node)
        if layer is not None and _is_plain(layer):
            self._layers.append(layer)
        elif _hands_on(node):
            self._join(read(node), node.outputs[0])
        elif shift is not None:
            self._shifts.append(shift)
            self._join(read(node, 1 - shift.index), node.outputs[0])
        elif _joins(node):
            self._join(read(node), read(node, 1))
            self._join(read(node), node.outputs[0])
        else:
            self.frozen.update((*node.inputs, *node.outputs))

    def classes(self) -> list[ChannelClass]:
        """What may be scaled: written and read by layers, and by nothing that does not hand a scale on."""
        frozen = {self._root(value) for value in self.frozen if value is not None}
        ends = [layer.output for layer in self._layers] + [layer.input for layer in self._layers]
        members: dict[ir.Value, list[ir.Value]] = {}
        for value in dict.fromkeys([*self._parent, *ends]):
            members.setdefault(self._root(value), []).append(value)
        found = []
        for root, values in members.items():
            sizes = [_channels(value) for value in values]
            channels = min(sizes)
            writers = [layer for layer in self._layers if self._root(layer.output) is root]
            readers = [layer for layer in self._layers if self._root(layer.input) is root]
            if root in frozen or channels < 2 or any(size % channels for size in sizes) or not writers or not readers:
                continue
            shifts = [shift for shift in self._shifts if self._root(shift.node.outputs[0]) is root]
            found.append(ChannelClass(channels, values, writers, readers, shifts))
        return found

    def _join(self, one: ir.Value, other: ir.Value) -> None:
        self._parent[self._root(one)] = self._root(other)

    def _root(self, value: ir.Value) -> ir.Value:
        while (parent := self._parent.setdefault(value, value)) is not value:
            value = parent
        return value


def _is_plain(layer: Layer) -> bool:
    """Whether scaling a layer's constants scales what it writes, channel by channel."""
    bias = layer.bias
    return layer.constant and not layer.is_scaled and (bias is None or bias.shape[-1:] == (bias.size,))


def _hands_on(node: ir.Node) -> bool:
    """Whether a node of one value treats every channel alike."""
    if node.op_type in ("Reshape", "Flatten"):
        return _keeps_channels(node)
    if node.op_type not in HOMOGENEOUS or len(node.outputs) != 1:
        return False
    return _channels(read(node)) == _channels(node.outputs[0]) > 0


def _keeps_channels(node: ir.Node) -> bool:
    """Whether a map becomes a row of its channels, one after the other, or the other way round."""
    before, after = fixed_shape(read(node)), fixed_shape(node.outputs[0])
    if before is None or after is None or math.prod(before) != math.prod(after):
        return False  # what is left over would come from the batch
    return min(len(before), len(after)) == 1


def _shift(node: ir.Node) -> Shift | None:
    """The constant per channel that a sum adds to its other input; None where it is another sum, or none."""
    if node.op_type != "Add":
        return None
    for index in (1, 0):
        added, shape = constant(read(node, index)), fixed_shape(read(node, 1 - index))
        if added is not None and shape is not None and added.size == shape[0]:
            axis = added.ndim - len(shape)
            if axis in (0, 1) and added.shape[axis] == shape[0]:
                return Shift(node, index, axis)
    return None


def _joins(node: ir.Node) -> bool:
    """Whether a sum or a difference wants the same scale on both sides."""
    if node.op_type not in ("Add", "Sub"):
        return False
    shape = fixed_shape(read(node))
    return shape is not None and shape == fixed_shape(read(node, 1))


def _channels(value: ir.Value) -> int:
    """The size of the second axis; 0 where that is not known."""
    size = value.shape[1] if value.shape is not None and rank(value) > 1 else 0
    return size if isinstance(size, int) else 0
