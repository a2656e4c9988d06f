"""Choosing the ranges of quantised activations by what reaches the output.

A wider range clips less and rounds more coarsely. Which matters more depends on what follows: an error in a value
that a sigmoid saturates never reaches the image. So percentiles only give the start; then each range is tried a
little narrower and wider, one after the other, and kept where the output's mean squared error over calibration inputs
falls. A search over many ranges on few inputs would fit these alone: there must be some for each range, or the search
is coarser, or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from edgeae_runtime.parity import mse

from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.graph.editing import opened
from edgeae_export.graph.layer import activation_values, multiply_adds
from edgeae_export.graph.pixels import is_pixels
from edgeae_export.graph.running import runner
from edgeae_export.graph.values import Array, name_of, named_values
from edgeae_export.int8.calibration import Histogram, Range
from edgeae_export.int8.placement import Sites, origins
from edgeae_export.int8.quantize import quantize
from edgeae_export.int8.residual_sums import least_that_matters
from edgeae_export.int8.weights import QuantizedWeight
from edgeae_export.targets import Target

PIXEL_RANGE: Range = (0.0, 1.0)
"""Of 8-bit pixels: a scale of 1/255, a zero point of 0."""
Ranges = dict[tuple[str, ...], Range]

PERCENTILES = (100.0, 99.99, 99.9)
"""Starting points: all values, or all but the rarest; and the ranges of least error in the values themselves."""
INPUTS_PER_GROUP = 2
"""Fewest inputs of a search for each range that it searches. taef2's decoder, 18 ranges searched on 7 images, fell from
41.4 dB to 29.7 on others."""
TRIAL_INPUTS = 512
"""Most inputs of a search."""
Steps = tuple[tuple[float, ...], ...]
SCHEDULES: tuple[Steps, ...] = (
    ((0.7, 0.8, 0.9, 1.15, 1.3), (0.92, 0.96, 1.04, 1.08)),
    ((0.75, 0.87, 1.15), (0.95,)),
    ((0.85,),),
    (),
)
"""Factors tried on each range, pass by pass: the first schedule that is affordable for the model is taken."""
MAX_TRIALS = 160
TRIAL_WORK, TRIAL_VALUES = 8e9, 1e8
"""Multiply-adds and activations of a trial that is cheap: about a twentieth of a second, whatever the model's size."""
MAX_WORK = 6e11
"""Multiply-adds of one search at most: some seconds in 8 bits. Beyond it the starting ranges have to do."""
WEIGHT_WORK = 5e3
"""What a trial costs per weight, which is rounded anew and written into a new graph, in multiply-adds."""
SATURATION = {"Sigmoid": 8.0, "Tanh": 4.0}
"""Beyond these inputs the output is within 0.0004 and 0.0007 of its limit: less than a fifth of an 8-bit pixel step."""


def starting_ranges(
    model: onnx.ModelProto, sites: Sites, histograms: Mapping[str, Histogram], percent: float
) -> Ranges:
    """A percentile of each group's values, cut off where the activation function after it saturates."""
    values = named_values(opened(model).graph)
    ranges: Ranges = {}
    for group in sites.groups:
        parts = [histograms[tensor].percentile(percent) for tensor in group]
        low, high = min(part[0] for part in parts), max(part[1] for part in parts)
        readers = {node.op_type for tensor in group for node in values[tensor].consumers()}
        if len(readers) == 1 and (limit := SATURATION.get(next(iter(readers)))):
            low, high = max(low, -limit), min(high, limit)
        ranges[group] = PIXEL_RANGE if of_pixels(values, group) else (low, high)
    return _without_what_sums_rectify(values, ranges)


def of_pixels(values: Mapping[str, ir.Value], group: Sequence[str]) -> bool:
    """Whether a group is the graph's 8-bit pixels alone, whose scale is given."""
    return len(group) == 1 and is_pixels(values[group[0]])


def _without_what_sums_rectify(values: Mapping[str, ir.Value], ranges: Ranges) -> Ranges:
    """Without what is so far below zero that the sum it goes into is rectified, whatever the other summand."""
    highs = {tensor: high for group, (_, high) in ranges.items() for tensor in group}

    def largest(value: ir.Value) -> float:
        return max(highs.get(name_of(origin), np.inf) for origin in origins(value))

    bounded = {}
    for group, (low, high) in ranges.items():
        least = min(least_that_matters(values[tensor], largest) for tensor in group)
        bounded[group] = max(low, least), high
    return bounded


