"""Which rewrites to apply together, and in which order: a few plans, of which the fastest is taken.

Folding always helps, so every plan begins with it. Beyond that the best form depends on the precision, on the
processor and on the layer: in float32 ONNX Runtime's own ConvTranspose is good, and only a shuffle that disappears
into the next convolution is worth the sub-pixel form; in int8 there is no ConvTranspose at all. A plan is chosen by
estimate for a machine that is elsewhere, and by timing on this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import UNARY_ACTIVATIONS, GraphEditor, attribute, layers_after
from edgeae_export.rewrites import (
    Decision,
    fold_affine,
    fold_batchnorm,
    join_bias,
    merge_heads,
    move_below_shuffle,
    pad_inputs,
    resize_to_phases,
    split_col2im,
    split_phases,
    to_channels_last,
    to_gemm,
    to_subpixel,
    widen_outputs,
)
from edgeae_export.rewrites.below_shuffle import obstacle_to_merging
from edgeae_export.rewrites.col2im import obstacle_to_columns
from edgeae_export.targets import MIN_INPUTS

Step = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, list[Decision]]]
"""One rewrite."""


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
    wide: bool = False
    left_out: frozenset[str] = frozenset()
    """Rewrites that were found to change the outputs of this graph, by the names that `steps_of` gives them."""


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
    Plan("sub-pixel by rows", subpixel="all", resize=True, rows=True, columns=True, channels_last=True, wide=True),
    Plan("sub-pixel", subpixel="all", resize=True, columns=True, channels_last=True, wide=True),
    Plan("sub-pixel, resize kept", subpixel="all", rows=True, columns=True, channels_last=True, wide=True),
    FOLDED,
)


FOLDING: Mapping[str, Step] = {
    "matmul_bias": join_bias,
    "batchnorm": fold_batchnorm,
    "single_position": to_gemm,
    "heads": merge_heads,
    "affine_folding": fold_affine,
}
"""What always helps: biases, batch norms, single positions, heads and affine layers."""


def fold(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Apply `FOLDING`."""
    return apply(model, FOLDING.values())


def rewrite(model: onnx.ModelProto, plan: Plan) -> tuple[onnx.ModelProto, list[Decision]]:
    """Apply a plan to a folded graph."""
    return apply(model, steps_of(model, plan).values())


def steps_of(model: onnx.ModelProto, plan: Plan) -> dict[str, Step]:
    """A plan's rewrites of a folded graph by name, in their order, without those that the plan leaves out."""
    merging = mergeable(model) if plan.subpixel != "none" else frozenset[str]()
    only = merging if plan.subpixel == "merging" else None
    if plan.columns and "col2im" not in plan.left_out:
        only = frozenset(node.name for node in GraphEditor(model).of_type("ConvTranspose")) - last_columns(model)
    wanted: dict[str, tuple[bool, Step]] = {
        "resize_phases": (plan.resize, resize_to_phases),
        "subpixel": (plan.subpixel != "none", lambda graph: to_subpixel(graph, only, merging)),
        "below_shuffle": (plan.subpixel != "none", move_below_shuffle),
        "phase_split": (plan.rows, split_phases),
        "col2im": (plan.columns, split_col2im),
        "channels_last": (plan.channels_last, to_channels_last),
        "few_inputs": (plan.wide, pad_inputs),
        "wide_outputs": (plan.wide, widen_outputs),
    }
    return {name: step for name, (taken, step) in wanted.items() if taken and name not in plan.left_out}


def apply(model: onnx.ModelProto, steps: Iterable[Step]) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrites one after the other, with all their decisions."""
    decisions: list[Decision] = []
    for step in steps:
        model, made = step(model)
        decisions += made
    return model, decisions


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
        if not layers_after(editor, node)
        and not obstacle_to_columns(editor, node)
        and len(editor.constants[node.input[1]]) >= MIN_INPUTS  # of fewer the product would stay in float
    )


def _merges(editor: GraphEditor, node: NodeProto) -> bool:
    reader = editor.only_consumer(node.output[0])
    if reader is not None and reader.op_type in UNARY_ACTIVATIONS:
        reader = editor.only_consumer(reader.output[0])
    strides = attribute(node, "strides", [1, 1])
    if reader is None or reader.op_type != "Conv" or len(set(strides)) != 1 or strides[0] == 1:
        return False
    return not obstacle_to_merging(editor, reader, strides[0])
