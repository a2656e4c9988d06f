"""Which rewrites to apply together, and in which order: a few plans, of which the fastest is taken.

Folding always helps, so every plan begins with it. Beyond that the best form depends on the precision, on the
processor and on the layer: in float32 ONNX Runtime's own ConvTranspose is good, and only a shuffle that disappears
into the next convolution is worth the sub-pixel form; in int8 there is no ConvTranspose at all. A plan is chosen by
estimate for a machine that is elsewhere, and by timing on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from edgeae_export.editor import UNARY_ACTIVATIONS, GraphEditor, attribute
from edgeae_export.rewrites import (
    Decision,
    channels_last,
    fold_affine,
    fold_batchnorm,
    join_bias,
    merge_heads,
    move_below_shuffle,
    resize_to_phases,
    split_col2im,
    split_phases,
    subpixel,
    to_gemm,
)
from edgeae_export.rewrites.below_shuffle import obstacle_to_merging
from edgeae_export.rewrites.col2im import obstacle_to_columns
from edgeae_export.small_parts import layers_after

Rewrite = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, list[Decision]]]


@dataclass(frozen=True)
class Plan:
    """A set of rewrites."""

    name: str
    subpixel: str = "none"
    """`none`, `merging` (where the shuffle disappears into the next convolution) or `all`."""
    resize: bool = False
    rows: bool = False
    columns: bool = False
    channels_last: bool = False


FOLDED = Plan("folded")
AS_IT_IS = Plan("as it is")
"""What `folded` is called where there is nothing to fold."""
FLOAT_PLANS = (
    Plan("merged tail", subpixel="merging"),
    FOLDED,
    Plan("sub-pixel", subpixel="all"),
    Plan("phases", subpixel="merging", resize=True),
)
"""The first is the estimate: it measured fastest for decoders of one to three output channels."""
INT8_PLANS = (
    Plan("sub-pixel by rows", subpixel="all", resize=True, rows=True, columns=True, channels_last=True),
    Plan("sub-pixel", subpixel="all", resize=True, columns=True, channels_last=True),
    Plan("sub-pixel, resize kept", subpixel="all", rows=True, columns=True, channels_last=True),
    FOLDED,
)


def fold(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """What always helps: biases, batch norms, single positions, heads and affine layers."""
    return _apply(model, [join_bias, fold_batchnorm, to_gemm, merge_heads, fold_affine])


def rewrite(model: onnx.ModelProto, plan: Plan) -> tuple[onnx.ModelProto, list[Decision]]:
    """Apply a plan to a folded graph."""
    steps: list[Rewrite] = []
    if plan.resize:
        steps.append(resize_to_phases)
    if plan.subpixel != "none":
        merging = mergeable(model)
        only = merging if plan.subpixel == "merging" else None
        if plan.columns:
            only = frozenset(node.name for node in GraphEditor(model).of_type("ConvTranspose")) - last_columns(model)
        steps += [lambda graph: subpixel(graph, only, merging), move_below_shuffle]
    if plan.rows:
        steps.append(split_phases)
    if plan.columns:
        steps.append(split_col2im)
    if plan.channels_last:
        steps.append(channels_last)
    return _apply(model, steps)


def mergeable(model: onnx.ModelProto) -> frozenset[str]:
    """The ConvTransposes whose sub-pixel shuffle would merge with the convolution after them."""
    editor = GraphEditor(model)
    return frozenset(node.name for node in editor.of_type("ConvTranspose") if _merges(editor, node))


def last_columns(model: onnx.ModelProto) -> frozenset[str]:
    """The ConvTransposes at a graph's end that `split_col2im` takes: their sums stay in float, which nothing has to
    read as bytes. Against the sub-pixel form, decoders that end in kernel 4, stride 2, took 9 % to 16 % less time, with
    2 to 7 dB more."""
    editor = GraphEditor(model)
    return frozenset(
        node.name
        for node in editor.of_type("ConvTranspose")
        if not layers_after(editor, node) and not obstacle_to_columns(editor, node)
    )


def _merges(editor: GraphEditor, node: NodeProto) -> bool:
    reader = editor.only_consumer(node.output[0])
    if reader is not None and reader.op_type in UNARY_ACTIVATIONS:
        reader = editor.only_consumer(reader.output[0])
    strides = attribute(node, "strides", [1, 1])
    if reader is None or reader.op_type != "Conv" or len(set(strides)) != 1 or strides[0] == 1:
        return False
    return not obstacle_to_merging(editor, reader, strides[0])


def _apply(model: onnx.ModelProto, steps: list[Rewrite]) -> tuple[onnx.ModelProto, list[Decision]]:
    decisions: list[Decision] = []
    for step in steps:
        model, made = step(model)
        decisions += made
    return model, decisions
