"""Activations in int8 instead of uint8, for processors whose kernels multiply signed bytes: the same numbers.

A byte q with zero point z stands for (q - z) * scale; so does q - 128 with zero point z - 128. ONNX Runtime's kernels
for 64-bit ARM multiply signed bytes and first turn unsigned ones into them: counted on an emulated Cortex-A76, the
default model's decoder executes 1.68 million instructions instead of 1.78. On x86-64 ONNX Runtime runs int8 activations
in float, so that what a graph runs in int8 is read from its unsigned form.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateHashedInitializersPass

from edgeae_export.graph.editing import Edit, closed, opened
from edgeae_export.graph.running import takes_pixels
from edgeae_export.graph.values import constant, name_of, reads

_HALF = 128


def in_signed_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 graph with int8 activations; one that takes uint8 pixels, which are its first activations, stays so."""
    return model if takes_pixels(model) else _shifted(model, np.dtype(np.uint8), np.dtype(np.int8))


def in_unsigned_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The way back."""
    return _shifted(model, np.dtype(np.int8), np.dtype(np.uint8))


def _shifted(model: onnx.ModelProto, old: np.dtype[np.generic], new: np.dtype[np.generic]) -> onnx.ModelProto:
    """A graph whose activations' bytes of one type are of the other; the given one where there are none."""
    changed = opened(model, shapes=False)
    places = [
        (node, index, value)
        for node, index in _places(changed.graph)
        if (value := constant(reads(node, index))) is not None and value.dtype == old
    ]
    if not places:
        return model
    edit, step = Edit(changed.graph), _HALF if new == np.uint8 else -_HALF
    for node, index, value in places:
        shifted = (value.astype(np.int16) + step).astype(new)
        node.replace_input_with(index, edit.constant(shifted, f"{name_of(node)}_{new.name}"))
    DeduplicateHashedInitializersPass()(changed)
    return closed(changed)


def _places(graph: ir.Graph) -> Iterator[tuple[ir.Node, int]]:
    """Where a graph has constants that are bytes of activations: zero points, bounds and what is padded with."""
    for node in graph:
        if node.op_type == "QuantizeLinear" or (
            node.op_type == "DequantizeLinear" and constant(reads(node, 0)) is None
        ):
            yield node, 2
        elif node.op_type == "Clip":
            yield from ((node, 1), (node, 2))
