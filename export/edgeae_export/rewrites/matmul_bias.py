"""MatMul -> Add of a constant, between matrices, as one Gemm.

ONNX Runtime does the same when it loads a graph, before it looks for layers to run in 8 bits, and then finds a bias
that was not quantised: the layer would run in float, with its weight dequantised on every call.

Preconditions: a constant weight, a constant bias of one number per column, two axes, and a product that nothing else
reads. Cost: none.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor
from edgeae_export.rewrites.decision import Decision

RULE = "matmul_bias"


def join_bias(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Decision]]:
    """Make a Gemm of every MatMul with a bias behind it; one of another form is no concern."""
    editor = GraphEditor(model)
    decisions = [_join(editor, node, add) for node in editor.of_type("MatMul") if (add := _bias_behind(editor, node))]
    return editor.finish(), decisions


def _bias_behind(editor: GraphEditor, node: NodeProto) -> NodeProto | None:
    weight, add = editor.constant(node.input[1]), editor.only_consumer(node.output[0])
    if weight is None or weight.ndim != 2 or len(editor.shape(node.input[0])) != 2:
        return None
    if add is None or add.op_type != "Add":
        return None
    bias = editor.constant(_other(add, node.output[0]))
    fits = bias is not None and bias.shape in ((weight.shape[1],), (1, weight.shape[1]))
    return add if fits else None


def _join(editor: GraphEditor, node: NodeProto, add: NodeProto) -> Decision:
    bias = editor.constants[_other(add, node.output[0])].reshape(-1)
    inputs = [*node.input, editor.add_constant(bias, f"{node.name}_bias")]
    output = editor.add("Gemm", inputs, f"{node.name}_with_bias")
    editor.remove(node, add)
    editor.redirect(add.output[0], output)
    return Decision(RULE, node.name, True, f"one Gemm with {add.name}, the bias")


def _other(add: NodeProto, tensor: str) -> str:
    return str(add.input[1] if add.input[0] == tensor else add.input[0])
