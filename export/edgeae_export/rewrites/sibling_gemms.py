"""Heads that read the same tensor, merged: several Gemms become one, followed by a Split.

Preconditions: constant weights, no scaling, the same input. Cost: one pass over the shared input instead of several, as
for the mean and the log-variance of a variational encoder.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgeae_export.graph.layers import Array, GraphEditor, attribute
from edgeae_export.rewrites.decision import Decision

RULE = "heads"


def merge_heads(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Merge every set of Gemms with one input."""
    editor = GraphEditor(model)
    by_input: dict[str, list[NodeProto]] = defaultdict(list)
    for node in editor.of_type("Gemm"):
        if gemm_weights(editor, node) is not None:
            by_input[node.input[0]].append(node)
    decisions = []
    for source, heads in by_input.items():
        if len(heads) > 1:
            _merge(editor, source, heads)
            names = ", ".join(head.name for head in heads)
            decisions.append(Decision(RULE, heads[0].name, True, f"{names} became one Gemm"))
    return editor.finish(), decisions


def gemm_weights(editor: GraphEditor, node: NodeProto) -> tuple[Array, Array] | None:
    """Weight [inputs, outputs] and bias [outputs] of a plain Gemm with constants; None for any other."""
    weight = editor.constant(node.input[1])
    bias = editor.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.float32)
    scaled = attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0)
    if weight is None or bias is None or scaled:
        return None
    if attribute(node, "transB", 0):
        weight = weight.T
    return weight, np.broadcast_to(bias.reshape(-1), weight.shape[1:]).copy()


def _merge(editor: GraphEditor, source: str, heads: list[NodeProto]) -> None:
    weights = [parameters for head in heads if (parameters := gemm_weights(editor, head)) is not None]
    name = "_and_".join(head.name for head in heads)
    inputs = [
        source,
        editor.add_constant(np.concatenate([weight for weight, _ in weights], axis=1), f"{name}_weight"),
        editor.add_constant(np.concatenate([bias for _, bias in weights]), f"{name}_bias"),
    ]
    merged = editor.add("Gemm", inputs, name)
    sizes = editor.add_constant(np.array([weight.shape[1] for weight, _ in weights], np.int64), f"{name}_sizes")
    outputs = [head.output[0] for head in heads]
    editor.remove(*heads)
    editor.nodes.append(helper.make_node("Split", [merged, sizes], outputs, name=f"{name}_split", axis=1))
