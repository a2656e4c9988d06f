"""Gemm -> Reshape -> Conv or ConvTranspose, folded into one Gemm when nothing nonlinear lies between them.

The composition of affine maps is affine: the new weight's rows are what the convolution makes of each row of the old
weight, and the new bias what it makes of the old bias. Computed in float64.

Preconditions: constant weights, tensors between them that nothing else reads, and a Reshape that makes one map of
each row. Cost rule: fewer multiply-adds, and no more weights to store and to read. This holds for small latents: a
decoder's first layer is a Gemm from few numbers to a small map, and the convolution after it holds the largest weight
of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, Array, GraphEditor
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.sibling_gemms import gemm_weights
from edgeae_export.rewrites.window import Window

RULE = "affine_folding"


def fold_affine(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Fold every Gemm -> Reshape -> convolution that is worth it."""
    editor = GraphEditor(model)
    decisions = []
    for layer in editor.of_type("Conv", "ConvTranspose"):
        reshape = editor.producer(layer.input[0])
        gemm = editor.producer(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None
        if reshape is not None and gemm is not None and gemm.op_type == "Gemm":
            decisions.append(_fold(editor, gemm, reshape, layer))
    return editor.finish(), decisions


def _fold(editor: GraphEditor, gemm: NodeProto, reshape: NodeProto, layer: NodeProto) -> Decision:
    def refuse(why: str) -> Decision:
        return Decision(RULE, layer.name, False, why)

    window, weights = Window.of(editor, layer), gemm_weights(editor, gemm)
    if window is None or weights is None:
        return refuse("its weights or those of the Gemm before it are not constant")
    if window.auto_pad != "NOTSET" or window.output_shape or window.pads_begin != window.pads_end:
        return refuse("its padding is not the same on both sides")
    if editor.only_consumer(gemm.output[0]) is not reshape or editor.only_consumer(reshape.output[0]) is not layer:
        return refuse("what lies between it and the Gemm is read elsewhere too")
    shape = editor.fixed_shape(reshape.output[0])
    if shape is None:
        return refuse("the size of the map is not known")
    if not editor.keeps_rows(reshape):
        return refuse("the reshape between them makes other rows than the Gemm's")
    maps = [value.reshape(-1, *shape) for value in weights]
    inputs, size_before = weights[0].shape
    new_weight = _convolve(layer.op_type, maps[0], editor.constants[layer.input[1]], window)
    bias = editor.constants[layer.input[2]] if len(layer.input) > 2 and layer.input[2] else np.zeros(1, np.float32)
    new_bias = _convolve(layer.op_type, maps[1], editor.constants[layer.input[1]], window)
    new_bias = new_bias[0] + bias.reshape(-1, *(1,) * (new_bias.ndim - 2))
    kernel_weights = editor.constants[layer.input[1]].size
    size_after = math.prod(new_weight.shape[1:])
    taps = kernel_weights * (
        math.prod(shape[1:]) if layer.op_type == "ConvTranspose" else size_after // new_weight.shape[1]
    )
    multiply_adds = (inputs * size_before + taps, inputs * size_after)
    stored = (weights[0].size + kernel_weights, new_weight.size)
    told = f"{multiply_adds[0]:,} multiply-adds became {multiply_adds[1]:,}, and {stored[0]:,} weights {stored[1]:,}"
    if multiply_adds[1] > multiply_adds[0] or stored[1] > stored[0]:
        return refuse(f"it would not pay: {told}".replace("became", "would become"))
    _replace(editor, gemm, reshape, layer, new_weight.astype(np.float32), new_bias.astype(np.float32))
    return Decision(RULE, layer.name, True, f"folded into {gemm.name}: {told}")


def _replace(
    editor: GraphEditor, gemm: NodeProto, reshape: NodeProto, layer: NodeProto, weight: Array, bias: Array
) -> None:
    """Gemm, then the activation that followed, if any, then Reshape: elementwise functions commute with it."""
    name = f"{layer.name}_folded"
    inputs = [
        gemm.input[0],
        editor.add_constant(weight.reshape(len(weight), -1), f"{name}_weight"),
        editor.add_constant(bias.reshape(-1), f"{name}_bias"),
    ]
    tensor, end = editor.add("Gemm", inputs, name), layer.output[0]
    activation = editor.only_consumer(end)
    if activation is not None and activation.op_type in UNARY_ACTIVATIONS:
        activation.input[0], end = tensor, activation.output[0]
        tensor = activation.output[0] = editor.add_name(f"{activation.name}_flat")
    tensor = editor.reshape(tensor, [-1, *bias.shape], f"{name}_map")
    editor.remove(gemm, reshape, layer)
    editor.redirect(end, tensor)


def _convolve(op_type: str, maps: Array, weight: Array, window: Window) -> Array:
    """The layer without its bias, on a batch of maps, in float64."""
    functions: dict[tuple[str, int], Callable[..., torch.Tensor]] = {
        ("Conv", 1): F.conv1d, ("Conv", 2): F.conv2d, ("Conv", 3): F.conv3d,
        ("ConvTranspose", 1): F.conv_transpose1d, ("ConvTranspose", 2): F.conv_transpose2d,
        ("ConvTranspose", 3): F.conv_transpose3d,
    }  # fmt: skip
    options: dict[str, tuple[int, ...]] = {
        "stride": window.strides,
        "padding": window.pads_begin,
        "dilation": window.dilations,
    }
    if op_type == "ConvTranspose":
        options["output_padding"] = window.output_padding
    tensors = (torch.from_numpy(np.array(value, np.float64)) for value in (maps, weight))
    result: Array = functions[op_type, len(window.kernel)](*tensors, groups=window.groups, **options).numpy()
    return result
