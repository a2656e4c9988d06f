"""Weights that stay in float beside int8 layers, stored in 16 bits.

A layer is kept in float for its speed or for the precision of its sums; its weights, rounded to half precision, are
still a hundred times finer than the 8 bits beside them. They are stored as float16 with a Cast behind, which ONNX
Runtime evaluates once, at load: half the bytes, the same kernels.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from edgeae_export.editor import GraphEditor
from edgeae_export.graph import WEIGHTED_OPS

SMALLEST = 1024
"""Numbers in a tensor below which the Cast's own bytes would eat the gain."""


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the float32 weights and biases of a graph's layers as float16, where they fit its range."""
    editor = GraphEditor(model)
    for node in editor.of_type(*WEIGHTED_OPS):
        for index in range(1, len(node.input)):
            value = editor.constant(node.input[index])
            if value is None or value.dtype != np.float32 or value.size < SMALLEST:
                continue
            if np.abs(value).max() > np.finfo(np.float16).max:
                continue
            stored = editor.add_constant(value.astype(np.float16), f"{node.input[index]}_half")
            node.input[index] = editor.add("Cast", [stored], f"{node.input[index]}_cast", to=TensorProto.FLOAT)
    return editor.finish()
