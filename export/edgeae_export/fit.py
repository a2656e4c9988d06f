"""Fitting an int8 graph to its float32 graph: channel scales, ranges and biases, by the error that the output shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from edgeae_export.bias_correction import correct_biases
from edgeae_export.calibration import calibrate
from edgeae_export.editor import Array, activation_values, multiply_adds
from edgeae_export.equalize import equalizable, equalize
from edgeae_export.graph import Float32Array
from edgeae_export.plans import Plan, rewrite
from edgeae_export.quantize import quantize
from edgeae_export.ranges import SCHEDULES, Ranges, Steps, output_error, schedule, search_ranges
from edgeae_export.sites import Sites, find_sites
from edgeae_export.targets import Target

STRENGTHS = (0.0, 0.5, 0.75)
"""How far channels are equalised: not at all, to the geometric middle, and further; the best is taken."""
TRIAL_WORK = 8e9
"""Multiply-adds per trial: about a twentieth of a second, whatever the model's size."""
TRIAL_VALUES = 1e8
"""Activations per trial, which take the time where layers have few multiply-adds."""
TRIAL_INPUTS = (4, 512)
"""Fewest and most inputs per trial."""


@dataclass(frozen=True)
class Fitted:
    """A float32 graph and everything that makes it int8."""

    rewritten: onnx.ModelProto
    sites: Sites
    ranges: Ranges
    bias_shifts: Mapping[str, Array] = field(default_factory=dict)
    strength: float = 0.0
    """Of the equalisation that `rewritten` already holds."""

    def quantized(self, target: Target) -> onnx.ModelProto:
        """The int8 graph."""
        return quantize(self.rewritten, self.sites, self.ranges, target, self.bias_shifts)


def fit(folded: onnx.ModelProto, plan: Plan, inputs: Float32Array, target: Target) -> Fitted:
    """Find the int8 form of a plan whose output is nearest to the float32 graph's.

    Args:
        folded: the folded float32 graph.
        plan: the rewrites.
        inputs: calibration inputs, float32 [n, …]; every other one measures, so that nothing is fitted to itself.
        target: what the weights look like.
    """
    measured = trial_inputs(folded, inputs[1::2] if len(inputs) > 1 else inputs)
    strengths = STRENGTHS if target.per_channel else STRENGTHS[:1]  # one scale per weight pays for equal activations
    if not equalizable(folded):
        strengths = STRENGTHS[:1]
    steps = schedule(folded, len(find_sites(rewrite(folded, plan)[0]).groups), len(measured))
    if steps == SCHEDULES[0]:
        fits = [_at_strength(folded, plan, inputs, measured, target, strength, steps) for strength in strengths]
    else:  # a search is dear: only where it promises most
        starts = [_at_strength(folded, plan, inputs, measured, target, strength, ()) for strength in strengths]
        strength = min(starts, key=lambda each: each[1])[0].strength
        fits = [_at_strength(folded, plan, inputs, measured, target, strength, steps)]
    best, least = min(fits, key=lambda each: each[1])
    return _with_corrected_biases(best, least, inputs, measured, target)


def _at_strength(
    folded: onnx.ModelProto,
    plan: Plan,
    inputs: Float32Array,
    measured: Float32Array,
    target: Target,
    strength: float,
    steps: Steps,
) -> tuple[Fitted, float]:
    """The best ranges at one strength of equalisation, and the output's error with them."""
    graph, _ = rewrite(equalize(folded, inputs, strength), plan)
    sites = find_sites(graph)
    histograms = calibrate(graph, sites.tensors, inputs)
    ranges, error = search_ranges(graph, sites, histograms, target, measured, steps)
    return Fitted(graph, sites, ranges, strength=strength), error


def trial_inputs(model: onnx.ModelProto, inputs: Float32Array) -> Float32Array:
    """As many of the inputs, evenly spread, as one trial should run."""
    fewest, most = TRIAL_INPUTS
    affordable = min(TRIAL_WORK / max(multiply_adds(model), 1), TRIAL_VALUES / max(activation_values(model), 1))
    count = int(min(max(affordable, fewest), most, len(inputs)))
    return inputs[:: max(len(inputs) // count, 1)][:count]


def _with_corrected_biases(
    fitted: Fitted, error: float, inputs: Float32Array, measured: Float32Array, target: Target
) -> Fitted:
    """With bias correction, if it brings the output nearer."""
    graph, sites, ranges = fitted.rewritten, fitted.sites, fitted.ranges
    sample = trial_inputs(graph, inputs)
    shifts = correct_biases(graph, sites, sample, lambda some: quantize(graph, sites, ranges, target, some))
    corrected = output_error(graph, sites, target, measured, shifts)(ranges)
    if corrected >= error:
        return fitted
    return Fitted(graph, sites, ranges, shifts, fitted.strength)
