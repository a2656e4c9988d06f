"""Channels that must be scaled together: the tensors that residual sums, activations and moves tie to each other.

A positively homogeneous operator, f(x / s) = f(x) / s for s > 0, hands a channel's scale on; a sum wants the same scale
on both sides; a flattened map holds each channel's positions one after the other. So tensors fall into classes, each
with one scale per channel, that layers write into and read from. A class may be scaled where every way into it and out
of it is a layer with constant weights (Nagel et al. 2019 for one activation between two layers; a residual stream is
the same with more of both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor, attribute

HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool",
     "GlobalMaxPool", "Resize", "Upsample"}
)  # fmt: skip
"""Operators of one tensor that treat every channel alike, and its scale with it."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass
class ChannelClass:
    """Tensors whose channels share their scales."""

    channels: int
    tensors: list[str] = field(default_factory=list)
    writers: list[NodeProto] = field(default_factory=list)
    """Layers whose outputs are in the class."""
    readers: list[NodeProto] = field(default_factory=list)
    """Layers whose first inputs are in the class."""
    shifts: list[NodeProto] = field(default_factory=list)
    """Sums with a constant per channel, which is scaled too."""


def channel_classes(editor: GraphEditor) -> list[ChannelClass]:
    """The classes whose channels may be scaled, in the graph's order."""
    finder = _Finder(editor)
    for node in editor.nodes:
        finder.take(node)
    for tensor in (editor.input, *editor.outputs):
        finder.freeze(tensor)
    return finder.classes()


class _Finder:
    """Union-find over the graph's tensors."""

    def __init__(self, editor: GraphEditor) -> None:
        self.editor = editor
        self.parent: dict[str, str] = {}
        self.frozen: set[str] = set()
        self.writers: list[NodeProto] = []
        self.readers: list[NodeProto] = []
        self.shifts: list[tuple[NodeProto, str]] = []

    def take(self, node: NodeProto) -> None:
        """Say what a node does to the channels of what it reads and writes."""
        if _is_plain_layer(self.editor, node):
            self.writers.append(node)
            self.readers.append(node)
        elif self._hands_on(node):
            self.join(node.input[0], node.output[0])
        elif node.op_type == "Add" and (shifted := self._shifted(node)):
            self.shifts.append((node, shifted))
            self.join(shifted, node.output[0])
        elif node.op_type in ("Add", "Sub") and self._same_shape(node):
            self.join(node.input[0], node.input[1])
            self.join(node.input[0], node.output[0])
        else:
            for tensor in (*node.input, *node.output):
                self.freeze(tensor)

    def join(self, one: str, other: str) -> None:
        self.parent[self.root(one)] = self.root(other)

    def freeze(self, tensor: str) -> None:
        self.frozen.add(tensor)

    def root(self, tensor: str) -> str:
        while self.parent.setdefault(tensor, tensor) != tensor:
            tensor = self.parent[tensor]
        return tensor

    def classes(self) -> list[ChannelClass]:
        """What may be scaled: written and read by layers, and by nothing that does not hand a scale on."""
        frozen = {self.root(tensor) for tensor in self.frozen}
        members: dict[str, list[str]] = {}
        for tensor in list(self.parent) + [n.output[0] for n in self.writers] + [n.input[0] for n in self.readers]:
            if tensor not in members.setdefault(self.root(tensor), []):
                members[self.root(tensor)].append(tensor)
        found = []
        for root, tensors in members.items():
            sizes = [self._channels(tensor) for tensor in tensors]
            channels = min(sizes)
            writers = [node for node in self.writers if self.root(node.output[0]) == root]
            readers = [node for node in self.readers if self.root(node.input[0]) == root]
            if root in frozen or channels < 2 or any(size % channels for size in sizes) or not writers or not readers:
                continue
            shifts = [node for node, tensor in self.shifts if self.root(tensor) == root]
            found.append(ChannelClass(channels, tensors, writers, readers, shifts))
        return found

    def _channels(self, tensor: str) -> int:
        shape = self.editor.shape(tensor)
        return shape[1] or 0 if len(shape) > 1 else 0

    def _hands_on(self, node: NodeProto) -> bool:
        """Whether a node of one tensor treats every channel alike."""
        if node.op_type in ("Reshape", "Flatten"):
            return self._keeps_channels(node)
        return node.op_type in HOMOGENEOUS and len(node.output) == 1 and self._same_channels(node)

    def _keeps_channels(self, node: NodeProto) -> bool:
        """Whether a map becomes a row of its channels, one after the other, or the other way round."""
        before, after = (self.editor.fixed_shape(tensor) for tensor in (node.input[0], node.output[0]))
        if before is None or after is None or math.prod(before) != math.prod(after):
            return False  # what is left over would come from the batch
        return min(len(before), len(after)) == 1

    def _same_channels(self, node: NodeProto) -> bool:
        channels = self._channels(node.input[0])
        return channels > 0 and channels == self._channels(node.output[0])

    def _same_shape(self, node: NodeProto) -> bool:
        shapes = [self.editor.fixed_shape(tensor) for tensor in node.input]
        return shapes[0] is not None and shapes[0] == shapes[1]

    def _shifted(self, node: NodeProto) -> str:
        """The tensor that a constant per channel is added to; empty where the sum is another one."""
        one, two = map(str, node.input)
        for tensor, other in ((one, two), (two, one)):
            constant, shape = self.editor.constant(other), self.editor.fixed_shape(tensor)
            if constant is not None and shape is not None and constant.size == shape[0]:
                axis = constant.ndim - len(shape)
                if axis in (0, 1) and constant.shape[axis] == shape[0]:
                    return tensor
        return ""


def _is_plain_layer(editor: GraphEditor, node: NodeProto) -> bool:
    if node.op_type not in _LAYERS:
        return False
    scaled = attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0)
    constants = [editor.constant(tensor) for tensor in node.input[1:] if tensor]
    if scaled or any(value is None for value in constants):
        return False
    return len(constants) == 1 or (constants[1] is not None and constants[1].shape[-1:] == (constants[1].size,))
