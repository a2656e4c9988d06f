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

It may be done where

1. weights and bias are constant, and the map's size is known, as the padding at the end depends on it;
2. there is one group, and the padding is given: a dilated kernel is written with its zeros, and fits;
3. there is an output at all.

It pays where it takes at most `MAX_RATIO` times the multiply-adds: the phases may differ in their taps, and the stacked
kernel covers them all; the rest are zeros that are multiplied too, or split off by `phase_split`. It is for where int8
kernels of Conv exist and those of ConvTranspose do not, and where `below_shuffle` can remove the shuffle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, fixed_shape
from edgeae_export.rewrites.steps import Rewrite

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


@dataclass(frozen=True)
class SubpixelLayer(Layer):
    """A ConvTranspose, and the form it would get."""

    crop: bool = True
    """Whether positions may be cut off in front to save work."""

    @property
    def dilated_weight(self) -> Array:
        """The kernel with the zeros that a dilation stands for."""
        weight, dilations = self.weight, self.window.dilations
        sizes = [dilation * (size - 1) + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
        wide = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
        there: tuple[Any, ...] = (..., *(slice(None, None, dilation) for dilation in dilations))
        wide[there] = weight
        return wide

    @property
    def axes(self) -> tuple[AxisPhases, ...] | None:
        """The phases of every axis; None where the map's size is not known."""
        shape, window = fixed_shape(self.input), self.window
        if shape is None:
            return None
        kernel = self.dilated_weight.shape[2:]
        numbers = zip(
            shape[1:], kernel, window.strides, window.pads_begin, window.pads_end, window.output_padding, strict=True
        )
        return cheapest_phases(list(numbers), self.crop)

    def ratio(self, axes: tuple[AxisPhases, ...]) -> float:
        """Multiply-adds relative to the ConvTranspose's own."""
        sizes = zip((fixed_shape(self.input) or ())[1:], self.window.kernel, strict=True)
        return math.prod(axis.work for axis in axes) / math.prod(size * kernel for size, kernel in sizes)


def to_subpixel(
    only: Callable[[Layer], bool] = lambda layer: True, uncropped: Callable[[Layer], bool] = lambda layer: False
) -> Rewrite[SubpixelLayer]:
    """The rewrite of every ConvTranspose that fits.

    Args:
        only: which to consider; all of them by default.
        uncropped: those whose shuffle something is to merge with: nothing may lie between.
    """

    def match(node: ir.Node) -> SubpixelLayer | None:
        layer = Layer.of(node, "ConvTranspose")
        return SubpixelLayer(node, not uncropped(layer)) if layer else None

    def obstacle(layer: SubpixelLayer) -> str:
        return _obstacle(layer) if only(layer) else "it is faster as it is in this plan"

    return Rewrite(RULE, match, obstacle, _replace)


def _obstacle(layer: SubpixelLayer) -> str:
    if not layer.constant:  # 1
        return "its weights are not constant"
    window = layer.window
    if why := replace(window, dilations=(1,) * len(window.kernel)).obstacle():  # 2
        return why
    axes = layer.axes
    if axes is None:  # 1
        return "its spatial size is not known"
    if any(axis.wanted < 1 for axis in axes):  # 3
        return "its output is empty"
    if (ratio := layer.ratio(axes)) > MAX_RATIO:
        dilated = any(dilation != 1 for dilation in window.dilations)
        told = f"it is dilated by {'x'.join(map(str, window.dilations))}, and " if dilated else ""
        return f"{told}it would take {ratio:.2f}x the multiply-adds"
    return ""


def _replace(layer: SubpixelLayer) -> str:
    axes = layer.axes
    assert axes is not None, "asked by `_obstacle`"
    ratio, name = layer.ratio(axes), f"{layer.name}_subpixel"
    edit = Edit(layer.graph, before=layer.nodes[-1])
    inputs = [layer.input, edit.constant(stacked_kernel(layer.dilated_weight, axes), f"{name}_weight")]
    if layer.bias is not None:
        phases = math.prod(axis.stride for axis in axes)
        inputs.append(edit.constant(np.tile(layer.bias, phases), f"{name}_bias"))
    pads = [axis.pad_begin for axis in axes] + [axis.pad_end for axis in axes]
    value = edit.node("Conv", inputs, name, kernel_shape=[axis.taps for axis in axes], pads=pads)
    value = edit.again(layer.activation, value, f"{name}_activation")
    value = _shuffle(edit, value, axes, layer.outputs, name)
    edit.replace(layer.end, value, *layer.nodes)
    return f"Conv with {ratio:.2f}x the multiply-adds, then a shuffle"


def _shuffle(edit: Edit, value: ir.Value, axes: tuple[AxisPhases, ...], channels: int, name: str) -> ir.Value:
    """Put the phases in place, and crop."""
    strides = [axis.stride for axis in axes]
    if math.prod(strides) > 1:
        if len(axes) == 2 and strides[0] == strides[1]:
            value = edit.node("DepthToSpace", [value], f"{name}_shuffle", blocksize=strides[0], mode="DCR")
        else:
            value = _general_shuffle(edit, value, axes, channels, name)
    if any(axis.length != axis.wanted for axis in axes):
        numbers = {
            "starts": [axis.crop for axis in axes],
            "ends": [axis.crop + axis.wanted for axis in axes],
            "axes": [2 + index for index in range(len(axes))],
        }
        inputs = [edit.constant(np.array(value, np.int64), f"{name}_{key}") for key, value in numbers.items()]
        value = edit.node("Slice", [value, *inputs], f"{name}_crop")
    return value


def _general_shuffle(edit: Edit, value: ir.Value, axes: tuple[AxisPhases, ...], channels: int, name: str) -> ir.Value:
    """What DepthToSpace does, for any number of axes and unequal strides."""
    count = len(axes)
    blocks = [axis.length // axis.stride for axis in axes]
    strides = [axis.stride for axis in axes]
    value = edit.reshape(value, [0, *strides, channels, *blocks], f"{name}_phases")
    order = [0, count + 1]
    for index in range(count):
        order += [count + 2 + index, 1 + index]
    value = edit.transpose(value, order, f"{name}_interleave")
    return edit.reshape(value, [0, channels, *(axis.length for axis in axes)], f"{name}_shuffle")
