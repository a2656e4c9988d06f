"""A layer as rewrites and int8 see it: its constant weight and bias, its window, and the activation that follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edgeae_export.graph.editing import opened
from edgeae_export.graph.running import WEIGHTED_OPS
from edgeae_export.graph.values import (
    UNARY_ACTIVATIONS,
    Array,
    attribute,
    constant,
    fixed_shape,
    name_of,
    of_type,
    only_reader,
    read,
    reads,
)
from edgeae_export.graph.window import Window


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul of a graph; it holds nothing of its own and sees what the node is now."""

    node: ir.Node

    @classmethod
    def of(cls, node: ir.Node | None, *op_types: str) -> Layer | None:
        """The layer that a node is, if it is one of these operators; of any with weights by default."""
        fits = node is not None and node.domain == "" and node.op_type in (op_types or WEIGHTED_OPS)
        return cls(node) if node is not None and fits else None

    @property
    def name(self) -> str:
        """The node's name."""
        return name_of(self.node)

    @property
    def graph(self) -> ir.Graph:
        """The graph that it stands in."""
        assert self.node.graph is not None, "a node that was taken out is no layer"
        return self.node.graph

    @property
    def op_type(self) -> str:
        """The node's operator."""
        return str(self.node.op_type)

    @property
    def input(self) -> ir.Value:
        """What the layer reads."""
        return read(self.node)

    @property
    def output(self) -> ir.Value:
        """What the layer itself writes."""
        return self.node.outputs[0]

    @property
    def constant(self) -> bool:
        """Whether its weight and, where it has one, its bias are constant."""
        return constant(reads(self.node, 1)) is not None and (self.bias is not None or not self.has_bias)

    @property
    def weight(self) -> Array:
        """The constant weight.

        Raises:
            ValueError: it is not constant; ask `constant` first.
        """
        weight = constant(reads(self.node, 1))
        if weight is None:
            raise ValueError(f"the weights of {self.name} are not constant")
        return weight

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias, constant or not."""
        return self.op_type != "MatMul" and reads(self.node, 2) is not None

    @property
    def bias(self) -> Array | None:
        """The constant bias; None where there is none."""
        return constant(reads(self.node, 2)) if self.has_bias else None

    @property
    def bias_or_zeros(self) -> Array:
        """The bias, [outputs] for a convolution; zeros where there is none."""
        return np.zeros(self.outputs, self.weight.dtype) if self.bias is None else self.bias

    @property
    def outputs(self) -> int:
        """Output channels or columns, by the weight."""
        if self.op_type == "ConvTranspose":
            return int(self.weight.shape[1]) * int(attribute(self.node, "group", 1))
        return int(self.weight.shape[self.output_axis])

    @property
    def output_axis(self) -> int:
        """The axis of the weight that counts outputs, in a ConvTranspose anew for each group."""
        if self.op_type == "ConvTranspose":
            return 1
        return 0 if self.op_type == "Conv" or attribute(self.node, "transB", 0) else self.weight.ndim - 1

    @property
    def activation(self) -> ir.Node | None:
        """The elementwise function that alone reads what the layer writes."""
        reader = only_reader(self.output, UNARY_ACTIVATIONS)
        return reader if reader is not None and reader.inputs[0] is self.output else None

    @property
    def end(self) -> ir.Value:
        """What the rest of the graph reads: the activation's output, or the layer's."""
        return (self.activation or self.node).outputs[0]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The layer's node and its activation's."""
        return (self.node,) if self.activation is None else (self.node, self.activation)

    @property
    def window(self) -> Window:
        """How its kernel moves, of a Conv or ConvTranspose with a constant weight."""
        return Window.of(self.node, tuple(self.weight.shape[2:]))

    @property
    def is_scaled(self) -> bool:
        """Whether a Gemm scales its product or its bias, or takes its input transposed."""
        scales = attribute(self.node, "alpha", 1.0), attribute(self.node, "beta", 1.0)
        return scales != (1.0, 1.0) or bool(attribute(self.node, "transA", 0))

    @property
    def matrix(self) -> tuple[Array, Array] | None:
        """Weight [inputs, outputs] and bias [outputs] of a plain Gemm with constants; None for anything else."""
        if self.op_type != "Gemm" or not self.constant or self.is_scaled:
            return None
        weight = self.weight.T if attribute(self.node, "transB", 0) else self.weight
        bias = self.bias_or_zeros
        if bias.size not in (1, weight.shape[1]) or bias.shape[-1:] not in ((), (bias.size,)):
            return None  # another bias for each row
        return weight, np.broadcast_to(bias.reshape(-1), weight.shape[1:]).copy()

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per input of the batch; 0 where its weight or its size is not known."""
        weight = constant(reads(self.node, 1))
        sizes = fixed_shape(self.input if self.op_type == "ConvTranspose" else self.output)
        if weight is None or sizes is None:
            return 0
        return int(weight.size) * math.prod(sizes[:-1] if self.op_type in ("MatMul", "Gemm") else sizes[1:])

    def set_constants(self, weight: ir.Value, bias: ir.Value | None) -> None:
        """Let the layer read another weight and bias."""
        self.node.replace_input_with(1, weight)
        if bias is not None and len(self.node.inputs) < 3:
            self.node.resize_inputs(3)
        if len(self.node.inputs) > 2:
            self.node.replace_input_with(2, bias)


def layers_of(graph: ir.Graph) -> list[Layer]:
    """The layers with weights, in the graph's order."""
    return [Layer(node) for node in of_type(graph, *WEIGHTED_OPS)]


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiply-adds of a graph's layers per input of the batch."""
    return sum(layer.multiply_adds for layer in layers_of(opened(model).graph))


def activation_values(model: onnx.ModelProto) -> int:
    """Numbers that a graph's nodes write per input of the batch, where their shapes are known."""
    shapes = (value.shape for node in opened(model).graph for value in node.outputs)
    axes = (tuple(shape)[1:] for shape in shapes if shape is not None and len(shape) > 1)
    return sum(math.prod(axis if isinstance(axis, int) and axis else 1 for axis in each) for each in axes)
