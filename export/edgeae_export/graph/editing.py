"""Opening a graph with onnx_ir, putting new nodes in the place of old ones, and closing it again.

An opened graph knows who makes and who reads each value, what is constant and how large everything is. Nodes are
changed where they stand; `closed` sorts them, drops what nothing reads, and checks the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass, ShapeInferencePass

from edgeae_export.graph.running import clean
from edgeae_export.graph.values import Array, name_of, named_values


def opened(model: onnx.ModelProto, shapes: bool = True) -> ir.Model:
    """A model to ask and to change, with its constants as initialisers; the given one is never changed.

    Args:
        model: any graph.
        shapes: whether they are inferred, which takes most of the time.
    """
    graph = ir.from_proto(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    return refreshed(graph) if shapes else graph


def refreshed(model: ir.Model) -> ir.Model:
    """The same model after changes: sorted, without what nothing reads, and with shapes for what is new."""
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return model


def closed(model: ir.Model) -> onnx.ModelProto:
    """The changed model, written and checked.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: a change made something that is no ONNX.
    """
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    written: onnx.ModelProto = ir.to_proto(model)
    del written.graph.value_info[:]
    clean(written)
    onnx.checker.check_model(written, full_check=True)
    return written


class Edit:
    """New nodes for a graph, under names that nothing in it has yet."""

    def __init__(self, graph: ir.Graph, before: ir.Node | None = None) -> None:
        """Begin.

        Args:
            graph: it is changed in place.
            before: the node that new ones are put in front of: the last of those that they replace. By default they
                are put at the end.
        """
        self.graph = graph
        self._before = before
        self._names = {name_of(node) for node in graph} | set(named_values(graph))

    def constant(self, array: Array | np.generic, hint: str) -> ir.Value:
        """A new constant."""
        values = np.ascontiguousarray(array).reshape(np.shape(array))
        name = self.name(hint)
        tensor = ir.Tensor(values, name=name)  # `ir.tensor` would first ask what kind of thing it is given, at length
        value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        **attributes: Any,  # noqa: ANN401
    ) -> list[ir.Value]:
        """A new node with several outputs; it has the first one's name."""
        values = [ir.Value(name=self.name(hint)) for hint in outputs]
        made = ir.node(op_type, list(inputs), attributes, outputs=values, name=values[0].name)
        self._put(made)
        return values

    def node(self, op_type: str, inputs: Sequence[ir.Value | None], hint: str, **attributes: Any) -> ir.Value:  # noqa: ANN401 any ONNX attribute
        """A new node; returns its only output, which has the same name."""
        return self.nodes(op_type, inputs, [hint], **attributes)[0]

    def again(self, node: ir.Node | None, value: ir.Value, hint: str, *others: ir.Value | None) -> ir.Value:
        """The same operator on another value; the value itself where there is no node.

        `others` are read in place of the node's own further inputs, if any are given.
        """
        if node is None:
            return value
        output = ir.Value(name=self.name(hint))
        copied = list(node.attributes.values())
        inputs = [value, *(others or node.inputs[1:])]
        self._put(ir.Node(node.domain, node.op_type, inputs, copied, outputs=[output], name=output.name))
        return output

    def reshape(self, value: ir.Value, shape: Sequence[int], hint: str) -> ir.Value:
        """A Reshape to a fixed shape, 0 standing for the input's own axis (the batch)."""
        return self.node("Reshape", [value, self.constant(np.array(shape, np.int64), f"{hint}_shape")], hint)

    def transpose(self, value: ir.Value, order: Sequence[int], hint: str) -> ir.Value:
        """A Transpose."""
        return self.node("Transpose", [value], hint, perm=list(order))

    def replace(self, old: ir.Value, new: ir.Value, *gone: ir.Node) -> None:
        """Let every reader of `old` read `new`, and take out the nodes that are not needed any more.

        An output of the graph keeps its name.
        """
        if old.is_graph_output():
            if new.producer() is None or new.is_graph_output():
                new = self.node("Identity", [new], name_of(old))
            old.name, new.name = self.name(f"{old.name}_before"), old.name
        new.shape, new.type = new.shape or old.shape, new.type or old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.graph.remove(gone, safe=True)

    def name(self, hint: str) -> str:
        """A name that no value or node has yet."""
        name, count = hint, 1
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name

    def _put(self, node: ir.Node) -> None:
        if self._before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self._before, node)
