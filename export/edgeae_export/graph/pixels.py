"""8-bit pixels at the ends of a graph: images come and go as cameras, displays and files hold them.

A pixel q stands for q / 255. At the decoder's end QuantizeLinear makes bytes of the image; at the encoder's beginning
DequantizeLinear makes numbers of the bytes, with the same scale and a zero point of 0, so that a first layer in int8
reads the bytes themselves and nothing is left of the conversion.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from edgeae_runtime.arrays import to_pixels
from edgeae_runtime.parity import unit_scale

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.editing import Edit, closed, opened
from edgeae_export.graph.running import CHANNELS_FIRST
from edgeae_export.graph.values import maker, name_of, read

PIXEL_SCALE, PIXEL_ZERO = np.float32(1 / 255), np.uint8(0)

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
    pixels = edit.node("QuantizeLinear", [values, *_parameters(edit)], f"{values.name}_pixels")
    pixels.shape, pixels.dtype = values.shape, ir.DataType.UINT8
    values.name, pixels.name = edit.name(f"{values.name}_values"), values.name
    graph.graph.outputs[0] = pixels
    return closed(graph)


def take_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the encoder's input be uint8 0..255 instead of float32 in [0, 1]."""
    graph = opened(model)
    values = graph.graph.inputs[0]
    edit, name = Edit(graph.graph, before=graph.graph[0]), name_of(values)
    values.name = edit.name(f"{name}_values")
    pixels = ir.Value(name=name, shape=values.shape, type=ir.TensorType(ir.DataType.UINT8))
    graph.graph.inputs[0] = pixels
    numbers = edit.node("DequantizeLinear", [pixels, *_parameters(edit)], f"{name}_numbers")
    values.replace_all_uses_with(numbers, replace_graph_outputs=True)
    return closed(graph)


def take_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the encoder's input be [batch, height, width, channels], as cameras give it, and turn it in the graph."""
    graph = opened(model)
    first = graph.graph.inputs[0]
    assert first.shape is not None, "an input says its shape"
    batch, channels, *axes = first.shape
    sizes = [axis for axis in axes if isinstance(axis, int)]
    assert len(sizes) == len(axes), "pictures have a size"
    edit, name = Edit(graph.graph, before=graph.graph[0]), name_of(first)
    first.name = edit.name(f"{name}_first")
    last = ir.Value(name=name, shape=ir.Shape([batch, *axes, channels]), type=first.type)
    graph.graph.inputs[0] = last
    hint = f"{name}{CHANNELS_FIRST}"
    turned = (
        edit.reshape(last, [0, 1, *sizes], hint)
        if channels == 1
        else edit.transpose(last, [0, len(axes) + 1, *range(1, len(axes) + 1)], hint)
    )
    first.replace_all_uses_with(turned, replace_graph_outputs=True)
    return closed(graph)


def is_pixels(value: ir.Value) -> bool:
    """Whether a value is the numbers of the graph's own pixels, as `take_uint8` writes it."""
    node = maker(value, ("DequantizeLinear",))
    return node is not None and read(node).is_graph_input()


def rounded_to_pixels(images: Float32Array) -> Float32Array:
    """Images in [0, 1], each number the nearest of the 256 that a pixel stands for."""
    return unit_scale(to_pixels(images))


def _parameters(edit: Edit) -> tuple[ir.Value, ir.Value]:
    return edit.constant(PIXEL_SCALE, "pixel_scale"), edit.constant(PIXEL_ZERO, "pixel_zero")
