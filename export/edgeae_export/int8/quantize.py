"""Static int8 quantisation: QuantizeLinear and DequantizeLinear (QDQ) around the layers that run in 8 bits.

x is stored as q = round(x / scale) + zero, clipped to 8 bits. ONNX Runtime fuses DequantizeLinear, layer,
QuantizeLinear into one int8 kernel, when every piece is as it wants it: activations uint8 and quantised where they
are made, weights int8 and constant, biases int32 in units of (activation scale * weight scale), and nothing between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgeae_export.graph.layers import Array, GraphEditor, attribute
from edgeae_export.int8.calibration import Range
from edgeae_export.int8.float16_weights import store_in_float16
from edgeae_export.int8.placement import Sites, moved_inputs, moves, origins
from edgeae_export.targets import Target

_BIAS_LIMIT = 1 << 30  # int32 with room for the sums it is added to
_END = 0.51
"""Steps that a bound may lie inside a range and still be its end: zero points are rounded to whole steps."""


@dataclass(frozen=True)
class ActivationScale:
    """How an activation becomes uint8."""

    scale: np.float32
    zero: np.uint8

    @classmethod
    def of(cls, low: float, high: float) -> ActivationScale:
        """The scale of a range, widened to contain zero: padding and rectified values must stay exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, float(np.finfo(np.float32).tiny) * 1e6)
        return cls(np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255)))


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight in 8 bits."""

    values: Array
    """int8, the shape of the weight."""
    scale: Array
    """float32: per output channel, or a scalar."""
    zero: Array
    """int8, like `scale`."""


def quantize(
    model: onnx.ModelProto,
    sites: Sites,
    ranges: Mapping[tuple[str, ...], Range],
    target: Target,
    bias_shifts: Mapping[str, Array] | None = None,
    rounded: Mapping[str, QuantizedWeight] | None = None,
) -> onnx.ModelProto:
    """Insert the QDQ pairs.

    Args:
        model: the float32 graph that `sites` was found in.
        sites: where to quantise.
        ranges: the range of each group of activations.
        target: what the weights should look like.
        bias_shifts: per layer, what to add to its bias.
        rounded: per layer, its weight as `round_weights` rounds it; to the nearest step by default.

    Returns:
        A graph of standard operators; opset and inputs and outputs as before.
    """
    editor = GraphEditor(model)
    _pad_all_axes(editor)
    inserter = _Inserter(editor, target)
    scales = {tensor: ActivationScale.of(*ranges[group]) for group in sites.groups for tensor in group}
    layers = [node for node in editor.nodes if node.name in set(sites.layers)]
    scale_of = {node.name: scales[origins(editor, node.input[0])[0]] for node in layers}
    inserter.activations(scales, layers, sites.float_sums)
    for node in layers:
        inserter.layer(node, scale_of[node.name], (bias_shifts or {}).get(node.name), (rounded or {}).get(node.name))
    return store_in_float16(editor.finish())


def quantize_weight(weight: Array, axis: int, target: Target, smallest: Array | None = None) -> QuantizedWeight:
    """A float32 weight in 8 bits, symmetric per channel or asymmetric per tensor.

    Args:
        weight: float32.
        axis: the output channels.
        target: which of the two, and how many bits.
        smallest: per output channel, the smallest scale that may be chosen, so that the bias fits in its int32.
    """
    top = (1 << (target.weight_bits - 1)) - 1
    if not target.per_channel:
        low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
        needed = 0.0 if smallest is None else float(np.max(smallest))
        scale = max((high - low) / (2 * top + 1), needed, float(np.finfo(np.float32).tiny))
        zero = int(np.clip(round(-top - 1 - low / scale), -top - 1, top))
        values = np.clip(np.rint(weight / scale) + zero, -top - 1, top)
        return QuantizedWeight(values.astype(np.int8), np.array(scale, np.float32), np.array(zero, np.int8))
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others)
    # A channel of zeros takes the others' scale: its bias is stored in units of it.
    scales = np.maximum(np.where(largest > 0, largest, largest.max() or 1.0) / top, np.finfo(np.float32).tiny)
    if smallest is not None:
        scales = np.maximum(scales, smallest)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    values = np.clip(np.rint(weight / scales.reshape(shape)), -top, top)
    return QuantizedWeight(values.astype(np.int8), scales.astype(np.float32), np.zeros(len(scales), np.int8))


class _Inserter:
    """Puts the pairs into a graph that is being edited."""

    def __init__(self, editor: GraphEditor, target: Target) -> None:
        self.editor, self.target = editor, target
        self._parameters: dict[ActivationScale, tuple[str, str]] = {}
        self._stored: dict[tuple[object, ...], str] = {}

    def activations(
        self, scales: Mapping[str, ActivationScale], layers: list[NodeProto], float_sums: frozenset[str]
    ) -> None:
        """Quantise every origin, let what only moves elements move bytes, and dequantise for each reader."""
        editor, is_layer = self.editor, {node.name for node in layers}
        scales = {self._behind_output(tensor): scale for tensor, scale in scales.items()}
        moving = self._moving_nodes(layers)
        scale_of = dict(scales)
        for node in moving:  # in the graph's order, so that inputs come first
            scale_of |= dict.fromkeys(node.output, scale_of[node.input[0]])
        readers = {tensor: editor.consumers(tensor) for tensor in scale_of}
        in_bytes = {tensor: self._quantized(tensor, scale) for tensor, scale in scales.items()}
        for node in moving:
            for index, tensor in enumerate(node.output):
                in_bytes[tensor] = node.output[index] = editor.add_name(f"{tensor}_quantized")
                if tensor in editor.outputs:
                    inputs = [in_bytes[tensor], *self.parameters(scale_of[tensor])]
                    editor.nodes.append(helper.make_node("DequantizeLinear", inputs, [tensor], name=f"{tensor}_output"))
            if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
                self._pad_with(node, scale_of[node.input[0]].zero)
        for tensor, scale in scale_of.items():
            shared = ""
            for reader in readers[tensor]:
                indices = [index for index, name in enumerate(reader.input) if name == tensor]
                if any(reader is node for node in moving):
                    source = in_bytes[tensor]
                elif reader.name in is_layer:
                    source = self.dequantize(in_bytes[tensor], scale, tensor)
                elif tensor in float_sums:
                    continue
                else:
                    source = shared = shared or self.dequantize(in_bytes[tensor], scale, tensor)
                for index in indices:
                    reader.input[index] = source

    def _quantized(self, tensor: str, scale: ActivationScale) -> str:
        """The bytes of a tensor. A Relu or Clip that makes it is performed by them: by where their range ends, or, if
        they share a wider range with other tensors, by a Clip on bytes. ONNX Runtime itself sees this only where the
        bounds agree to the last bit, and else runs the layer before it in float."""
        editor = self.editor
        activation = editor.producer(tensor)
        bounds = None if activation is None else _bounds(editor, activation)
        if activation is None or bounds is None or editor.only_consumer(activation.input[0]) is not activation:
            return editor.add("QuantizeLinear", [tensor, *self.parameters(scale)], f"{tensor}_quantized")
        inputs = [activation.input[0], *self.parameters(scale)]
        in_bytes = editor.add("QuantizeLinear", inputs, f"{tensor}_quantized")
        low, high = (value / float(scale.scale) + int(scale.zero) for value in bounds)
        if low > _END or high < 255 - _END:
            limits = [
                editor.add_constant(np.uint8(np.clip(np.rint(byte), 0, 255)), f"{tensor}_bound") for byte in (low, high)
            ]
            in_bytes = editor.add("Clip", [in_bytes, *limits], f"{tensor}_clipped")
        return in_bytes

    def _pad_with(self, node: NodeProto, zero: np.uint8) -> None:
        """Let a Pad of zeros write the byte that stands for zero."""
        value, pads = self.editor.add_constant(zero, f"{node.name}_zero"), list(node.input[:2])
        del node.input[:]
        node.input.extend([*pads, value])

    def layer(
        self, node: NodeProto, input_scale: ActivationScale, shift: Array | None, rounded: QuantizedWeight | None
    ) -> None:
        """Quantise the weight and the bias of one layer."""
        weight = self.editor.constants[node.input[1]]
        bias = self.editor.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        axis = 0
        if node.op_type != "Conv":
            if attribute(node, "transB", 0):
                weight = weight.T
                next(entry for entry in node.attribute if entry.name == "transB").i = 0
            axis = 1
        if bias is not None:
            bias = np.broadcast_to(bias.reshape(-1), weight.shape[axis : axis + 1]).astype(np.float64)
            bias = bias if shift is None else bias + shift
        smallest = None if bias is None else np.abs(bias) / (float(input_scale.scale) * _BIAS_LIMIT)
        quantized = quantize_weight(weight, axis, self.target, smallest)
        if rounded is not None and np.array_equal(rounded.scale, quantized.scale):  # a large bias wants another scale
            quantized = rounded
        per_channel = {"axis": axis} if quantized.scale.ndim else {}
        node.input[1] = self.editor.add(
            "DequantizeLinear",
            [
                self.stored(quantized.values, f"{node.name}_weight_int8"),
                self.stored(quantized.scale, f"{node.name}_weight_scale"),
                self.stored(quantized.zero, f"{node.name}_weight_zero"),
            ],
            f"{node.name}_weight_dequantized",
            **per_channel,
        )
        if bias is not None:
            bias_scale = (input_scale.scale * quantized.scale).astype(np.float32)
            values = np.clip(np.rint(bias / bias_scale), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
            node.input[2] = self.editor.add(
                "DequantizeLinear",
                [
                    self.editor.add_constant(values, f"{node.name}_bias_int32"),
                    self.editor.add_constant(bias_scale, f"{node.name}_bias_scale"),
                ],
                f"{node.name}_bias_dequantized",
                **({"axis": 0} if bias_scale.ndim else {}),
            )

    def stored(self, value: Array, hint: str) -> str:
        """A constant, one for all layers that share it."""
        content = value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest()
        if content not in self._stored:
            self._stored[content] = self.editor.add_constant(value, hint)
        return self._stored[content]

    def parameters(self, scale: ActivationScale) -> tuple[str, str]:
        """The constants of a scale, one pair for all that share it."""
        if scale not in self._parameters:
            self._parameters[scale] = (
                self.editor.add_constant(scale.scale, "activation_scale"),
                self.editor.add_constant(scale.zero, "activation_zero"),
            )
        return self._parameters[scale]

    def dequantize(self, tensor: str, scale: ActivationScale, name: str) -> str:
        """The number behind the bytes."""
        return self.editor.add("DequantizeLinear", [tensor, *self.parameters(scale)], f"{name}_dequantized")

    def _behind_output(self, tensor: str) -> str:
        """A tensor that is quantised although it is an output of the graph gets another name, and a reader that copies
        it to the output: so the layer that makes it fuses, and the output is what the bytes stand for."""
        if tensor not in self.editor.outputs or self.editor.producer(tensor) is None:
            return tensor
        inner = self.editor.add_name(f"{tensor}_inner")
        for node in self.editor.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == tensor:
                        names[index] = inner
        self.editor.nodes.append(helper.make_node("Identity", [inner], [tensor], name=f"{tensor}_output"))
        return inner

    def _moving_nodes(self, layers: list[NodeProto]) -> list[NodeProto]:
        """The nodes between the origins and the layers, which from now on move bytes."""
        found: list[NodeProto] = []
        pending = [layer.input[0] for layer in layers]
        while pending:
            node = self.editor.producer(pending.pop())
            if node is None or not moves(self.editor, node) or any(node is other for other in found):
                continue
            found.append(node)
            pending += moved_inputs(node)
        return [node for node in self.editor.sorted_nodes() if any(node is other for other in found)]


def _pad_all_axes(editor: GraphEditor) -> None:
    """Let every Pad that names axes name them all: ONNX Runtime, moving Transposes past it, takes wrong ones."""
    for node in editor.of_type("Pad"):
        rank, inputs = len(editor.shape(node.input[0])), [*node.input, "", ""]
        pads, axes = editor.constant(inputs[1]), editor.constant(inputs[3])
        if pads is None or axes is None or rank == 0:
            continue
        spread = np.zeros((2, rank), np.int64)
        spread[:, axes % rank] = pads.reshape(2, -1)
        del node.input[:]
        node.input.extend([inputs[0], editor.add_constant(spread.reshape(-1), f"{node.name}_pads"), inputs[2]])


def _bounds(editor: GraphEditor, node: NodeProto) -> tuple[float, float] | None:
    """Between what a Relu or a Clip with constant limits lets pass; None for anything else."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    names = [*node.input[1:], "", ""][:2]
    values = [editor.constant(name) if name else bound for name, bound in zip(names, (-np.inf, np.inf), strict=True)]
    if any(value is None for value in values):
        return None
    low, high = (float(np.asarray(value).reshape(-1)[0]) for value in values)
    return low, high
