"""Choosing the ranges of quantised activations by what reaches the output.

A wider range clips less and rounds more coarsely. Which matters more depends on what follows: an error in a value
that a sigmoid saturates never reaches the image. So percentiles only give the start; then each range is tried a
little narrower and wider, one after the other, and kept where the output's mean squared error over calibration inputs
falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from edgeae_runtime.parity import mse

from edgeae_export.calibration import Histogram, Range
from edgeae_export.editor import Array, GraphEditor, multiply_adds
from edgeae_export.graph import Float32Array, runner
from edgeae_export.parity import in_large_batches
from edgeae_export.quantize import quantize
from edgeae_export.sites import Sites
from edgeae_export.targets import Target

Ranges = dict[tuple[str, ...], Range]

PERCENTILES = (100.0, 99.99, 99.9)
"""Starting points: all values, or all but the rarest."""
Steps = tuple[tuple[float, ...], ...]
SCHEDULES: tuple[Steps, ...] = (
    ((0.7, 0.8, 0.9, 1.15, 1.3), (0.92, 0.96, 1.04, 1.08)),
    ((0.75, 0.87, 1.15), (0.95,)),
    ((0.85,),),
    (),
)
"""Factors tried on each range, pass by pass: the first schedule whose trials are few enough for the model is taken."""
MAX_TRIALS = 160
MAX_WORK = 1e12
"""Multiply-adds of one search at most: some seconds in 8 bits. Beyond it the starting ranges have to do."""
WEIGHT_WORK = 5e3
"""What a trial costs per weight, which is rounded anew and written into a new graph, in multiply-adds."""
SATURATION = {"Sigmoid": 8.0, "Tanh": 4.0}
"""Beyond these inputs the output is within 0.0004 and 0.0007 of its limit: less than a fifth of an 8-bit pixel step."""


def starting_ranges(
    model: onnx.ModelProto, sites: Sites, histograms: Mapping[str, Histogram], percent: float
) -> Ranges:
    """A percentile of each group's values, cut off where the activation function after it saturates."""
    editor = GraphEditor(model)
    ranges: Ranges = {}
    for group in sites.groups:
        parts = [histograms[tensor].percentile(percent) for tensor in group]
        low, high = min(part[0] for part in parts), max(part[1] for part in parts)
        readers = {node.op_type for tensor in group for node in editor.consumers(tensor)}
        if len(readers) == 1 and (limit := SATURATION.get(next(iter(readers)))):
            low, high = max(low, -limit), min(high, limit)
        ranges[group] = (low, high)
    return ranges


def schedule(model: onnx.ModelProto, groups: int, inputs: int) -> Steps:
    """The most thorough schedule that a model of this many groups can afford on this many inputs."""
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    affordable = min(MAX_TRIALS, MAX_WORK / max(multiply_adds(model) * inputs + WEIGHT_WORK * weights, 1))
    return next(steps for steps in SCHEDULES if groups * sum(map(len, steps)) <= affordable or not steps)


def search_ranges(
    model: onnx.ModelProto,
    sites: Sites,
    histograms: Mapping[str, Histogram],
    target: Target,
    inputs: Float32Array,
    steps: Steps,
) -> tuple[Ranges, float]:
    """Coordinate search over the ranges.

    Args:
        model: the float32 graph.
        sites: where it is quantised.
        histograms: calibrated on `sites.tensors`.
        target: what the weights look like.
        inputs: real inputs to measure the output's error on.
        steps: the factors; none for the best of the starting ranges.

    Returns:
        The ranges, and the mean squared error of the output with them.
    """
    error = output_error(model, sites, target, inputs)
    widest = starting_ranges(model, sites, histograms, 100.0)
    starts = [starting_ranges(model, sites, histograms, percent) for percent in PERCENTILES]
    ranges = min(starts, key=error)
    best = error(ranges)
    for factors in steps:
        for group in sites.groups:
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
) -> Callable[[Ranges], float]:
    """A function from ranges to the mean squared error of the quantised graph's output against the float graph's."""
    expected = in_large_batches(runner(model), inputs)

    def error(ranges: Ranges) -> float:
        measured = in_large_batches(runner(quantize(model, sites, ranges, target, bias_shifts)), inputs)
        figure = mse(expected, measured)
        return figure if np.isfinite(figure) else np.inf

    return error
