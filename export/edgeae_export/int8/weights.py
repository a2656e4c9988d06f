"""A layer's weight and bias in 8 and 32 bits, and the nodes that say so in a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, attribute
from edgeae_export.targets import Target

_BIAS_LIMIT = 1 << 30  # int32 with room for the sums it is added to


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight in 8 bits."""

    values: Array
    """int8, the shape of the weight."""
    scale: Array
    """float32: per output channel, or a scalar."""
    zero: Array
    """int8, like `scale`."""


def quantize_weight(weight: Array, axis: int, target: Target, smallest: Array | None = None) -> QuantizedWeight:
    """A float32 weight in 8 bits, symmetric per channel or asymmetric per tensor.

    Args:
        weight: float32.
        axis: the output channels.
        target: which of the two, and how many bits.
        smallest: per output channel, the smallest scale that may be chosen, so that the bias fits in its int32.
    """
    top = (1 << (target.weight_bits - 1)) - 1
    if not per_channel(weight, axis, target):
        low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
        needed = 0.0 if smallest is None else float(np.max(smallest))
        scale = max((high - low) / (2 * top + 1), needed, float(np.finfo(np.float32).tiny))
        zero = int(np.clip(round(-top - 1 - low / scale), -top - 1, top))
        values = np.clip(np.rint(weight / scale) + zero, -top - 1, top)
        return QuantizedWeight(values.astype(np.int8), np.array(scale, np.float32), np.array(zero, np.int8))
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others)
    # A channel of zeros takes the others' scale: its bias is stored in units of it.
    scales = np.maximum(np.where(largest > 0, largest, largest.max() or 1.0) / top, np.finfo(np.float32).tiny)
    if smallest is not None:
        scales = np.maximum(scales, smallest)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    values = np.clip(np.rint(weight / scales.reshape(shape)), -top, top)
    return QuantizedWeight(values.astype(np.int8), scales.astype(np.float32), np.zeros(len(scales), np.int8))


def per_channel(weight: Array, axis: int, target: Target) -> bool:
    """Whether a weight has one symmetric scale per output channel, or one scale and zero point for the whole."""
    return target.per_channel or weight.size // weight.shape[axis] <= target.per_channel_up_to


def oriented_weight(layer: Layer) -> tuple[Array, int]:
    """The weight as it is stored, a matrix always [inputs, outputs], and the axis of its outputs."""
    if layer.op_type == "Conv":
        return layer.weight, 0
    return (layer.weight.T if attribute(layer.node, "transB", 0) else layer.weight), 1


def store_in_int8(
    edit: Edit,
    layer: Layer,
    input_scale: np.float32,
    target: Target,
    shift: Array | None = None,
    rounded: QuantizedWeight | None = None,
) -> None:
    """Let a layer read its weight from 8 bits, and its bias from int32 in units of (input scale * weight scale).

    Args:
        edit: the graph that the layer stands in.
        layer: a Conv, Gemm or MatMul with constant weights.
        input_scale: of what it reads.
        target: what the weight looks like.
        shift: what to add to the bias, float64 [outputs].
        rounded: the weight as `round_weights` rounds it; to the nearest step by default.
    """
    weight, axis = oriented_weight(layer)
    bias = None
    if layer.bias is not None:
        bias = np.broadcast_to(layer.bias.reshape(-1), weight.shape[axis : axis + 1]).astype(np.float64)
        bias = bias if shift is None else bias + shift
    smallest = None if bias is None else np.abs(bias) / (float(input_scale) * _BIAS_LIMIT)
    quantized = quantize_weight(weight, axis, target, smallest)
    if rounded is not None and np.array_equal(rounded.scale, quantized.scale):  # a large bias wants another scale
        quantized = rounded
    if attribute(layer.node, "transB", 0):
        layer.node.attributes.add(ir.AttrInt64("transB", 0))
    name, scales = layer.name, quantized.scale.ndim > 0
    stored = [
        edit.constant(quantized.values, f"{name}_weight_int8"),
        edit.constant(quantized.scale, f"{name}_weight_scale"),
        edit.constant(quantized.zero, f"{name}_weight_zero"),
    ]
    in_float = edit.node("DequantizeLinear", stored, f"{name}_weight_dequantized", **_axis(scales, axis))
    bias_in_float = None
    if bias is not None:
        bias_scale = (input_scale * quantized.scale).astype(np.float32)
        values = np.clip(np.rint(bias / bias_scale), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
        stored = [edit.constant(values, f"{name}_bias_int32"), edit.constant(bias_scale, f"{name}_bias_scale")]
        bias_in_float = edit.node("DequantizeLinear", stored, f"{name}_bias_dequantized", **_axis(scales, 0))
    layer.set_constants(in_float, bias_in_float)


def _axis(scales: bool, axis: int) -> dict[str, int]:
    return {"axis": axis} if scales else {}