def _least_error_ranges(model: onnx.ModelProto, histograms: Mapping[str, Histogram], widest: Ranges) -> Ranges:
    """The ranges whose rounding and clipping together change the values least, group by group."""
    found: Ranges = {}
    for group, limits in widest.items():
        parts = [histograms[tensor].least_error() for tensor in group]
        low, high = min(part[0] for part in parts), max(part[1] for part in parts)
        found[group] = max(low, limits[0]), min(high, limits[1])
    values = named_values(opened(model, shapes=False).graph)
    return found | {group: PIXEL_RANGE for group in found if of_pixels(values, group)}


def all_starting_ranges(model: onnx.ModelProto, sites: Sites, histograms: Mapping[str, Histogram]) -> list[Ranges]:
    """Every starting point, from all values to the narrowest."""
    widest, *narrower = (starting_ranges(model, sites, histograms, percent) for percent in PERCENTILES)
    return [widest, _least_error_ranges(model, histograms, widest), *narrower]


def schedule(model: onnx.ModelProto, groups: int, available: int) -> tuple[Steps, int]:
    """The most thorough schedule that a model of this many groups can afford, and how many inputs to search on.

    There are at least `INPUTS_PER_GROUP` inputs per group; where so many are not available, or would be too much work,
    nothing is searched.
    """
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    work = max(multiply_adds(model), 1)
    cheap = int(min(TRIAL_WORK / work, TRIAL_VALUES / max(activation_values(model), 1), TRIAL_INPUTS))
    needed = INPUTS_PER_GROUP * groups
    count = min(max(needed, cheap), available)
    affordable = min(MAX_TRIALS, MAX_WORK / (work * count + WEIGHT_WORK * weights))
    if needed > available:
        return (), count
    return next(steps for steps in SCHEDULES if groups * sum(map(len, steps)) <= affordable or not steps), count


def search_ranges(
    model: onnx.ModelProto,
    sites: Sites,
    target: Target,
    inputs: Float32Array,
    steps: Steps,
    starts: Sequence[Ranges],
    rounded: Mapping[str, QuantizedWeight] | None = None,
) -> tuple[Ranges, float]:
    """Coordinate search over the ranges.

    Args:
        model: the float32 graph.
        sites: where it is quantised.
        target: what the weights look like.
        inputs: real inputs to measure the output's error on.
        steps: the factors.
        rounded: per layer, its weight as it is rounded.
        starts: ranges to begin with, of which the best on these inputs is taken; none is ever widened beyond the first.

    Returns:
        The ranges, and the mean squared error of the output with them.
    """
    error = output_error(model, sites, target, inputs, rounded=rounded)
    widest = starts[0]
    ranges = min(starts, key=error)
    best = error(ranges)
    values = named_values(opened(model, shapes=False).graph)
    searched = [group for group in sites.groups if not of_pixels(values, group)]
    for factors in steps:
        for group in searched:
            low, high = ranges[group]
            for factor in factors:
                # Never beyond what was observed: ONNX Runtime drops a Clip only if the range lies within its bounds.
                trial = {**ranges, group: (max(low * factor, widest[group][0]), min(high * factor, widest[group][1]))}
                if trial[group] != ranges[group] and (measured := error(trial)) < best:
                    ranges, best = trial, measured
    return ranges, best


def output_error(
    model: onnx.ModelProto,
    sites: Sites,
    target: Target,
    inputs: Float32Array,
    bias_shifts: Mapping[str, Array] | None = None,
    rounded: Mapping[str, QuantizedWeight] | None = None,
) -> Callable[[Ranges], float]:
    """A function from ranges to the mean squared error of the quantised graph's output against the float graph's."""
    expected = in_large_batches(runner(model), inputs)

    def error(ranges: Ranges) -> float:
        measured = in_large_batches(runner(quantize(model, sites, ranges, target, bias_shifts, rounded)), inputs)
        figure = mse(expected, measured)
        return figure if np.isfinite(figure) else np.inf

    return error
