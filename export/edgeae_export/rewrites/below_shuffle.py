"""A convolution moved below the shuffle before it: DepthToSpace -> Conv becomes one ConvTranspose on the small map.

With block b, kernel k and begin padding p, the Conv reads y[b*i + a] = x[i, (a, channel)] and computes

    out[o] = sum over t of y[o + t - p] * w[t]

so the element x[i, (a, channel)] reaches out[b*i + a + p - t] with weight w[t]: a ConvTranspose from the b*b*channels
of the small map with stride b, kernel b + k - 1 and padding k - 1 - p, whose tap r holds w[a + k - 1 - r]. After
`subpixel` this removes the shuffle and the large map in front of a decoder's last convolution altogether.

It may be done where

1. the Conv's weights and bias are constant;
2. it has one group and no dilation, and its padding is given;
3. it has two axes, and its stride is 1;
4. it is padded by at most k - 1, as a ConvTranspose's padding is not negative.

It pays where nothing else reads the shuffled map, which is made otherwise all the same, and where the outputs are few:
a ConvTranspose spreads (b + k - 1)^2 * outputs numbers per position of the small map, and up to `MAX_COLUMNS` of them
it beats the convolution on the large map.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, attribute, maker, only_reader, read
from edgeae_export.rewrites.steps import Rewrite

RULE = "below_shuffle"
MAX_COLUMNS = 64
"""Numbers a ConvTranspose may spread per input position: a decoder's last layer, 16 for one channel, 48 for three."""


def obstacle_to_merging(layer: Layer, block: int) -> str:
    """Why a Conv could not be merged with a shuffle of `block` before it; empty when it can."""
    if not layer.constant:  # 1
        return "its weights are not constant"
    window = layer.window
    if why := window.obstacle():  # 2
        return why
    if len(window.kernel) != 2 or set(window.strides) != {1}:  # 3
        return f"its stride is {'x'.join(map(str, window.strides))}"
    pads = (*window.pads_begin, *window.pads_end)
    if any(pad >= kernel for pad, kernel in zip(pads, window.kernel * 2, strict=True)):  # 4
        return "it is padded by as much as its kernel"
    columns = layer.outputs * math.prod(block + kernel - 1 for kernel in window.kernel)
    if columns > MAX_COLUMNS:
        return f"it has too many outputs: {columns} numbers per position, at most {MAX_COLUMNS} pay"
    return ""


def merged_kernel(weight: Array, block: int, mode: str) -> Array:
    """The ConvTranspose's weight [block * block * C, outputs, ...] for a Conv's [outputs, C, ...]."""
    outputs, channels, height, width = weight.shape
    merged = np.zeros((block, block, channels, outputs, block + height - 1, block + width - 1), weight.dtype)
    flipped = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    for a, b in itertools.product(range(block), repeat=2):
        merged[a, b, :, :, a : a + height, b : b + width] = flipped
    if mode == "CRD":  # channels of the small map ordered (channel, row phase, column phase)
        merged = merged.transpose(2, 0, 1, 3, 4, 5)
    return merged.reshape(block * block * channels, outputs, *merged.shape[4:])


@dataclass(frozen=True)
class _ShuffledConv(Layer):
    """A Conv, and the DepthToSpace before it."""

    shuffle: ir.Node

    @property
    def block(self) -> int:
        return int(attribute(self.shuffle, "blocksize", 1))


def _match(node: ir.Node) -> _ShuffledConv | None:
    layer = Layer.of(node, "Conv")
    shuffle = maker(layer.input, ("DepthToSpace",)) if layer else None
    return _ShuffledConv(node, shuffle) if shuffle else None


def _obstacle(layer: _ShuffledConv) -> str:
    if only_reader(layer.input) is not layer.node:
        return "the shuffle before it is read elsewhere too"
    return obstacle_to_merging(layer, layer.block)


def _replace(layer: _ShuffledConv) -> str:
    window, block, name = layer.window, layer.block, f"{layer.name}_below_shuffle"
    merged = merged_kernel(layer.weight, block, attribute(layer.shuffle, "mode", "DCR"))
    pads = zip((*window.pads_begin, *window.pads_end), window.kernel * 2, strict=True)
    edit = Edit(layer.graph, before=layer.node)
    value = edit.node(
        "ConvTranspose",
        [read(layer.shuffle), edit.constant(merged, f"{name}_weight"), *layer.node.inputs[2:]],
        name,
        kernel_shape=list(merged.shape[2:]),
        strides=[block, block],
        pads=[kernel - 1 - pad for pad, kernel in pads],
    )
    edit.replace(layer.output, value, layer.node, layer.shuffle)
    return "merged with the shuffle before it into one ConvTranspose on the small map"


move_below_shuffle = Rewrite(RULE, _match, _obstacle, _replace)
"""Merge every DepthToSpace with the Conv after it, where it pays."""
