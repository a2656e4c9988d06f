"""Where a graph is quantised: which layers run in 8 bits, and which activations need a scale.

A layer in 8 bits reads activations that were quantised once, where they are made, right after their activation
function; whatever only moves elements on the way (reshapes, transposes, shuffles, crops) moves bytes. Tensors that a
Concat joins share one scale, because ONNX Runtime would otherwise requantise them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.graph.layers import LAYOUT_OPS, Array, GraphEditor, attribute, nearest_layers
from edgeae_export.graph.running import WEIGHTED_OPS
from edgeae_export.int8.residual_sums import float_sums
from edgeae_export.int8.small_parts import small_layers
from edgeae_export.targets import MIN_INPUTS

MIN_CHANNELS = 4
"""Convolutions of fewer input channels stay in float: ONNX Runtime's int8 kernels take channels by fours. With one
channel of 32x32 and the layer after it, float measured 11.4 us on AVX-512 VNNI, int8 16.7, and still 13.2 where one
wider kernel computes blocks of columns; with three channels 12.6, 17.1 and 14.8."""
MIN_CHANNELS_PER_GROUP = 32
"""Grouped convolutions of fewer channels per group stay in float: a 3x3 of 16x16 measured 1.8x to 2.7x as fast in int8
with groups of 32 and 64 channels, 0.8x with 16, 0.35x with 4 (AVX-512 VNNI). Depthwise has a kernel of its own."""
MIN_OUTPUTS_3D, MIN_CHANNELS_3D = 16, 32
"""Three-dimensional convolutions below both stay in float, for their columns cost more than their products: 16 channels
of 16x16x16 to 1, 4 and 8 measured 0.5x, 0.67x and 0.78x the speed of float; to 16 channels 1.26x, 32 to 1 1.07x."""
DEPTHWISE_CHANNELS = 16
"""A depthwise convolution runs in int8 where its channels are a multiple of this, between layers that do: alone it
measured 0.7x to 0.9x the speed of float, which the two conversions that it saves outweigh; with 24 channels 0.46x."""

_MOVING = LAYOUT_OPS | {"Slice", "Split", "MaxPool", "Expand", "Tile"}
FUSED_ACTIVATIONS = ("Relu", "Clip")
"""Activations that quantisation itself performs, by where its range ends."""
_FUSED_WITH_GEMM = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu",
     "Clip"}
)  # fmt: skip
"""What ONNX Runtime may join to a Gemm, in float, before it looks for layers to run in int8 (GemmActivationFusion)."""
_OTHER_LAYERS = frozenset({"LSTM", "GRU", "RNN", "Einsum", "Attention", "MultiHeadAttention"})
"""Operators with weights that ONNX Runtime's CPU provider has no int8 kernel for in a QDQ graph."""


