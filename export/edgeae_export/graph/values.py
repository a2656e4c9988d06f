"""Questions that rewrites ask of a value or a node: is it constant, how large, who alone reads it, what lies around."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeae_export.graph.running import WEIGHTED_OPS

Array = NDArray[Any]

UNARY_ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Softplus", "Softsign",
     "Mish", "Gelu", "ThresholdedRelu", "Abs", "Neg", "Exp", "Clip"}
)  # fmt: skip
"""Elementwise functions of one tensor, for Clip within limits: they commute with what only moves elements."""

LAYOUT_OPS = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Concat"}
)
"""Operators that move elements without changing them; Concat joins several tensors."""


def of_type(graph: ir.Graph, *op_types: str) -> list[ir.Node]:
    """The nodes of some of ONNX's own operators, in the graph's order; a copy, safe to edit under."""
    return [node for node in graph if node.op_type in op_types and node.domain == ""]


def attribute(node: ir.Node, name: str, default: Any) -> Any:  # noqa: ANN401 any ONNX attribute
    """An attribute's value, or the default that the operator's specification gives it."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return list(found.value) if isinstance(found.value, tuple) else found.value


def constant(value: ir.Value | None) -> Array | None:
    """What a constant holds; None for a value that depends on the input, and for an input that is left out."""
    return None if value is None or value.const_value is None else np.asarray(value.const_value.numpy())


def fixed_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The axes after the batch, when all of them are known and there are any."""
    axes = () if value.shape is None else tuple(value.shape)[1:]
    sizes = tuple(axis for axis in axes if isinstance(axis, int))
    return sizes if sizes and len(sizes) == len(axes) else None


def rank(value: ir.Value) -> int:
    """How many axes a value has; 0 where that is not known."""
    return 0 if value.shape is None else len(value.shape)


def maker(value: ir.Value | None, op_types: Collection[str]) -> ir.Node | None:
    """The node that makes a value, if it is one of these operators."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types else None


def only_reader(value: ir.Value, op_types: Collection[str] | None = None) -> ir.Node | None:
    """The one node that reads a value, if there is one alone, the value is no output of the graph, and the node is one
    of these operators; of any by default."""
    readers = value.consumers()
    if len(readers) != 1 or value.is_graph_output():
        return None
    return readers[0] if op_types is None or readers[0].op_type in op_types else None


def reads(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node; None for an optional one that is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def read(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that an operator cannot be without.

    Raises:
        ValueError: it is left out.
    """
    value = reads(node, index)
    if value is None:
        raise ValueError(f"{node.op_type} {node.name} has no input {index}")
    return value


def keeps_rows(node: ir.Node) -> bool:
    """Whether a Reshape or Flatten leaves the rows along axis 0 apart: each row of its input is one of its output.

    It often does not: frames are folded into the batch for a convolution, or tokens for a dense layer.
    """
    before, after = fixed_shape(read(node)), fixed_shape(node.outputs[0])
    return before is not None and after is not None and math.prod(before) == math.prod(after)


def nearest_layers(value: ir.Value | None) -> set[str]:
    """Names of the layers that a value comes from, without other layers between; `""` stands for the graph's input."""
    found: set[str] = set()
    seen: set[ir.Value] = set()
    pending = [value]
    while pending:
        each = pending.pop()
        if each is None or each in seen or constant(each) is not None:
            continue
        seen.add(each)
        node = each.producer()
        if node is None:
            found.add("")
        elif node.op_type in WEIGHTED_OPS:
            found.add(name_of(node))
        else:
            pending += node.inputs
    return found


def layers_after(layer: ir.Node) -> set[str]:
    """Names of the layers that read what a layer writes, without other layers between."""
    found: set[str] = set()
    seen: set[ir.Value] = set()
    pending: list[ir.Value] = list(layer.outputs)
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        for node in value.consumers():
            if node.op_type in WEIGHTED_OPS:
                found.add(name_of(node))
            else:
                pending += node.outputs
    return found


def name_of(item: ir.Node | ir.Value) -> str:
    """A name, which everything in an opened graph has."""
    return item.name or ""


def named_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values of a graph by name: inputs, constants, and what nodes make."""
    return {name_of(value): value for value in _values(graph)}


def named_nodes(graph: ir.Graph, names: Collection[str]) -> list[ir.Node]:
    """The nodes of some names, in the graph's order."""
    wanted = frozenset(names)
    return [node for node in graph if node.name in wanted]


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
