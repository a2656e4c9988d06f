"""MatMul -> Add of a constant, between matrices, as one Gemm, which is defined as this: A * B + C.

It may be done where

1. what is multiplied has two axes, and a constant weight too: a Gemm takes no more;
2. nothing else reads the product, which would be there no more;
3. what is added is a constant of one number per column: a Gemm would take others, but they are no layer's bias.

It always pays: ONNX Runtime does the same when it loads a graph, before it looks for layers to run in 8 bits, and then
finds a bias that was not quantised: the layer would run in float, with its weight dequantised on every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, constant, name_of, only_reader, rank
from edgeae_export.rewrites.steps import Rewrite, always

RULE = "matmul_bias"


@dataclass(frozen=True)
class _Biased:
    """A MatMul, the Add behind it, and what that adds."""

    layer: Layer
    add: ir.Node
    bias: Array

    @property
    def name(self) -> str:
        return self.layer.name


def _match(node: ir.Node) -> _Biased | None:
    layer = Layer.of(node, "MatMul")
    if not layer or not layer.constant or layer.weight.ndim != 2 or rank(layer.input) != 2:  # 1
        return None
    add = only_reader(layer.output, {"Add"})  # 2
    for value in map(constant, add.inputs) if add else ():
        if add and value is not None and value.shape in ((layer.outputs,), (1, layer.outputs)):  # 3
            return _Biased(layer, add, value)
    return None


def _replace(found: _Biased) -> str:
    layer, add = found.layer, found.add
    edit = Edit(layer.graph, before=add)
    bias = edit.constant(found.bias.reshape(-1), f"{layer.name}_bias")
    output = edit.node("Gemm", [*layer.node.inputs, bias], f"{layer.name}_with_bias")
    edit.replace(add.outputs[0], output, layer.node, add)
    return f"one Gemm with {name_of(add)}, the bias"


join_bias = Rewrite(RULE, _match, always, _replace)
"""Make a Gemm of every MatMul with a bias behind it; one of another form is no concern."""
