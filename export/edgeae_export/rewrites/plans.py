"""Which rewrites to apply together, and in which order: a few plans, of which the fastest is taken.

Folding always helps, so every plan begins with it. Beyond that the best form depends on the precision, on the
processor and on the layer: in float32 ONNX Runtime's own ConvTranspose is good, and only a shuffle that disappears
into the next convolution is worth the sub-pixel form; in int8 there is no ConvTranspose at all. A plan is chosen by
estimate for a machine that is elsewhere, and by timing on this one.

A new rewrite is imported, and named in `FOLDING` or in the plans that it is for; nothing else has to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from edgeae_export.graph.layer import Layer
from edgeae_export.graph.running import takes_pixels
from edgeae_export.graph.values import attribute, layers_after, only_reader
from edgeae_export.rewrites.affine_folding import fold_affine
from edgeae_export.rewrites.batchnorm import fold_batchnorm
from edgeae_export.rewrites.below_shuffle import move_below_shuffle, obstacle_to_merging
from edgeae_export.rewrites.channels_last import to_channels_last
from edgeae_export.rewrites.col2im import split_col2im
from edgeae_export.rewrites.few_inputs import pad_inputs, pad_pixels
from edgeae_export.rewrites.matmul_bias import join_bias
from edgeae_export.rewrites.one_position import to_gemm
from edgeae_export.rewrites.phase_split import split_phases
from edgeae_export.rewrites.resize_phases import resize_to_phases
from edgeae_export.rewrites.sibling_gemms import merge_heads
from edgeae_export.rewrites.space_to_depth import fold_blocks, fold_columns
from edgeae_export.rewrites.steps import Decision, Step, apply
from edgeae_export.rewrites.subpixel import to_subpixel
from edgeae_export.rewrites.wide_outputs import widen_outputs
from edgeae_export.targets import MIN_INPUTS


@dataclass(frozen=True)
class Plan:
    """A set of rewrites of a folded graph."""

    name: str
    steps: tuple[Step, ...] = ()
    """In their order."""


def merges(layer: Layer) -> bool:
    """Whether the shuffle of a ConvTranspose's sub-pixel form would merge with the convolution after it."""
    reader, strides = Layer.of(only_reader(layer.end), "Conv"), attribute(layer.node, "strides", [1])
    alike = len(set(strides)) == 1 and strides[0] != 1
    return reader is not None and alike and not obstacle_to_merging(reader, strides[0])


def _match_last(node: ir.Node) -> Layer | None:
    layer = split_col2im.match(node)
    last = layer is not None and not layers_after(node) and not split_col2im.obstacle(layer)
    # Of fewer inputs the product would stay in float.
    return layer if layer is not None and last and len(layer.weight) >= MIN_INPUTS else None


split_last = replace(split_col2im, match=_match_last)
"""Split the ConvTransposes at a graph's end: their sums stay in float, which nothing has to read as bytes. Against the
sub-pixel form, decoders that end in kernel 4, stride 2, took 9 % to 16 % less time, with 2 to 7 dB more."""

FOLDING: tuple[Step, ...] = (
    join_bias,
    fold_batchnorm,
    to_gemm,
    merge_heads,
    fold_affine,
)
"""What always helps: biases, batch norms, single positions, heads and affine layers."""

FOLDED = Plan("folded")
AS_IT_IS = Plan("as it is")
"""What `folded` is called where there is nothing to fold."""

_SUBPIXEL, _MERGING = to_subpixel(uncropped=merges), to_subpixel(merges, uncropped=merges)
FLOAT_PLANS = (
    Plan("merged tail", (_MERGING, move_below_shuffle)),
    FOLDED,
    Plan("sub-pixel", (_SUBPIXEL, move_below_shuffle)),
    Plan("phases", (_MERGING, resize_to_phases, move_below_shuffle)),
)
"""The first is the estimate: it measured fastest for decoders of one to three output channels."""

_IN_BYTES: tuple[Step, ...] = (split_col2im, *to_channels_last, pad_inputs, widen_outputs)
"""What suits the int8 kernels."""
INT8_PLANS = (
    Plan("sub-pixel by rows", (split_last, _SUBPIXEL, resize_to_phases, move_below_shuffle, split_phases, *_IN_BYTES)),
    Plan("sub-pixel", (split_last, _SUBPIXEL, resize_to_phases, move_below_shuffle, *_IN_BYTES)),
    Plan("sub-pixel, resize kept", (split_last, _SUBPIXEL, move_below_shuffle, split_phases, *_IN_BYTES)),
    FOLDED,
)


_FIRST_LAYERS: dict[str, tuple[Step, ...]] = {
    "columns as channels": (fold_columns, pad_pixels),
    "channels padded": (pad_pixels,),
    "space to depth": (fold_blocks, pad_pixels),
}
PIXEL_PLANS = (
    *(Plan(f"{INT8_PLANS[0].name}, {name}", (*steps, *INT8_PLANS[0].steps)) for name, steps in _FIRST_LAYERS.items()),
    *INT8_PLANS,
)
"""For a graph of 8-bit pixels, whose first layer can run in int8 from the bytes themselves, in one of several forms, or
in float: the fastest differs with the picture's size and channels. What cannot be folded is padded."""


def int8_plans(model: onnx.ModelProto) -> tuple[Plan, ...]:
    """The plans that are for a graph in int8, by what its input is."""
    return PIXEL_PLANS if takes_pixels(model) else INT8_PLANS


def fold(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Apply `FOLDING`."""
    return apply(model, FOLDING)


def rewrite(model: onnx.ModelProto, plan: Plan) -> tuple[onnx.ModelProto, list[Decision]]:
    """Apply a plan to a folded graph."""
    return apply(model, plan.steps)
