"""Planned layers are executed layers: what ONNX Runtime would not run in int8 goes back to float, by name.

Which pairs of QuantizeLinear and DequantizeLinear become int8 kernels is decided by fusions that fail silently, and a
layer that they fail for is slower than in float: its weights are dequantised on every call. So the quantised graph is
optimised by ONNX Runtime and read, until everything that was planned in int8 runs in int8.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgeae_export.graph.executed import float_despite_pairs
from edgeae_export.graph.values import Array
from edgeae_export.int8.calibration import Range
from edgeae_export.int8.placement import Sites, without
from edgeae_export.int8.quantize import quantize
from edgeae_export.int8.weights import QuantizedWeight
from edgeae_export.targets import Target

REASON = "ONNX Runtime would run it in float here"


def settled(
    model: onnx.ModelProto,
    sites: Sites,
    ranges: Mapping[tuple[str, ...], Range],
    target: Target,
    bias_shifts: Mapping[str, Array] | None = None,
    rounded: Mapping[str, QuantizedWeight] | None = None,
) -> tuple[Sites, dict[tuple[str, ...], Range], onnx.ModelProto]:
    """Quantise, and leave in float what would run in float.

    Args:
        model: the float32 graph.
        sites: where to quantise.
        ranges: the range of each group of activations.
        target: what the weights look like.
        bias_shifts: per layer, what to add to its bias.
        rounded: per layer, its weight as it is rounded.

    Returns:
        The places that remain, their ranges, and the int8 graph: every layer of the first runs in int8 in the last, on
        this machine, and no weight is dequantised on a call.
    """
    of_tensor = {tensor: limits for group, limits in ranges.items() for tensor in group}
    remaining = dict(ranges)
    while True:
        quantized = quantize(model, sites, remaining, target, bias_shifts, rounded)
        unfit = float_despite_pairs(quantized, sites.layers)
        if not unfit:
            return sites, remaining, quantized
        sites = without(model, sites, dict.fromkeys(unfit, REASON))
        remaining = {group: of_tensor[group[0]] for group in sites.groups}
