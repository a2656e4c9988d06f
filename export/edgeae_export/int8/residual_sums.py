"""Residual sums in an int8 graph: which of them are kept in float, and how far below zero a summand matters.

A residual stream is read by the next layer, in 8 bits, and by the next sum. If that sum too reads the 8 bits, each
block rounds the stream again, and the errors add up from block to block; if it reads the floats, only what the layers
read is rounded. Floats cost a conversion of each summand and of the stream, so they are used where that is cheap: on
the small maps, whose errors spread over most pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor, layer_multiply_adds
from edgeae_export.graph.running import WEIGHTED_OPS

MOST_COST = 0.01
"""Sums stay in float while this costs less, together, than this share of the graph's multiply-adds. On a tiny image
autoencoder's decoder (64x64, AVX-512 VNNI) it then covered the maps of 8x8 and 16x16, and the time stayed the same."""
COST_PER_VALUE = 100.0
"""Of two conversions, 0.4 ns each, in multiply-adds of int8."""


def float_sums(editor: GraphEditor, weighted: Sequence[NodeProto], quantized: Sequence[str]) -> frozenset[str]:
    """The quantised tensors that sums go on reading as floats, the smallest first, as long as it costs little.

    Args:
        editor: the float32 graph.
        weighted: its layers.
        quantized: the tensors that are quantised.
    """
    left = MOST_COST * sum(layer_multiply_adds(editor, node) for node in weighted)
    sizes = {
        tensor: math.prod(editor.fixed_shape(tensor) or (0,)) for tensor in quantized if _is_stream(editor, tensor)
    }
    chosen = set()
    for tensor in sorted(sizes, key=lambda name: sizes[name]):
        cost = COST_PER_VALUE * sizes[tensor]
        if 0 < cost <= left:
            chosen.add(tensor)
            left -= cost
    return frozenset(chosen)


def least_that_matters(editor: GraphEditor, tensor: str, largest: Callable[[str], float]) -> float:
    """The value below which a tensor is as good as any lower: it is only added to another and then rectified.

    Args:
        editor: the graph.
        tensor: the tensor.
        largest: gives the largest value of a tensor, infinity where that is not known.

    Returns:
        Minus the largest value of the other summand; minus infinity where the tensor is used otherwise.
    """
    total = editor.only_consumer(tensor)
    rectifier = None if total is None or total.op_type != "Add" else editor.only_consumer(total.output[0])
    if total is None or rectifier is None or rectifier.op_type != "Relu":
        return -math.inf
    other = next((name for name in total.input if name != tensor), tensor)
    return -max(largest(other), 0.0)


def _is_stream(editor: GraphEditor, tensor: str) -> bool:
    """Whether a sum makes a tensor, or the rectifier behind it, and another sum reads it."""
    maker = editor.producer(tensor)
    if maker is not None and maker.op_type == "Relu":
        maker = editor.producer(maker.input[0])
    if maker is None or maker.op_type in WEIGHTED_OPS:
        return False
    return any(reader.op_type == "Add" for reader in editor.consumers(tensor))
