"""Decoders that give 8-bit pixels: the image leaves the graph as displays and files take it, a quarter of the bytes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeae_export.graph.layers import GraphEditor

HALF_STEP = 0.5 / 255 * 1.001
"""Most that rounding to the nearest of 256 steps changes a value in [0, 1]; the rest is float32's own rounding."""


def emit_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the decoder's output be uint8 0..255 instead of float32 in [0, 1].

    QuantizeLinear with a scale of 1/255 is exactly that: round(255 x), half to even, clipped to 0..255.
    """
    editor = GraphEditor(model)
    name = editor.outputs[0]
    maker = editor.producer(name)
    assert maker is not None, "a decoder's image is made by a node"
    values = editor.add_name(f"{name}_values")
    maker.output[list(maker.output).index(name)] = values
    scale = editor.add_constant(np.float32(1 / 255), "pixel_scale")
    zero = editor.add_constant(np.uint8(0), "pixel_zero")
    editor.nodes.append(helper.make_node("QuantizeLinear", [values, scale, zero], [name], name=f"{name}_pixels"))
    editor.model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return editor.finish()
