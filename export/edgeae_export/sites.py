"""Where a graph is quantised: which layers run in 8 bits, and which activations need a scale.

A layer in 8 bits reads activations that were quantised once, where they are made, right after their activation
function; whatever only moves elements on the way (reshapes, transposes, shuffles) moves bytes. Tensors that a Concat
joins share one scale, because ONNX Runtime would otherwise requantise them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from edgeae_export.editor import LAYOUT_OPS, UNARY_ACTIVATIONS, GraphEditor, attribute, layer_multiply_adds

MIN_INPUTS = 32
"""Products over fewer inputs stay in float: a decoder's first layer, from a latent of few numbers, costs next to
nothing, and errors in it are errors in every pixel."""
MIN_CHANNELS = 4
"""Convolutions of fewer input channels stay in float: ONNX Runtime's int8 kernels take channels by fours. With one
channel of 32x32 and the layer after it, float measured 11.4 us on AVX-512 VNNI, int8 16.7, and still 13.2 where one
wider kernel computes blocks of columns; with three channels 12.6, 17.1 and 14.8."""
SMALL_WORK, SMALL_STORE = 0.01, 0.05
"""Layers below both shares, of the graph's multiply-adds and of its weights, stay in float: they would gain nothing."""

PASSING = LAYOUT_OPS | {"Slice", "MaxPool"}
"""Operators that work on bytes as they do on numbers: they move elements, or pick the largest."""
FUSED_ACTIVATIONS = ("Relu", "Clip")
"""Activations that quantisation itself performs, by where its range ends."""


@dataclass(frozen=True)
class Sites:
    """The places of quantisation in one graph."""

    layers: tuple[str, ...]
    """Names of the nodes that run in 8 bits."""
    kept: Mapping[str, str]
    """Names of the weighted nodes that stay in float, and why."""
    groups: tuple[tuple[str, ...], ...]
    """Activations that are quantised where they are made; those in one group share a scale."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """All activations that need a range."""
        return tuple(tensor for group in self.groups for tensor in group)


def find_sites(model: onnx.ModelProto, keep: frozenset[str] = frozenset()) -> Sites:
    """Decide layer by layer.

    Args:
        model: a float32 graph.
        keep: names of layers that must stay in float.
    """
    editor = GraphEditor(model)
    weighted = editor.of_type("Conv", "ConvTranspose", "Gemm", "MatMul")
    work = {node.name: layer_multiply_adds(editor, node) for node in weighted}
    stored = {node.name: _weights(editor, node) for node in weighted}
    layers, kept = [], {}
    for node in weighted:
        small = _share(work, node.name) < SMALL_WORK and _share(stored, node.name) < SMALL_STORE
        why = "kept by --max-drop" if node.name in keep else _reason_for_float(editor, node, small)
        if why:
            kept[node.name] = why
        else:
            layers.append(node)
    return Sites(tuple(node.name for node in layers), kept, _groups(editor, layers))


def origins(editor: GraphEditor, tensor: str) -> tuple[str, ...]:
    """The tensors whose elements a tensor holds: those before everything that only moves elements."""
    node = editor.producer(tensor)
    if node is None or node.op_type not in PASSING:
        return (tensor,)
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    return tuple(dict.fromkeys(origin for name in inputs for origin in origins(editor, name)))


def quantized_output(editor: GraphEditor, layer: NodeProto) -> str:
    """The tensor that a Conv in 8 bits writes: its own output, or that of an activation that fuses with it."""
    reader = editor.only_consumer(layer.output[0])
    return str(reader.output[0] if reader is not None and reader.op_type in FUSED_ACTIVATIONS else layer.output[0])


def _reason_for_float(editor: GraphEditor, node: NodeProto, small: bool) -> str:
    weight = editor.constant(node.input[1])
    if weight is None or (len(node.input) > 2 and node.input[2] and editor.constant(node.input[2]) is None):
        return "its weights are not constant"
    if node.op_type == "ConvTranspose":
        return "ONNX Runtime has no int8 ConvTranspose"
    if any(editor.constant(origin) is not None for origin in origins(editor, node.input[0])):
        return "its input is partly constant"
    if node.op_type == "Conv" and weight.shape[1] < MIN_CHANNELS:
        channels = "1 channel" if weight.shape[1] == 1 else f"{weight.shape[1]} channels"
        return f"it reads {channels}, int8 kernels take them by fours"
    if node.op_type != "Conv":
        if weight.ndim != 2 or (node.op_type == "Gemm" and _is_scaled(node)):
            return "its product is scaled or batched"
        inputs = weight.shape[1] if attribute(node, "transB", 0) else weight.shape[0]
        if inputs < MIN_INPUTS:
            return f"it reads only {inputs} numbers"
    return "it is a small part of the work and of the weights" if small else ""


def _is_scaled(node: NodeProto) -> bool:
    return attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or bool(attribute(node, "transA", 0))


def _groups(editor: GraphEditor, layers: list[NodeProto]) -> tuple[tuple[str, ...], ...]:
    groups = [origins(editor, layer.input[0]) for layer in layers]
    covered = {tensor for group in groups for tensor in group}
    for layer in layers:
        if _must_write_bytes(editor, layer):
            output = quantized_output(editor, layer)
            if output not in covered and layer.output[0] not in covered:
                groups.append((output,))
    return _joined(groups)


def _must_write_bytes(editor: GraphEditor, layer: NodeProto) -> bool:
    """Matrix products have int8 kernels that write floats, convolutions have none. And a Gemm that is followed by an
    activation would be fused with it, in float, unless the activation is quantised."""
    reader = editor.only_consumer(layer.output[0])
    return layer.op_type == "Conv" or (
        layer.op_type == "Gemm" and reader is not None and reader.op_type in UNARY_ACTIVATIONS
    )


def _joined(groups: list[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Groups that share a tensor become one; order of first appearance."""
    joined: list[list[str]] = []
    for group in groups:
        touching = [other for other in joined if set(other) & set(group)]
        merged = list(dict.fromkeys([*(tensor for other in touching for tensor in other), *group]))
        joined = [other for other in joined if all(other is not gone for gone in touching)] + [merged]
    return tuple(tuple(group) for group in joined)


def _weights(editor: GraphEditor, node: NodeProto) -> int:
    weight = editor.constant(node.input[1])
    return 0 if weight is None else int(weight.size)


def _share(figures: Mapping[str, int], name: str) -> float:
    return figures[name] / max(sum(figures.values()), 1)
