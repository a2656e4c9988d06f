"""Where a graph is quantised: which layers run in 8 bits, and which activations need a scale.

A layer in 8 bits reads activations that were quantised once, where they are made, right after their activation
function; whatever only moves elements on the way (reshapes, transposes, shuffles, crops) moves bytes. Tensors that a
Concat joins share one scale, because ONNX Runtime would otherwise requantise them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from edgeae_export.graph.editing import opened
from edgeae_export.graph.layer import Layer, layers_of
from edgeae_export.graph.values import (
    LAYOUT_OPS,
    attribute,
    constant,
    name_of,
    nearest_layers,
    of_type,
    only_reader,
    rank,
    read,
    reads,
)
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
_FUSED_WITH_BYTES = ("Relu", "Clip")
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
    graph = opened(model).graph
    weighted = layers_of(graph)
    reasons = {layer.name: why for layer in weighted if (why := _reason_for_float(layer))}
    reasons |= _lonely_depthwise([layer for layer in weighted if layer.name not in reasons])
    small = small_layers(weighted, [layer for layer in weighted if layer.name not in reasons])
    reasons |= dict.fromkeys(small, "it is a small part of the work and of the weights")
    for node in of_type(graph, *_OTHER_LAYERS):
        reasons[name_of(node)] = f"ONNX Runtime's CPU provider has no int8 {node.op_type} in this form"
    reasons |= keep if isinstance(keep, Mapping) else dict.fromkeys(keep, "kept by --max-drop")
    kept = {name: reasons[name] for node in graph if (name := name_of(node)) in reasons}
    return _sites(weighted, [layer for layer in weighted if layer.name not in reasons], kept)


def without(model: onnx.ModelProto, sites: Sites, unfit: Mapping[str, str]) -> Sites:
    """The same places, but for some layers that go back to float.

    Args:
        model: the float32 graph that `sites` was found in.
        sites: the places so far.
        unfit: names of layers, and why each goes.
    """
    weighted = layers_of(opened(model).graph)
    staying = frozenset(sites.layers).difference(unfit)
    return _sites(weighted, [layer for layer in weighted if layer.name in staying], {**sites.kept, **unfit})


def _sites(weighted: Sequence[Layer], layers: Sequence[Layer], kept: Mapping[str, str]) -> Sites:
    groups = _groups(layers)
    return Sites(
        layers=tuple(layer.name for layer in layers),
        kept=kept,
        groups=tuple(tuple(name_of(value) for value in group) for group in groups),
        float_sums=float_sums(weighted, [value for group in groups for value in group]),
    )


def origins(value: ir.Value) -> tuple[ir.Value, ...]:
    """The values whose elements a value holds: those before everything that only moves elements."""
    node = value.producer()
    if node is None or not moves(node):
        return (value,)
    return tuple(dict.fromkeys(origin for moved in moved_inputs(node) for origin in origins(moved)))


def moves(node: ir.Node) -> bool:
    """Whether a node works on bytes as it does on numbers: it moves elements, or picks the largest."""
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", "nearest") == "nearest")
    if node.op_type == "Gather":
        return constant(reads(node, 1)) is not None
    return _pads_with_zeros(node) if node.op_type == "Pad" else node.op_type in _MOVING


def _pads_with_zeros(node: ir.Node) -> bool:
    """Whether a Pad adds zeros or a mirror's elements, on axes that can be written out."""
    if len(node.inputs) > 3 and (
        constant(reads(node, 1)) is None or constant(reads(node, 3)) is None or not rank(read(node))
    ):
        return False
    if attribute(node, "mode", "constant") != "constant" or reads(node, 2) is None:
        return True
    value = constant(reads(node, 2))
    return value is not None and not value.any()


def moved_inputs(node: ir.Node) -> list[ir.Value]:
    """Those inputs of a moving node whose elements it moves; the others are sizes and places."""
    return [read(node, index) for index in range(len(node.inputs) if node.op_type == "Concat" else 1)]


def _reason_for_float(layer: Layer) -> str:
    if not layer.constant:
        return "its weights are not constant"
    if layer.op_type == "ConvTranspose":
        return "ONNX Runtime has no int8 ConvTranspose"
    if any(constant(origin) is not None for origin in origins(layer.input)):
        return "its input is partly constant"
    if layer.op_type == "Conv":
        return _reason_against_window(layer)
    if layer.weight.ndim != 2 or layer.is_scaled:
        return "its product is scaled or batched"
    inputs = layer.weight.shape[1 - layer.output_axis]
    return f"it reads only {inputs} numbers" if inputs < MIN_INPUTS else ""


def _reason_against_window(layer: Layer) -> str:
    """Why a Conv stays in float, by its channels."""
    outputs, channels = layer.weight.shape[:2]
    groups = layer.window.groups
    if layer.weight.ndim == 5 and outputs < MIN_OUTPUTS_3D and channels < MIN_CHANNELS_3D:
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


def _lonely_depthwise(layers: Sequence[Layer]) -> dict[str, str]:
    """Depthwise convolutions that no layer in int8 feeds, and why they stay in float."""
    groups = {layer: attribute(layer.node, "group", 1) for layer in layers}
    names = {layer.name for layer in layers if groups[layer] == 1}
    return {
        layer.name: "it is depthwise, and no layer in int8 feeds it"
        for layer in layers
        if groups[layer] == len(layer.weight) > 1 and not names.issuperset(nearest_layers(layer.input) or {""})
    }


def _groups(layers: Sequence[Layer]) -> list[list[ir.Value]]:
    """The values that are quantised; those whose elements are moved into one share a scale."""
    read_by_layers = [origins(layer.input) for layer in layers]
    covered = {value for group in read_by_layers for value in group}
    written = [(layer.output, _written(layer)) for layer in layers if _must_write_bytes(layer)]
    return _joined([*read_by_layers, *((end,) for output, end in written if not covered & {output, end})])


def _written(layer: Layer) -> ir.Value:
    """What a layer writes in 8 bits: its own output, or that of an activation that the bytes perform."""
    fused = only_reader(layer.output, _FUSED_WITH_BYTES)
    return layer.output if fused is None else fused.outputs[0]


def _must_write_bytes(layer: Layer) -> bool:
    """Matrix products have int8 kernels that write floats, convolutions have none. And a Gemm that is followed by some
    activations would be fused with them, in float, unless its output is quantised; so would a MatMul with a sum."""
    if layer.op_type == "MatMul":
        return rank(layer.output) == 2 and only_reader(layer.output, ("Add",)) is not None
    return layer.op_type == "Conv" or only_reader(layer.output, _FUSED_WITH_GEMM) is not None


def _joined(groups: Sequence[Collection[ir.Value]]) -> list[list[ir.Value]]:
    """Groups that share a value become one; order of first appearance."""
    joined: list[list[ir.Value]] = []
    for group in groups:
        touching = [other for other in joined if set(other) & set(group)]
        merged = list(dict.fromkeys([*(value for other in touching for value in other), *group]))
        joined = [other for other in joined if not any(other is gone for gone in touching)] + [merged]
    return joined
