"""Static int8 quantisation: QuantizeLinear and DequantizeLinear (QDQ) around the layers that run in 8 bits.

x is stored as q = round(x / scale) + zero, clipped to 8 bits. ONNX Runtime fuses DequantizeLinear, layer,
QuantizeLinear into one int8 kernel, when every piece is as it wants it: activations uint8 and quantised where they
are made, weights int8 and constant, biases int32 in units of (activation scale * weight scale), and nothing between.

Activations take three steps. Q and DQ are QuantizeLinear and DequantizeLinear, thick lines are bytes:

    before                       Conv ─ a ─ Relu ─ r ┬─ MaxPool ─ m ─ Conv
                                                     └─ Add

    1. quantised where made      Conv ─ a ─ Q ━ r_quantized          the Relu is where the range of r ends
    2. bytes moved               r_quantized ━ MaxPool ━ m_quantized
    3. dequantised where read    m_quantized ━ DQ ─ Conv             each layer has a DQ of its own,
                                 r_quantized ━ DQ ─ Add              all others share one, or go on reading floats
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateHashedInitializersPass, IdentityEliminationPass, RemoveUnusedNodesPass

from edgeae_export.graph.editing import Edit, closed, opened, refreshed
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.pixels import PIXEL_SCALE, PIXEL_ZERO, is_pixels
from edgeae_export.graph.values import (
    Array,
    attribute,
    constant,
    name_of,
    named_nodes,
    named_values,
    of_type,
    only_reader,
    rank,
    read,
    reads,
)
from edgeae_export.int8.calibration import Range
from edgeae_export.int8.float16_weights import store_in_float16
from edgeae_export.int8.placement import Sites, moved_inputs, moves, origins
from edgeae_export.int8.weights import QuantizedWeight, store_in_int8
from edgeae_export.targets import Target

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
    opened_model = opened(model, shapes=False)
    graph = opened_model.graph
    _pad_all_axes(opened_model)
    values = named_values(graph)
    layers = [Layer(node) for node in named_nodes(graph, sites.layers)]
    scales = {values[name]: ActivationScale.of(*ranges[group]) for group in sites.groups for name in group}
    read_in = {layer: scales[origins(layer.input)[0]].scale for layer in layers}
    inserter = _Inserter(graph, scales, layers)
    inserter.quantize_where_made()
    inserter.move_bytes()
    inserter.dequantize_where_read({values[name] for name in sites.float_sums})
    _keep_in_float(inserter.edit, [layer.node for layer in layers])
    for layer, scale in read_in.items():
        shift, weight = (bias_shifts or {}).get(layer.name), (rounded or {}).get(layer.name)
        store_in_int8(inserter.edit, layer, scale, target, shift, weight)
    RemoveUnusedNodesPass()(opened_model)  # an activation that its bytes perform is no reader any more
    store_in_float16(graph)
    IdentityEliminationPass()(opened_model)
    DeduplicateHashedInitializersPass()(opened_model)
    return closed(opened_model)


class _Inserter:
    """Puts the pairs around the activations of an opened graph, in the three steps that are drawn above."""

    def __init__(self, graph: ir.Graph, scales: Mapping[ir.Value, ActivationScale], layers: Sequence[Layer]) -> None:
        self.edit = Edit(graph)
        self._scales = scales
        self._layers = {layer.node for layer in layers}
        self._moving = _moving_nodes(graph, layers)
        self._scale_of = dict(scales)
        for node in self._moving:  # in the graph's order, so that inputs come first
            self._scale_of |= dict.fromkeys(node.outputs, self._scale_of[read(node)])
        for value in self._scale_of:
            _keep_from_output(self.edit, value)
        self._uses = {value: value.uses() for value in self._scale_of}
        self._in_bytes: dict[ir.Value, ir.Value] = {}
        self._parameters: dict[ActivationScale, tuple[ir.Value, ir.Value]] = {}

    def quantize_where_made(self) -> None:
        """Step 1. A Relu or Clip that makes an activation is performed by its bytes: by where their range ends, or, if
        they share a wider range with other tensors, by a Clip on bytes. ONNX Runtime itself sees this only where the
        bounds agree to the last bit, and else runs the layer before it in float."""
        for value, scale in self._scales.items():
            activation, name = value.producer(), name_of(value)
            if activation is not None and is_pixels(value) and scale == ActivationScale(PIXEL_SCALE, PIXEL_ZERO):
                self._in_bytes[value] = read(activation)  # they are bytes already
                continue
            bounds = None if activation is None else _bounds(activation)
            if activation is None or bounds is None or only_reader(read(activation)) is not activation:
                self._in_bytes[value] = self._pair("QuantizeLinear", value, scale, f"{name}_quantized")
                continue
            in_bytes = self._pair("QuantizeLinear", read(activation), scale, f"{name}_quantized")
            low, high = (bound / float(scale.scale) + int(scale.zero) for bound in bounds)
            if low > _END or high < 255 - _END:
                limits = [np.uint8(np.clip(np.rint(byte), 0, 255)) for byte in (low, high)]
                constants = [self.edit.constant(limit, f"{name}_bound") for limit in limits]
                in_bytes = self.edit.node("Clip", [in_bytes, *constants], f"{name}_clipped")
            self._in_bytes[value] = in_bytes

    def move_bytes(self) -> None:
        """Step 2. What only moves elements reads and writes bytes; a Pad of zeros writes the zero point."""
        for node in self._moving:
            for value in node.outputs:
                value.name, value.dtype = self.edit.name(f"{value.name}_quantized"), ir.DataType.UINT8
                self._in_bytes[value] = value
            if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
                zero = self._scale_of[read(node)].zero
                node.resize_inputs(3)
                node.replace_input_with(2, self.edit.constant(zero, f"{node.name}_zero"))

    def dequantize_where_read(self, in_float: Collection[ir.Value]) -> None:
        """Step 3.

        Args:
            in_float: activations that whatever is no layer goes on reading as floats.
        """
        moving = set(self._moving)
        for value, scale in self._scale_of.items():
            name, shared = name_of(value).removesuffix("_quantized"), None
            for reader, index in self._uses[value]:
                source = self._in_bytes[value]
                if reader in self._layers:
                    source = self._pair("DequantizeLinear", source, scale, f"{name}_dequantized")
                elif reader not in moving:
                    if value in in_float:
                        continue
                    shared = shared or self._pair("DequantizeLinear", source, scale, f"{name}_dequantized")
                    source = shared
                reader.replace_input_with(index, source)

    def _pair(self, op_type: str, value: ir.Value, scale: ActivationScale, hint: str) -> ir.Value:
        """Half a pair."""
        if scale not in self._parameters:  # one pair of constants for all that share it
            self._parameters[scale] = (
                self.edit.constant(scale.scale, "activation_scale"),
                self.edit.constant(scale.zero, "activation_zero"),
            )
        return self.edit.node(op_type, [value, *self._parameters[scale]], hint)


def _keep_in_float(edit: Edit, in_int8: Collection[ir.Node]) -> None:
    """Let what reads pixels in float get their numbers of a Cast and a Mul, which are what a DequantizeLinear computes.

    After one of those, ONNX Runtime (1.32) would round the layer's weights itself, and run it in int8 as it sees fit
    (WeightBiasQuantization).
    """
    for node in of_type(edit.graph, "DequantizeLinear"):
        number = node.outputs[0]
        readers = [use for use in number.uses() if use.node not in in_int8]
        if not is_pixels(number) or not readers:
            continue
        edit_here = Edit(edit.graph, before=edit.graph[0])
        floats = edit_here.node("Cast", [read(node)], f"{name_of(number)}_cast", to=int(ir.DataType.FLOAT))
        scaled = edit_here.node(
            "Mul", [floats, edit_here.constant(PIXEL_SCALE, "pixel_scale")], f"{name_of(number)}_scaled"
        )
        for reader, index in readers:
            reader.replace_input_with(index, scaled)


def _keep_from_output(edit: Edit, value: ir.Value) -> None:
    """Let the graph give a copy of a value that becomes bytes: so what makes it fuses, and the output is what the
    bytes stand for."""
    if value.is_graph_output() and value.producer() is not None:
        output, name = edit.node("Identity", [value], name_of(value)), name_of(value)
        value.name, output.name = edit.name(f"{name}_inner"), name
        output.shape, output.type = value.shape, value.type
        edit.graph.outputs[list(edit.graph.outputs).index(value)] = output


def _moving_nodes(graph: ir.Graph, layers: Sequence[Layer]) -> list[ir.Node]:
    """The nodes between the origins and the layers, which from now on move bytes, in the graph's order."""
    found: set[ir.Node] = set()
    pending = [layer.input for layer in layers]
    while pending:
        node = pending.pop().producer()
        if node is not None and moves(node) and node not in found:
            found.add(node)
            pending += moved_inputs(node)
    return [node for node in graph if node in found]


def _pad_all_axes(model: ir.Model) -> None:
    """Let every Pad that names axes name them all: ONNX Runtime, moving Transposes past it, takes wrong ones."""
    naming = [node for node in of_type(model.graph, "Pad") if reads(node, 3) is not None]
    if naming:
        refreshed(model)  # for how many there are
    for node in naming:
        axes, pads, count = constant(reads(node, 3)), constant(reads(node, 1)), rank(read(node))
        if pads is None or axes is None or count == 0:
            continue
        spread = np.zeros((2, count), np.int64)
        spread[:, axes % count] = pads.reshape(2, -1)
        node.replace_input_with(1, Edit(model.graph).constant(spread.reshape(-1), f"{node.name}_pads"))
        node.resize_inputs(3)


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Between what a Relu or a Clip with constant limits lets pass; None for anything else."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    limits = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        limit = np.asarray(default) if reads(node, index) is None else constant(reads(node, index))
        if limit is None:
            return None
        limits.append(float(limit.reshape(-1)[0]))
    return limits[0], limits[1]
