"""ConvTranspose -> an ordinary convolution on the small map, followed by a shuffle (Shi et al. 2016).

A ConvTranspose with kernel k, stride s and begin padding p computes, along each axis,

    y[s*q + r] = sum over t of x[q - t] * w[s*t + r + p]     for all integers t with 0 <= s*t + r + p < k

for the phase r in [0, s). Each phase is an ordinary convolution of x; stacked, they are one Conv with s*s times the
output channels, ordered (row phase, column phase, channel), and DepthToSpace puts the phases in place. An activation
that follows is moved before the shuffle, where it fuses with the convolution. Output positions past the last whole
block are cut off again.

Preconditions: constant weights, one group, no dilation, explicit padding p <= k - 1 (else whole rows of x are cropped),
known spatial size. Cost: the phases differ in their taps, and the stacked kernel covers them all; the rest are zeros
that are multiplied too, or split off by `phase_split`. It pays where the int8 kernels of Conv exist and those of
ConvTranspose do not, and where `below_shuffle` can remove the shuffle.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.editor import UNARY_ACTIVATIONS, Array, GraphEditor
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "subpixel"
MAX_RATIO = 4.0
"""Most multiply-adds, relative to the ConvTranspose's own, that int8 kernels repay (measured: four to seven times)."""


@dataclass(frozen=True)
class AxisPhases:
    """The sub-pixel form along one axis."""

    stride: int
    taps: int
    """Length of the stacked kernel."""
    pad_begin: int
    pad_end: int
    source: tuple[tuple[int | None, ...], ...]
    """Per phase and tap of the stacked kernel, the tap of the ConvTranspose's kernel, or None for a zero."""
    length: int
    """Output length before cropping: a multiple of the stride."""
    wanted: int
    """Output length of the ConvTranspose."""


