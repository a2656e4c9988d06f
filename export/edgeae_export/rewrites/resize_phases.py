"""Nearest-neighbour Resize -> Conv becomes one Conv per phase on the small map, and a shuffle.

After a nearest upsampling by s, neighbouring taps of the Conv often read the same pixel: along one axis

    out[s*q + r] = sum over t of x[q + floor((r + t - p) / s)] * w[t]

so each phase r has a shorter kernel, the sum of the taps that share a pixel. For s = 2 and k = 3 two of three remain:
4/9 of the multiply-adds in two dimensions. Zeros beyond the border are read alike on both sides of the equation.

It may be done where

1. the Conv's weights and bias are constant;
2. it has two axes, one group and no dilation, and its padding is given;
3. its kernel is odd, square and without a stride;
4. its padding keeps the size;
5. the Resize is a nearest one with asymmetric coordinates, rounded down (what torch exports);
6. its factor is whole, and the same for both axes.

It pays where nothing else reads the resized map, which is made otherwise all the same, and in int8: in float32 the
phases measured slower than ONNX Runtime's own Resize and Conv on larger maps, so there they are taken only when timed
faster.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, attribute, constant, fixed_shape, maker, only_reader, read, reads
from edgeae_export.rewrites.steps import Rewrite

RULE = "resize_phases"


def phase_kernels(weight: Array, factor: int) -> tuple[Array, int]:
    """The Conv's weight [factor * factor * Cout, Cin, taps, taps] for 'same' padding, and its begin padding."""
    outputs, inputs, kernel, _ = weight.shape
    pad = (kernel - 1) // 2
    low = (0 - pad) // factor
    taps = (factor - 1 + kernel - 1 - pad) // factor - low + 1
    phases = np.zeros((factor, factor, outputs, inputs, taps, taps), np.float64)
    for row, column, i, j in itertools.product(range(factor), range(factor), range(kernel), range(kernel)):
        target = (row + i - pad) // factor - low, (column + j - pad) // factor - low
        phases[row, column, :, :, target[0], target[1]] += weight[:, :, i, j]
    return phases.reshape(-1, inputs, taps, taps).astype(weight.dtype), -low


def nearest_factors(node: ir.Node) -> tuple[int, int] | None:
    """The whole factors of a nearest Resize over the last two axes, of which one is more than 1; None for any other."""
    asked = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
    if [attribute(node, *each) for each in asked.items()] != ["nearest", "asymmetric", "floor"]:  # 5
        return None
    before, after, scales = fixed_shape(read(node)), fixed_shape(node.outputs[0]), constant(reads(node, 2))
    if before is None or after is None or len(before) != 3 or before[0] != after[0] or before == after:
        return None
    if any(large % small for small, large in zip(before, after, strict=True)):  # 6
        return None
    if scales is not None and np.any(scales % 1):  # 6: 2.2 makes 4 of 2 pixels as well, though not from 2 each
        return None
    return after[1] // before[1], after[2] // before[2]


@dataclass(frozen=True)
class _ResizedConv(Layer):
    """A Conv, and the Resize before it."""

    resize: ir.Node

    @property
    def factor(self) -> int | None:
        """The whole factor of a nearest Resize, where both axes have the same."""
        factors = set(nearest_factors(self.resize) or ())
        return factors.pop() if len(factors) == 1 else None


def _match(node: ir.Node) -> _ResizedConv | None:
    layer = Layer.of(node, "Conv")
    resize = maker(layer.input, ("Resize",)) if layer else None
    return _ResizedConv(node, resize) if resize else None


def _obstacle(layer: _ResizedConv) -> str:
    if not layer.constant or layer.window.obstacle() or len(layer.window.kernel) != 2:  # 1, 2
        return "it is not a plain two-dimensional Conv with constant weights"
    window = layer.window
    kernel = window.kernel[0]
    if set(window.kernel) != {kernel} or kernel % 2 == 0 or set(window.strides) != {1}:  # 3
        return "its kernel is even, not square, or has a stride"
    if {*window.pads_begin, *window.pads_end} != {(kernel - 1) // 2}:  # 4
        return "its padding does not keep the size"
    if layer.factor is None:  # 5, 6
        return "the Resize before it is not a nearest one by a whole factor, rounded down"
    return "the resized map is read elsewhere too" if only_reader(layer.input) is not layer.node else ""


def _replace(layer: _ResizedConv) -> str:
    factor, name = layer.factor, f"{layer.name}_phases"
    assert factor is not None, "asked by `_obstacle`"
    weight, begin = phase_kernels(layer.weight, factor)
    taps = weight.shape[-1]
    end = taps - 1 - begin
    edit = Edit(layer.graph, before=layer.nodes[-1])
    inputs = [read(layer.resize), edit.constant(weight, f"{name}_weight")]
    if layer.bias is not None:
        inputs.append(edit.constant(np.tile(layer.bias, factor**2), f"{name}_bias"))
    value = edit.node("Conv", inputs, name, kernel_shape=[taps, taps], pads=[begin, begin, end, end])
    value = edit.again(layer.activation, value, f"{name}_activation")
    value = edit.node("DepthToSpace", [value], f"{name}_shuffle", blocksize=factor, mode="DCR")
    ratio = taps**2 / layer.window.kernel[0] ** 2
    edit.replace(layer.end, value, *layer.nodes, layer.resize)
    return f"{ratio:.2f}x the multiply-adds, then a shuffle"


resize_to_phases = Rewrite(RULE, _match, _obstacle, _replace)
"""Rewrite every nearest Resize with the Conv after it."""
