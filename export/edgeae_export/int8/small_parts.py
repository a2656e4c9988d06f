"""Layers that are too small to be worth 8 bits: at the ends of a graph they stay in float.

A small layer gains nothing from an int8 kernel, and a decoder's first and last layers are where rounding shows most.
But what counts is what all of them cost together, and between two layers in int8 even a small one is cheaper in int8:
in float it would need a conversion on either side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import constant, fixed_shape, layers_after, nearest_layers, reads

MOST_COST, MOST_STORED = 0.01, 0.05
"""Small layers stay in float while what they cost together is below the first share of the graph's work, and their
weights below the second of its weights."""
FLOAT_COST = 3.0
"""What a multiply-add costs more in float, in those of int8: 3x3 convolutions of 64 channels, which make up a tiny
autoencoder's decoder, took 4.0 times as long (AVX-512 VNNI, one thread)."""
CONVERSION_COST = 50.0
"""What it costs to convert one number to or from 8 bits, in multiply-adds of int8: 0.4 ns against 1 / 130 ns there."""


def small_layers(weighted: Sequence[Layer], layers: Sequence[Layer]) -> set[str]:
    """Names of the small layers, the cheapest first, as long as their sum is small.

    Args:
        weighted: all layers of a graph.
        layers: those that could run in 8 bits.
    """
    ends = _Ends(layers)
    cost = {layer.name: ends.cost_in_float(layer) for layer in layers}
    stored = {layer.name: _weights(layer) for layer in weighted}
    most_cost = MOST_COST * sum(layer.multiply_adds for layer in weighted)
    most_stored = MOST_STORED * sum(stored.values())
    small: set[str] = set()
    for layer in sorted(layers, key=lambda layer: cost[layer.name]):
        fits = cost[layer.name] <= most_cost and stored[layer.name] <= most_stored
        if fits and ends.is_at_one(layer):
            small.add(layer.name)
            most_cost, most_stored = most_cost - cost[layer.name], most_stored - stored[layer.name]
    return small


class _Ends:
    """What lies before and after each layer of a graph: layers in int8, or something in float."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._int8 = {layer.name for layer in layers}
        self._before = {layer.name: nearest_layers(layer.input) - _pixels(layer) for layer in layers}
        self._after = {layer.name: layers_after(layer.node) for layer in layers}

    def is_at_one(self, layer: Layer) -> bool:
        """Whether something in float lies before a layer, or nothing in int8 after it."""
        return not (self._before[layer.name] <= self._int8 and self._after[layer.name] & self._int8)

    def cost_in_float(self, layer: Layer) -> float:
        """What a layer costs more in float than in int8, in multiply-adds of int8."""
        converted = 0
        if self._before[layer.name] <= self._int8:
            converted += _numbers(layer.input)
        if self._after[layer.name] & self._int8:
            converted += _numbers(layer.output)
        return FLOAT_COST * layer.multiply_adds + CONVERSION_COST * converted


def _pixels(layer: Layer) -> set[str]:
    """What stands for the graph's input, where that is bytes: a layer that reads them needs a conversion in float."""
    return {""} if layer.graph.inputs[0].dtype == ir.DataType.UINT8 else set()


def _weights(layer: Layer) -> int:
    weight = constant(reads(layer.node, 1))
    return 0 if weight is None else int(weight.size)


def _numbers(value: ir.Value) -> int:
    """How many a value holds per input of the batch; 0 where that is not known."""
    return math.prod(fixed_shape(value) or (0,))
