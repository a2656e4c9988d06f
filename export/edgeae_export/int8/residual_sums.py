"""Residual sums in an int8 graph: which of them are kept in float, and how far below zero a summand matters.

A residual stream is read by the next layer, in 8 bits, and by the next sum. If that sum too reads the 8 bits, each
block rounds the stream again, and the errors add up from block to block; if it reads the floats, only what the layers
read is rounded. Floats cost a conversion of each summand and of the stream, so they are used where that is cheap: on
the small maps, whose errors spread over most pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgeae_export.graph.layer import Layer
from edgeae_export.graph.running import WEIGHTED_OPS
from edgeae_export.graph.values import fixed_shape, maker, name_of, only_reader, read

MOST_COST = 0.01
"""Sums stay in float while this costs less, together, than this share of the graph's multiply-adds. On a tiny image
autoencoder's decoder (64x64, AVX-512 VNNI) it then covered the maps of 8x8 and 16x16, and the time stayed the same."""
COST_PER_VALUE = 100.0
"""Of two conversions, 0.4 ns each, in multiply-adds of int8."""


def float_sums(weighted: Sequence[Layer], quantized: Sequence[ir.Value]) -> frozenset[str]:
    """Names of the quantised values that sums go on reading as floats, the smallest first, as long as it costs little.

    Args:
        weighted: the layers of a float32 graph.
        quantized: the values that are quantised.
    """
    left = MOST_COST * sum(layer.multiply_adds for layer in weighted)
    sizes = {name_of(value): math.prod(fixed_shape(value) or (0,)) for value in quantized if _is_stream(value)}
    chosen = set()
    for name in sorted(sizes, key=lambda name: sizes[name]):
        cost = COST_PER_VALUE * sizes[name]
        if 0 < cost <= left:
            chosen.add(name)
            left -= cost
    return frozenset(chosen)


def least_that_matters(value: ir.Value, largest: Callable[[ir.Value], float]) -> float:
    """What is as good as any lower number in a value: it is only added to another and then rectified.

    Args:
        value: the value.
        largest: gives the largest number in a value, infinity where that is not known.

    Returns:
        Minus the largest number in the other summand; minus infinity where the value is used otherwise.
    """
    total = only_reader(value, ("Add",))
    if total is None or only_reader(total.outputs[0], ("Relu",)) is None:
        return -math.inf
    other = read(total, 1) if total.inputs[0] is value else read(total)
    return -max(largest(other), 0.0)


def _is_stream(value: ir.Value) -> bool:
    """Whether a sum makes a value, or the rectifier behind it, and another sum reads it."""
    rectifier = maker(value, ("Relu",))
    made_by = value.producer() if rectifier is None else read(rectifier).producer()
    if made_by is None or made_by.op_type in WEIGHTED_OPS:
        return False
    return any(reader.op_type == "Add" for reader in value.consumers())
