"""ConvTranspose -> an ordinary convolution on the small map, followed by a shuffle (Shi et al. 2016).

A ConvTranspose with kernel k, stride s and begin padding p computes, along each axis,

    y[s*q + r] = sum over t of x[q - t] * w[s*t + r + p]     for all integers t with 0 <= s*t + r + p < k

for the phase r in [0, s). Each phase is an ordinary convolution of x; stacked, they are one Conv with s*s times the
output channels, ordered (row phase, column phase, channel), and DepthToSpace puts the phases in place. An activation
that follows is moved before the shuffle, where it fuses with the convolution. Output positions past the last whole
block are cut off again.

Where the padding is off the stride, the phases reach for different inputs, and the stacked kernel has taps that are
zero in most of them: kernel 4, stride 2, padding 1 would take 3 taps an axis, though each phase has 2. So c further
positions may be computed in front and cut off after the shuffle: with c = p mod s no tap is wasted.

Preconditions: constant weights, one group, explicit padding, known spatial size; a dilated kernel is written with its
zeros. Cost: the phases may differ in their taps, and the stacked kernel covers them all; the rest are zeros that are
multiplied too, or split off by `phase_split`. It pays where the int8 kernels of Conv exist and those of ConvTranspose
do not, and where `below_shuffle` can remove the shuffle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, Array, GraphEditor
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.window import Window

RULE = "subpixel"
MAX_RATIO = 4.0
"""Most multiply-adds, relative to the ConvTranspose's own, that int8 kernels repay (measured: four to seven times)."""
MIN_CROP_SAVING = 0.1
"""Share of the multiply-adds that cutting off positions in front must save: it copies the map once more."""


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
    crop: int
    """Positions to cut off in front."""
    wanted: int
    """Output length of the ConvTranspose."""

    @property
    def work(self) -> int:
        """Positions times taps times phases."""
        return self.length * self.taps


def axis_phases(
    size: int, kernel: int, stride: int, pad_begin: int, pad_end: int, output_padding: int, crop: int
) -> AxisPhases:
    """Phases along one axis of input length `size`, computed from `crop` positions before the first wanted one; the
    formula stands at the top of this file, with `pad_begin - crop` for p."""
    wanted = stride * (size - 1) + output_padding + kernel - pad_begin - pad_end
    first = pad_begin - crop
    blocks = math.ceil((wanted + crop) / stride)
    t_max = (kernel - 1 - first) // stride  # of phase 0, which reaches furthest back
    t_min = -((stride - 1 + first) // stride)  # of the last phase, which reaches furthest ahead
    taps = t_max - t_min + 1
    source = tuple(
        tuple(tap if 0 <= (tap := stride * (t_max - u) + phase + first) < kernel else None for u in range(taps))
        for phase in range(stride)
    )
    return AxisPhases(
        stride=stride,
        taps=taps,
        pad_begin=t_max,
        pad_end=max(blocks - size - t_min, 0),
        source=source,
        length=stride * max(blocks, size + t_min),
        crop=crop,
        wanted=wanted,
    )


def cheapest_phases(numbers: Sequence[tuple[int, int, int, int, int, int]], crop: bool) -> tuple[AxisPhases, ...]:
    """The phases of all axes, from where they take the fewest multiply-adds.

    Args:
        numbers: per axis, the arguments of `axis_phases` without `crop`.
        crop: whether positions may be cut off in front to save work; else only where there is no other way.
    """
    forms = []
    for each in numbers:
        _, kernel, stride, pad_begin, *_ = each
        least = max(pad_begin - kernel + 1, 0)  # so that no input lies before the first that is read
        forms.append([axis_phases(*each, least + further) for further in range(stride)])
    plain = tuple(axis[0] for axis in forms)
    best = tuple(min(axis, key=lambda form: form.work) for axis in forms)
    saves = math.prod(form.work for form in best) <= (1 - MIN_CROP_SAVING) * math.prod(form.work for form in plain)
    return best if crop and saves else plain


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


def to_subpixel(
    model: onnx.ModelProto, only: frozenset[str] | None = None, uncropped: frozenset[str] = frozenset()
) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrite every ConvTranspose that fits.

    Args:
        model: any graph.
        only: names of the nodes to consider; all of them by default.
        uncropped: names of those whose shuffle something is to merge with: nothing may lie between.
    """
    editor = GraphEditor(model)
    decisions = []
    for node in editor.of_type("ConvTranspose"):
        if only is not None and node.name not in only:
            decisions.append(Decision(RULE, node.name, False, "it is faster as it is in this plan"))
            continue
        decisions.append(_rewrite(editor, node, crop=node.name not in uncropped))
    return editor.finish(), decisions


def _rewrite(editor: GraphEditor, node: NodeProto, crop: bool) -> Decision:
    window = Window.of(editor, node)
    if window is None:
        return Decision(RULE, node.name, False, "its weights are not constant")
    if obstacle := replace(window, dilations=(1,) * len(window.kernel)).obstacle():
        return Decision(RULE, node.name, False, obstacle)
    shape = editor.fixed_shape(node.input[0])
    if shape is None:
        return Decision(RULE, node.name, False, "its spatial size is not known")
    weight = _undilated(editor.constants[node.input[1]], window.dilations)
    pads = window.pads_begin, window.pads_end
    numbers = list(zip(shape[1:], weight.shape[2:], window.strides, *pads, window.output_padding, strict=True))
    axes = cheapest_phases(numbers, crop)
    if any(axis.wanted < 1 for axis in axes):
        return Decision(RULE, node.name, False, "its output is empty")
    own = math.prod(size * kernel for size, kernel in zip(shape[1:], window.kernel, strict=True))
    ratio = math.prod(axis.work for axis in axes) / own
    if ratio > MAX_RATIO:
        dilated = any(dilation != 1 for dilation in window.dilations)
        told = f"it is dilated by {'x'.join(map(str, window.dilations))}, and " if dilated else ""
        return Decision(RULE, node.name, False, f"{told}it would take {ratio:.2f}x the multiply-adds")
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


def _undilated(weight: Array, dilations: Sequence[int]) -> Array:
    """The kernel with the zeros that a dilation stands for."""
    sizes = [dilation * (size - 1) + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    wide = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    there: tuple[Any, ...] = (..., *(slice(None, None, dilation) for dilation in dilations))
    wide[there] = weight
    return wide


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
            "starts": [axis.crop for axis in axes],
            "ends": [axis.crop + axis.wanted for axis in axes],
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