@dataclass(frozen=True)
class Sites:
    """The places of quantisation in one graph."""

    layers: tuple[str, ...]
    """Names of the nodes that run in 8 bits."""
    kept: Mapping[str, str]
    """Names of the weighted nodes that stay in float, and why."""
    groups: tuple[tuple[str, ...], ...]
    """Activations that are quantised where they are made; those in one group share a scale."""
    float_sums: frozenset[str] = frozenset()
    """Activations whose floats go on to sums, while layers read them in 8 bits."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """All activations that need a range."""
        return tuple(tensor for group in self.groups for tensor in group)


def find_sites(model: onnx.ModelProto, keep: Collection[str] | Mapping[str, str] = ()) -> Sites:
    """Decide layer by layer.

    Args:
        model: a float32 graph.
        keep: names of layers that must stay in float, with the reasons if they are others than `--max-drop`.
    """
    editor = GraphEditor(model)
    weighted = editor.of_type(*WEIGHTED_OPS)
    reasons = {node.name: why for node in weighted if (why := _reason_for_float(editor, node))}
    reasons |= _lonely_depthwise(editor, [node for node in weighted if node.name not in reasons])
    small = small_layers(editor, weighted, [node for node in weighted if node.name not in reasons])
    reasons |= dict.fromkeys(small, "it is a small part of the work and of the weights")
    for node in editor.of_type(*_OTHER_LAYERS):
        reasons[node.name] = f"ONNX Runtime's CPU provider has no int8 {node.op_type} in this form"
    reasons |= keep if isinstance(keep, Mapping) else dict.fromkeys(keep, "kept by --max-drop")
    layers = [node for node in weighted if node.name not in reasons]
    kept = {node.name: reasons[node.name] for node in editor.nodes if node.name in reasons}
    return _sites(editor, layers, kept)


def without(model: onnx.ModelProto, sites: Sites, unfit: Mapping[str, str]) -> Sites:
    """The same places, but for some layers that go back to float.

    Args:
        model: the float32 graph that `sites` was found in.
        sites: the places so far.
        unfit: names of layers, and why each goes.
    """
    editor = GraphEditor(model)
    layers = [node for node in editor.nodes if node.name in sites.layers and node.name not in unfit]
    return _sites(editor, layers, {**sites.kept, **unfit})


def _sites(editor: GraphEditor, layers: list[NodeProto], kept: Mapping[str, str]) -> Sites:
    groups = _groups(editor, layers)
    quantized = [tensor for group in groups for tensor in group]
    sums = float_sums(editor, editor.of_type(*WEIGHTED_OPS), quantized)
    return Sites(tuple(node.name for node in layers), kept, groups, sums)


def origins(editor: GraphEditor, tensor: str) -> tuple[str, ...]:
    """The tensors whose elements a tensor holds: those before everything that only moves elements."""
    node = editor.producer(tensor)
    if node is None or not moves(editor, node):
        return (tensor,)
    return tuple(dict.fromkeys(origin for name in moved_inputs(node) for origin in origins(editor, name)))


def moves(editor: GraphEditor, node: NodeProto) -> bool:
    """Whether a node works on bytes as it does on numbers: it moves elements, or picks the largest."""
    if node.op_type in _MOVING:
        return True
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", "nearest") == "nearest")
    if node.op_type == "Gather":
        return editor.constant(node.input[1]) is not None
    if node.op_type == "Pad":
        value = editor.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if len(node.input) > 3 and (
            any(editor.constant(node.input[index]) is None for index in (1, 3)) or not editor.shape(node.input[0])
        ):
            return False  # which axes it pads is to be written out
        mirrored = attribute(node, "mode", "constant") != "constant"
        return mirrored or (value is not None and not np.any(value))
    return False


def moved_inputs(node: NodeProto) -> list[str]:
    """Those inputs of a moving node whose elements it moves; the others are sizes and places."""
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def quantized_output(editor: GraphEditor, layer: NodeProto) -> str:
    """The tensor that a Conv in 8 bits writes: its own output, or that of an activation that fuses with it."""
    reader = editor.only_consumer(layer.output[0])
    return str(reader.output[0] if reader is not None and reader.op_type in FUSED_ACTIVATIONS else layer.output[0])


def _reason_for_float(editor: GraphEditor, node: NodeProto) -> str:
    weight = editor.constant(node.input[1])
    if weight is None or (len(node.input) > 2 and node.input[2] and editor.constant(node.input[2]) is None):
        return "its weights are not constant"
    if node.op_type == "ConvTranspose":
        return "ONNX Runtime has no int8 ConvTranspose"
    if any(editor.constant(origin) is not None for origin in origins(editor, node.input[0])):
        return "its input is partly constant"
    if node.op_type == "Conv":
        return _reason_against_window(node, weight)
    if weight.ndim != 2 or (node.op_type == "Gemm" and _is_scaled(node)):
        return "its product is scaled or batched"
    inputs = weight.shape[1] if attribute(node, "transB", 0) else weight.shape[0]
    return f"it reads only {inputs} numbers" if inputs < MIN_INPUTS else ""


def _reason_against_window(node: NodeProto, weight: Array) -> str:
    """Why a Conv stays in float, by its channels."""
    outputs, channels = weight.shape[:2]
    groups = attribute(node, "group", 1)
    if weight.ndim == 5 and outputs < MIN_OUTPUTS_3D and channels < MIN_CHANNELS_3D:
        return f"it is three-dimensional with {channels} channels in and {outputs} out, too few for its columns to pay"
    if groups == 1:
        told = "1 channel" if channels == 1 else f"{channels} channels"
        return f"it reads {told}, int8 kernels take them by fours" if channels < MIN_CHANNELS else ""
    if channels == 1 and outputs == groups:
        if outputs % DEPTHWISE_CHANNELS:
            return f"it is depthwise over {outputs} channels, and int8 pays for multiples of {DEPTHWISE_CHANNELS}"
        return ""
    if channels < MIN_CHANNELS_PER_GROUP:
        return f"its {groups} groups read {channels} channels each, and int8 pays from {MIN_CHANNELS_PER_GROUP}"
    return ""


def _lonely_depthwise(editor: GraphEditor, layers: list[NodeProto]) -> dict[str, str]:
    """Depthwise convolutions that no layer in int8 feeds, and why they stay in float."""
    names = {layer.name for layer in layers if attribute(layer, "group", 1) == 1}
    return {
        layer.name: "it is depthwise, and no layer in int8 feeds it"
        for layer in layers
        if attribute(layer, "group", 1) == len(editor.constants[layer.input[1]]) > 1
        and not names.issuperset(nearest_layers(editor, layer.input[0]) or {""})
    }


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
    """Matrix products have int8 kernels that write floats, convolutions have none. And a Gemm that is followed by some
    activations would be fused with them, in float, unless its output is quantised; so would a MatMul with a sum."""
    reader = editor.only_consumer(layer.output[0])
    if layer.op_type == "Conv" or reader is None:
        return layer.op_type == "Conv"
    if layer.op_type == "MatMul":
        return reader.op_type == "Add" and len(editor.shape(layer.output[0])) == 2
    return reader.op_type in _FUSED_WITH_GEMM


def _joined(groups: list[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Groups that share a tensor become one; order of first appearance."""
    joined: list[list[str]] = []
    for group in groups:
        touching = [other for other in joined if set(other) & set(group)]
        merged = list(dict.fromkeys([*(tensor for other in touching for tensor in other), *group]))
        joined = [other for other in joined if all(other is not gone for gone in touching)] + [merged]
    return tuple(tuple(group) for group in joined)
