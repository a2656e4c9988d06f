"""Layers that are too small to be worth 8 bits: at the ends of a graph they stay in float.

A small layer gains nothing from an int8 kernel, and a decoder's first and last layers are where rounding shows most.
But what counts is what all of them cost together, and between two layers in int8 even a small one is cheaper in int8:
in float it would need a conversion on either side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor, layer_multiply_adds, layers_after, nearest_layers

MOST_COST, MOST_STORED = 0.01, 0.05
"""Small layers stay in float while what they cost together is below the first share of the graph's work, and their
weights below the second of its weights."""
FLOAT_COST = 3.0
"""What a multiply-add costs more in float, in those of int8: 3x3 convolutions of 64 channels, which make up a tiny
autoencoder's decoder, took 4.0 times as long (AVX-512 VNNI, one thread)."""
CONVERSION_COST = 50.0
"""What it costs to convert one number to or from 8 bits, in multiply-adds of int8: 0.4 ns against 1 / 130 ns there."""


def small_layers(editor: GraphEditor, weighted: Sequence[NodeProto], layers: Sequence[NodeProto]) -> set[str]:
    """Names of the small layers, the cheapest first, as long as their sum is small.

    Args:
        editor: the graph.
        weighted: all its layers.
        layers: those that could run in 8 bits.
    """
    ends = _Ends(editor, layers)
    cost = {node.name: ends.cost_in_float(node) for node in layers}
    stored = {node.name: _weights(editor, node) for node in weighted}
    most_cost = MOST_COST * sum(layer_multiply_adds(editor, node) for node in weighted)
    most_stored = MOST_STORED * sum(stored.values())
    small: set[str] = set()
    for node in sorted(layers, key=lambda layer: cost[layer.name]):
        fits = cost[node.name] <= most_cost and stored[node.name] <= most_stored
        if fits and ends.is_at_one(node):
            small.add(node.name)
            most_cost, most_stored = most_cost - cost[node.name], most_stored - stored[node.name]
    return small


class _Ends:
    """What lies before and after each layer of a graph: layers in int8, or something in float."""

    def __init__(self, editor: GraphEditor, layers: Sequence[NodeProto]) -> None:
        self.editor = editor
        self._int8 = {node.name for node in layers}
        self._before = {node.name: nearest_layers(editor, node.input[0]) for node in layers}
        self._after = {node.name: layers_after(editor, node) for node in layers}

    def is_at_one(self, node: NodeProto) -> bool:
        """Whether something in float lies before a layer, or nothing in int8 after it."""
        return not (self._before[node.name] <= self._int8 and self._after[node.name] & self._int8)

    def cost_in_float(self, node: NodeProto) -> float:
        """What a layer costs more in float than in int8, in multiply-adds of int8."""
        converted = 0
        if self._before[node.name] <= self._int8:
            converted += _values(self.editor, node.input[0])
        if self._after[node.name] & self._int8:
            converted += _values(self.editor, node.output[0])
        return FLOAT_COST * layer_multiply_adds(self.editor, node) + CONVERSION_COST * converted


def _weights(editor: GraphEditor, node: NodeProto) -> int:
    weight = editor.constant(node.input[1])
    return 0 if weight is None else int(weight.size)


def _values(editor: GraphEditor, tensor: str) -> int:
    """Numbers in a tensor per input of the batch."""
    return math.prod(editor.fixed_shape(tensor) or (0,))
