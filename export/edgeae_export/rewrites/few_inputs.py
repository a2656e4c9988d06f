"""A convolution of one to three input channels, padded with zeros to the four that the int8 kernels take at once.

Products of zeros add nothing to a sum: channels of zeros beside an input's own, with weights of zero, change nothing.

It may be done where

1. weights and bias are constant, so that the zeros are in the weight already;
2. there is one group: several have channels of their own, and those padded behind the last would shift them.

It pays in int8. ONNX Runtime's symmetric kernels read channels by fours (MLAS, ConvSym); fewer fall back to a matrix
product over copied patches, or stay in float, whose map must then be converted to bytes and turned channels last. On
64x64 pictures of three channels, a first layer of 64 outputs took 176 us in int8 as it is and 96 us padded (AVX-512
VNNI); in float 158 us, and 310 us more until its map was in bytes. Below `FEWEST_VALUES` written, a first layer in
float is as fast and exact.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.pixels import is_pixels
from edgeae_export.graph.values import fixed_shape
from edgeae_export.rewrites.steps import Rewrite

RULE = "few_inputs"
CHANNELS = 4
FEWEST_VALUES = 1 << 16


def _match(node: ir.Node) -> Layer | None:
    layer = Layer.of(node, "Conv")
    return layer if layer and layer.constant and _missing(layer) > 0 else None  # 1


def _obstacle(layer: Layer) -> str:
    if layer.window.groups != 1:  # 2
        return "it has groups"
    if math.prod(fixed_shape(layer.output) or (0,)) < FEWEST_VALUES:
        return f"it writes fewer than {FEWEST_VALUES} numbers, or how many is unknown"
    return ""


def _replace(layer: Layer) -> str:
    missing, weight, name = _missing(layer), layer.weight, f"{layer.name}_padded"
    edit = Edit(layer.graph, before=layer.node)
    behind = np.zeros((2, weight.ndim), np.int64)
    behind[1, 1] = missing
    padded = edit.node("Pad", [layer.input, edit.constant(behind.reshape(-1), f"{name}_amounts")], name)
    layer.node.replace_input_with(0, padded)
    layer.node.replace_input_with(1, edit.constant(np.pad(weight, behind.T), f"{name}_weight"))
    return f"{missing} channels of zeros beside its own"


def _missing(layer: Layer) -> int:
    return CHANNELS - int(layer.weight.shape[1])


def _match_pixels(node: ir.Node) -> Layer | None:
    layer = _match(node)
    return layer if layer and is_pixels(layer.input) else None


def _obstacle_to_pixels(layer: Layer) -> str:
    return "it has groups" if layer.window.groups != 1 else ""  # 2


pad_inputs = Rewrite(RULE, _match, _obstacle, _replace)
"""Pad the input of every Conv with fewer than `CHANNELS` channels."""
pad_pixels = Rewrite(RULE, _match_pixels, _obstacle_to_pixels, _replace)
"""The same of 8-bit pixels alone, however few numbers are written: there is nothing to convert first."""