def axis_phases(size: int, kernel: int, stride: int, pad_begin: int, pad_end: int, output_padding: int) -> AxisPhases:
    """Phases along one axis of input length `size`; the formula stands at the top of this file."""
    wanted = stride * (size - 1) + output_padding + kernel - pad_begin - pad_end
    blocks = math.ceil(wanted / stride)
    t_max = (kernel - 1 - pad_begin) // stride  # of phase 0, which reaches furthest back
    t_min = -((stride - 1 + pad_begin) // stride)  # of the last phase, which reaches furthest ahead
    taps = t_max - t_min + 1
    source = tuple(
        tuple(tap if 0 <= (tap := stride * (t_max - u) + phase + pad_begin) < kernel else None for u in range(taps))
        for phase in range(stride)
    )
    return AxisPhases(
        stride=stride,
        taps=taps,
        pad_begin=t_max,
        pad_end=max(blocks - size - t_min, 0),
        source=source,
        length=stride * max(blocks, size + t_min),
        wanted=wanted,
    )


def stacked_kernel(weight: Array, axes: tuple[AxisPhases, ...]) -> Array:
    """The Conv's weight [phases * Cout, Cin, *taps] for a ConvTranspose's [Cin, Cout, *kernel]."""
    inputs, outputs = weight.shape[:2]
    strides, taps = [axis.stride for axis in axes], [axis.taps for axis in axes]
    stacked = np.zeros((*strides, outputs, inputs, *taps), weight.dtype)
    for phase in itertools.product(*map(range, strides)):
        for position in itertools.product(*map(range, taps)):
            taken = (axis.source[r][u] for axis, r, u in zip(axes, phase, position, strict=True))
            source = tuple(tap for tap in taken if tap is not None)
            if len(source) == len(axes):
                there: tuple[Any, ...] = (*phase, ..., *position)
                here: tuple[Any, ...] = (..., *source)
                stacked[there] = weight[here].T
    return stacked.reshape(math.prod(strides) * outputs, inputs, *taps)


def subpixel(model: onnx.ModelProto, only: frozenset[str] | None = None) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrite every ConvTranspose that fits.

    Args:
        model: any graph.
        only: names of the nodes to consider; all of them by default.
    """
    editor = GraphEditor(model)
    decisions = []
    for node in editor.of_type("ConvTranspose"):
        if only is not None and node.name not in only:
            decisions.append(Decision(RULE, node.name, False, "float ConvTranspose is the faster kernel here"))
            continue
        decisions.append(_rewrite(editor, node))
    return editor.finish(), decisions


def _rewrite(editor: GraphEditor, node: NodeProto) -> Decision:
    window = Window.of(editor, node)
    if window is None:
        return Decision(RULE, node.name, False, "its weights are not constant")
    if obstacle := window.obstacle():
        return Decision(RULE, node.name, False, obstacle)
    if any(begin >= kernel for begin, kernel in zip(window.pads_begin, window.kernel, strict=True)):
        return Decision(RULE, node.name, False, "it is padded by as much as its kernel")
    shape = editor.fixed_shape(node.input[0])
    if shape is None:
        return Decision(RULE, node.name, False, "its spatial size is not known")
    pads = window.pads_begin, window.pads_end
    numbers = zip(shape[1:], window.kernel, window.strides, *pads, window.output_padding, strict=True)
    axes = tuple(axis_phases(*each) for each in numbers)
    if any(axis.wanted < 1 for axis in axes):
        return Decision(RULE, node.name, False, "its output is empty")
    ratio = math.prod(axis.stride * axis.taps / kernel for axis, kernel in zip(axes, window.kernel, strict=True))
    if ratio > MAX_RATIO:
        return Decision(RULE, node.name, False, f"it would take {ratio:.2f}x the multiply-adds")
    weight = editor.constants[node.input[1]]
    phases = math.prod(window.strides)
    inputs = [node.input[0], editor.add_constant(stacked_kernel(weight, axes), f"{node.input[1]}_subpixel")]
    if len(node.input) > 2 and node.input[2]:
        inputs.append(
            editor.add_constant(np.tile(editor.constants[node.input[2]], phases), f"{node.input[2]}_subpixel")
        )
    name = f"{node.name}_subpixel"
    tensor = editor.add(
        "Conv",
        inputs,
        name,
        kernel_shape=[axis.taps for axis in axes],
        pads=[axis.pad_begin for axis in axes] + [axis.pad_end for axis in axes],
    )
    end = node.output[0]
    activation = editor.only_consumer(end)
    if activation is not None and activation.op_type in UNARY_ACTIVATIONS:
        activation.input[0], end = tensor, activation.output[0]
        tensor = activation.output[0] = editor.add_name(f"{activation.name}_subpixel")
    tensor = _shuffle(editor, tensor, axes, weight.shape[1], name)
    editor.remove(node)
    editor.redirect(end, tensor)
    return Decision(RULE, node.name, True, f"Conv with {ratio:.2f}x the multiply-adds, then a shuffle")


def _shuffle(editor: GraphEditor, tensor: str, axes: tuple[AxisPhases, ...], channels: int, name: str) -> str:
    """Put the phases in place, and crop."""
    strides = [axis.stride for axis in axes]
    if math.prod(strides) > 1:
        if len(axes) == 2 and strides[0] == strides[1]:
            tensor = editor.add("DepthToSpace", [tensor], f"{name}_shuffle", blocksize=strides[0], mode="DCR")
        else:
            tensor = _general_shuffle(editor, tensor, axes, channels, name)
    if any(axis.length != axis.wanted for axis in axes):
        numbers = {
            "starts": [0] * len(axes),
            "ends": [axis.wanted for axis in axes],
            "axes": [2 + index for index in range(len(axes))],
        }
        inputs = [editor.add_constant(np.array(value, np.int64), f"{name}_{key}") for key, value in numbers.items()]
        tensor = editor.add("Slice", [tensor, *inputs], f"{name}_crop")
    return tensor


def _general_shuffle(editor: GraphEditor, tensor: str, axes: tuple[AxisPhases, ...], channels: int, name: str) -> str:
    """What DepthToSpace does, for any number of axes and unequal strides."""
    count = len(axes)
    blocks = [axis.length // axis.stride for axis in axes]
    strides = [axis.stride for axis in axes]
    tensor = editor.reshape(tensor, [0, *strides, channels, *blocks], f"{name}_phases")
    order = [0, count + 1]
    for index in range(count):
        order += [count + 2 + index, 1 + index]
    tensor = editor.transpose(tensor, order, f"{name}_interleave")
    return editor.reshape(tensor, [0, channels, *(axis.length for axis in axes)], f"{name}_shuffle")
