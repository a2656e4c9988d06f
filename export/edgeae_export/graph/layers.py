"""Editing an ONNX graph: who makes a tensor, who reads it, what is constant, what shape it has.

A rewrite takes a model, opens it in a `GraphEditor`, changes nodes, and calls `finish()`, which sorts the nodes,
drops what nothing reads and checks the result. The given model is never changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgeae_export.graph.running import WEIGHTED_OPS, clean

Shape = tuple[int | None, ...]
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


class GraphEditor:
    """A copy of a model, open for changes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer
        }
        for node in self.model.graph.node:
            value = _constant_value(node)
            if value is None:
                self.nodes.append(node)
            else:
                self.constants[node.output[0]] = value
        self.input = str(self.model.graph.input[0].name)
        self.outputs = [str(value.name) for value in self.model.graph.output]
        self._names = {name for node in self.nodes for name in (node.name, *node.input, *node.output)}
        self._names |= set(self.constants)
        self._shapes: dict[str, Shape] | None = None

    # What is there

    def of_type(self, *op_types: str) -> list[NodeProto]:
        """The nodes of some operators, in the graph's order; a copy, safe to edit under."""
        return [node for node in self.nodes if node.op_type in op_types and node.domain in ("", "ai.onnx")]

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def consumers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes if tensor in node.input]

    def only_consumer(self, tensor: str) -> NodeProto | None:
        """The node that reads a tensor, if it is the only one and the tensor is not an output of the graph."""
        consumers = self.consumers(tensor)
        return consumers[0] if len(consumers) == 1 and tensor not in self.outputs else None

    def constant(self, tensor: str) -> Array | None:
        """The value of a constant tensor."""
        return self.constants.get(tensor)

    def shape(self, tensor: str) -> Shape:
        """The inferred shape, with None for the batch and whatever else is unknown; `()` if nothing is known."""
        if self._shapes is None or tensor not in self._shapes:
            self._shapes = self._infer_shapes()
        return self._shapes.get(tensor, ())

    def fixed_shape(self, tensor: str) -> tuple[int, ...] | None:
        """The axes after the batch, when all of them are known."""
        sizes = tuple(size for size in self.shape(tensor)[1:] if size is not None)
        return sizes if sizes and len(sizes) == len(self.shape(tensor)) - 1 else None

    def keeps_rows(self, node: NodeProto) -> bool:
        """Whether a Reshape or Flatten leaves the rows along axis 0 apart: each row of its input is one of its output.

        It often does not: frames are folded into the batch for a convolution, or tokens for a dense layer.
        """
        before, after = self.fixed_shape(node.input[0]), self.fixed_shape(node.output[0])
        return before is not None and after is not None and math.prod(before) == math.prod(after)

    # Changes

    def add_constant(self, value: Array | np.generic, hint: str) -> str:
        """A new constant; returns its name."""
        name = self._unique(hint)
        self.constants[name] = np.ascontiguousarray(value).reshape(np.shape(value))
        return name

    def add(self, op_type: str, inputs: Sequence[str], hint: str, **attributes: Any) -> str:  # noqa: ANN401 any ONNX attribute
        """A new node with one output; returns the output's name, which is also the node's."""
        name = self._unique(hint)
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def copy_of(self, node: NodeProto, tensor: str, hint: str) -> str:
        """The same operator again, on another tensor; returns its output's name."""
        copy = NodeProto()
        copy.CopyFrom(node)
        name = self._unique(hint)
        copy.name, copy.input[0], copy.output[0] = name, tensor, name
        self.nodes.append(copy)
        return name

    def add_name(self, hint: str) -> str:
        """A name that no tensor or node has yet."""
        return self._unique(hint)

    def remove(self, *nodes: NodeProto) -> None:
        """Take nodes out of the graph."""
        self.nodes = [node for node in self.nodes if all(node is not gone for gone in nodes)]

    def redirect(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`; if `old` is an output of the graph, `new`'s maker now makes it."""
        for node in self.nodes:
            for index, tensor in enumerate(node.input):
                if tensor == old:
                    node.input[index] = new
        if old in self.outputs:
            maker = self.producer(new)
            assert maker is not None, "an output of the graph needs a node that makes it"
            maker.output[list(maker.output).index(new)] = old
            for node in self.nodes:
                for index, tensor in enumerate(node.input):
                    if tensor == new:
                        node.input[index] = old
        self._shapes = None

    def reshape(self, tensor: str, shape: Sequence[int], hint: str) -> str:
        """A Reshape to a fixed shape, 0 standing for the input's own axis (the batch)."""
        return self.add("Reshape", [tensor, self.add_constant(np.array(shape, np.int64), f"{hint}_shape")], hint)

    def transpose(self, tensor: str, order: Sequence[int], hint: str) -> str:
        """A Transpose."""
        return self.add("Transpose", [tensor], hint, perm=list(order))

    def finish(self) -> onnx.ModelProto:
        """The edited model: sorted, without anything unused, checked."""
        live = self.sorted_nodes()
        used = {tensor for node in live for tensor in node.input}
        graph = self.model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(live)
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in used
        )
        clean(self.model)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model

    def sorted_nodes(self) -> list[NodeProto]:
        """What the outputs need, each node after those it reads from, otherwise in the old order."""
        makers = {tensor: node for node in self.nodes for tensor in node.output}
        done: set[int] = set()
        ordered: list[NodeProto] = []
        stack = [(makers[name], False) for name in reversed(self.outputs) if name in makers]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                ordered.append(node)
                continue
            stack.append((node, True))
            stack += [(makers[tensor], False) for tensor in reversed(node.input) if tensor in makers]
        return ordered

    def _infer_shapes(self) -> dict[str, Shape]:
        probe = onnx.ModelProto()
        probe.CopyFrom(self.model)
        del probe.graph.node[:], probe.graph.initializer[:], probe.graph.value_info[:]
        probe.graph.node.extend(self.sorted_nodes())
        probe.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.constants.items())
        graph = onnx.shape_inference.infer_shapes(probe, data_prop=True).graph
        shapes: dict[str, Shape] = {name: tuple(value.shape) for name, value in self.constants.items()}
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                axes = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
        return shapes

    def _unique(self, hint: str) -> str:
        name, count = hint, 1
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name


def attribute(node: NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401 any ONNX attribute
    """An attribute's value, or the default that the operator's specification gives it."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, Sequence) else value
    return default


def layer_multiply_adds(editor: GraphEditor, node: NodeProto) -> int:
    """Multiply-adds of one layer per input of the batch; 0 where its weights or its size are not known."""
    weight = editor.constant(node.input[1])
    sizes = editor.fixed_shape(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if weight is None or sizes is None:
        return 0
    return int(weight.size) * math.prod(sizes[:-1] if node.op_type in ("MatMul", "Gemm") else sizes[1:])


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiply-adds of a graph's layers per input of the batch."""
    editor = GraphEditor(model)
    return sum(layer_multiply_adds(editor, node) for node in editor.of_type(*WEIGHTED_OPS))


def activation_values(model: onnx.ModelProto) -> int:
    """Numbers that a graph's nodes write per input of the batch, where their shapes are known."""
    editor = GraphEditor(model)
    shapes = editor._infer_shapes()
    written = (shapes.get(tensor, ())[1:] for node in editor.nodes for tensor in node.output)
    return sum(math.prod(axis or 1 for axis in shape) for shape in written if shape)


def _constant_value(node: NodeProto) -> Array | None:
    if node.op_type != "Constant":
        return None
    for entry in node.attribute:
        if entry.name == "value":
            return numpy_helper.to_array(entry.t)
        if entry.name in ("value_float", "value_floats"):
            return np.array(helper.get_attribute_value(entry), np.float32)
        if entry.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(entry), np.int64)
    return None


def nearest_layers(editor: GraphEditor, tensor: str) -> set[str]:
    """Names of the layers that a tensor comes from, without other layers between; `""` stands for the graph's input."""
    found: set[str] = set()
    seen: set[str] = set()
    pending = [tensor]
    while pending:
        name = pending.pop()
        if name in seen or editor.constant(name) is not None or not name:
            continue
        seen.add(name)
        node = editor.producer(name)
        if node is None:
            found.add("")
        elif node.op_type in WEIGHTED_OPS:
            found.add(node.name)
        else:
            pending += node.input
    return found


def layers_after(editor: GraphEditor, layer: NodeProto) -> set[str]:
    """Names of the layers that read what a layer writes, without other layers between."""
    found: set[str] = set()
    seen: set[str] = set()
    pending = list(layer.output)
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in editor.consumers(name):
            if node.op_type in WEIGHTED_OPS:
                found.add(node.name)
            else:
                pending += node.output
    return found
