"""Nearest-neighbour Resize -> Conv becomes one Conv per phase on the small map, and a shuffle.

After a nearest upsampling by s, neighbouring taps of the Conv often read the same pixel: along one axis

    out[s*q + r] = sum over t of x[q + floor((r + t - p) / s)] * w[t]

so each phase r has a shorter kernel, the sum of the taps that share a pixel. For s = 2 and k = 3 two of three remain:
4/9 of the multiply-adds in two dimensions. Zeros beyond the border are read alike on both sides of the equation.

Preconditions: mode nearest, coordinates asymmetric, rounding floor (what torch exports) and whole factors; Conv with
stride 1, one group, no dilation and 'same' padding. Cost rule: for int8; in float32 the phases measured slower than
ONNX Runtime's own Resize and Conv on larger maps, so there they are taken only when timed faster.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, Array, GraphEditor, attribute
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "resize_phases"


def resize_to_phases(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrite every nearest Resize with the Conv after it."""
    editor = GraphEditor(model)
    decisions = []
    for node in editor.of_type("Conv"):
        resize = editor.producer(node.input[0])
        if resize is not None and resize.op_type in ("Resize", "Upsample"):
            decisions.append(_rewrite(editor, resize, node))
    return editor.finish(), decisions


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


def _rewrite(editor: GraphEditor, resize: NodeProto, node: NodeProto) -> Decision:
    def refuse(why: str) -> Decision:
        return Decision(RULE, node.name, False, why)

    window = Window.of(editor, node)
    if window is None or window.obstacle() or len(window.kernel) != 2:
        return refuse("it is not a plain two-dimensional Conv with constant weights")
    kernel = window.kernel[0]
    same = (kernel - 1) // 2
    if set(window.kernel) != {kernel} or kernel % 2 == 0 or set(window.strides) != {1}:
        return refuse("its kernel is even, not square, or has a stride")
    if {*window.pads_begin, *window.pads_end} != {same}:
        return refuse("its padding does not keep the size")
    factor = _nearest_factor(editor, resize)
    if factor is None:
        return refuse(f"the {resize.op_type} before it is not a nearest one by a whole factor, rounded down")
    if editor.only_consumer(resize.output[0]) is not node:
        return refuse("the resized map is read elsewhere too")
    weight, begin = phase_kernels(editor.constants[node.input[1]], factor)
    name = f"{node.name}_phases"
    inputs = [resize.input[0], editor.add_constant(weight, f"{name}_weight")]
    if len(node.input) > 2 and node.input[2]:
        inputs.append(editor.add_constant(np.tile(editor.constants[node.input[2]], factor**2), f"{name}_bias"))
    end_pad = weight.shape[2] - 1 - begin
    tensor = editor.add(
        "Conv", inputs, name, kernel_shape=list(weight.shape[2:]), pads=[begin, begin, end_pad, end_pad]
    )
    end = node.output[0]
    activation = editor.only_consumer(end)
    if activation is not None and activation.op_type in UNARY_ACTIVATIONS:
        activation.input[0], end = tensor, activation.output[0]
        tensor = activation.output[0] = editor.add_name(f"{activation.name}_phases")
    tensor = editor.add("DepthToSpace", [tensor], f"{name}_shuffle", blocksize=factor, mode="DCR")
    editor.remove(node, resize)
    editor.redirect(end, tensor)
    ratio = weight.shape[2] ** 2 / kernel**2
    return Decision(RULE, node.name, True, f"{ratio:.2f}x the multiply-adds, then a shuffle")


def nearest_factors(editor: GraphEditor, node: NodeProto) -> tuple[int, int] | None:
    """The whole factors of a nearest Resize over the last two axes, of which one is more than 1; None for any other."""
    if attribute(node, "mode", "nearest") != "nearest":
        return None
    if node.op_type == "Resize" and (
        attribute(node, "coordinate_transformation_mode", "half_pixel") != "asymmetric"
        or attribute(node, "nearest_mode", "round_prefer_floor") != "floor"
    ):
        return None
    before, after = editor.fixed_shape(node.input[0]), editor.fixed_shape(node.output[0])
    if before is None or after is None or len(before) != 3 or len(after) != 3 or before[0] != after[0]:
        return None
    if any(large % small for small, large in zip(before[1:], after[1:], strict=True)) or before == after:
        return None
    return after[1] // before[1], after[2] // before[2]


def _nearest_factor(editor: GraphEditor, node: NodeProto) -> int | None:
    """The factor where both axes have the same."""
    factors = nearest_factors(editor, node)
    return factors[0] if factors is not None and factors[0] == factors[1] else None
