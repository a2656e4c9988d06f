"""Decoders that give 8-bit pixels: the image leaves the graph as displays and files take it, a quarter of the bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgeae_export.graph.editing import Edit, closed, opened

HALF_STEP = 0.5 / 255 * 1.001
"""Most that rounding to the nearest of 256 steps changes a value in [0, 1]; the rest is float32's own rounding."""


def emit_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the decoder's output be uint8 0..255 instead of float32 in [0, 1].

    QuantizeLinear with a scale of 1/255 is exactly that: round(255 x), half to even, clipped to 0..255.
    """
    graph = opened(model)
    values = graph.graph.outputs[0]
    assert values.producer() is not None, "a decoder's image is made by a node"
    edit = Edit(graph.graph)
    parameters = edit.constant(np.float32(1 / 255), "pixel_scale"), edit.constant(np.uint8(0), "pixel_zero")
    pixels = edit.node("QuantizeLinear", [values, *parameters], f"{values.name}_pixels")
    pixels.shape, pixels.dtype = values.shape, ir.DataType.UINT8
    values.name, pixels.name = edit.name(f"{values.name}_values"), values.name
    graph.graph.outputs[0] = pixels
    return closed(graph)
