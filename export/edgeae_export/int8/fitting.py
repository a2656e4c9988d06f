"""Fitting an int8 graph to its float32 graph: channel scales, ranges and biases, by the error that the output shows.

Every step proposes int8 forms that it made from some of the calibration inputs; a judge, who has others too, keeps the
one whose output is nearest to the float32 graph's. What only suits the inputs it was made from is dropped, and the
plain ranges, which are judged first, win where nothing is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from edgeae_runtime.parity import mse

from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.graph.layer import activation_values, multiply_adds
from edgeae_export.graph.running import runner
from edgeae_export.graph.values import Array
from edgeae_export.int8.bias_correction import correct_biases
from edgeae_export.int8.calibration import calibrate
from edgeae_export.int8.equalize import Equalizer, equalizable
from edgeae_export.int8.placement import Sites, find_sites
from edgeae_export.int8.quantize import quantize
from edgeae_export.int8.ranges import Ranges, Steps, all_starting_ranges, schedule, search_ranges
from edgeae_export.int8.rounding import round_weights
from edgeae_export.int8.weights import QuantizedWeight
from edgeae_export.rewrites.plans import Plan, rewrite
from edgeae_export.targets import Target

CLEARLY = 0.1
"""Share of the error, 0.46 dB, that narrower ranges must save: inputs to come reach further than those at hand. For
taef2's decoder ranges of 99.99 % were judged 0.1 dB better than those of the least error, and gave 40.2 instead of 41.7
dB on parts of the photographs that were not seen."""
STRENGTHS = (0.0, 0.5, 0.75)
"""How far channels are equalised: not at all, to the geometric middle, and further; the best is taken."""
JUDGED = 4
"""One calibration input in four judges; the others are fitted to."""
JUDGE_WORK, JUDGE_VALUES, JUDGE_INPUTS = 1e10, 2e8, (16, 512)
"""Multiply-adds and activations of one judgement, and its fewest and most inputs: some tenths of a second."""
FITTED_WORK, FITTED_VALUES, FITTED_INPUTS = 3e10, 3e9, (32, 1024)
"""The same of one pass over the inputs that ranges and biases are taken from, of which each strength needs three."""


@dataclass(frozen=True)
class Fitted:
    """A float32 graph and everything that makes it int8."""

    rewritten: onnx.ModelProto
    sites: Sites
    ranges: Ranges
    bias_shifts: Mapping[str, Array] = field(default_factory=dict)
    strength: float = 0.0
    """Of the equalisation that `rewritten` already holds."""
    returned: tuple[str, ...] = ()
    """Layers that could run in int8 and were put back to float, for the quality."""
    rounded: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """Per layer, its weight as `round_weights` rounds it; to the nearest step where it is missing."""

    def quantized(self, target: Target) -> onnx.ModelProto:
        """The int8 graph."""
        return quantize(self.rewritten, self.sites, self.ranges, target, self.bias_shifts, self.rounded)


class Judge:
    """The error of int8 forms against the float32 graph, on inputs that nothing was fitted to, and on some others.

    The larger of the two counts: the former show what was fitted too closely, and a rare input, which a narrow range
    clips, may be among either. Judged on 90 photographs alone, ranges of 99.9 % seemed best for one decoder, at 48.9
    dB, and gave 41.9 dB on 40 others, for one of them.
    """

    def __init__(self, exact: onnx.ModelProto, fitted_to: Float32Array, judging: Float32Array, target: Target) -> None:
        some = affordable(exact, fitted_to, JUDGE_WORK, JUDGE_VALUES, JUDGE_INPUTS)
        run = runner(exact)
        self._sets = [(inputs, in_large_batches(run, inputs)) for inputs in (some, judging)]
        self._target = target
        self._judged: list[tuple[Fitted, float]] = []

    def error(self, proposed: Fitted) -> float:
        """Mean squared error of the output; infinite where it is not finite."""
        for known, error in self._judged:
            if known is proposed:
                return error
        run = runner(proposed.quantized(self._target))
        figures = [mse(expected, in_large_batches(run, inputs)) for inputs, expected in self._sets]
        self._judged.append((proposed, max(figures) if np.isfinite(figures).all() else np.inf))
        return self._judged[-1][1]

    def best(self, proposals: Iterable[Fitted]) -> Fitted:
        """The one with the least error; of equal ones the first."""
        return min(proposals, key=self.error)

    def safest(self, group: Sequence[Fitted]) -> Fitted:
        """Of forms from the widest ranges to the narrowest, the first that none after it clearly beats."""
        chosen = group[0]
        for each in group[1:]:
            if self.error(each) < (1 - CLEARLY) * self.error(chosen):
                chosen = each
        return chosen


def fit(folded: onnx.ModelProto, plan: Plan, inputs: Float32Array, target: Target) -> Fitted:
    """Find the int8 form of a plan whose output is nearest to the float32 graph's.

    On the inputs that judge, it is never worse than plain ranges: all values, or all but the rarest, without
    equalisation and correction of biases.

    Args:
        folded: the folded float32 graph.
        plan: the rewrites.
        inputs: calibration inputs, float32 [n, …].
        target: what the weights look like.
    """
    fitted_to, judging = split(folded, inputs)
    judge = Judge(folded, fitted_to, judging, target)
    equalizer = Equalizer(folded, fitted_to)
    plain = [_plain(equalizer, plan, fitted_to, strength) for strength in _strengths(folded, target)]
    best = judge.best(judge.safest(group) for group in plain)
    steps, count = schedule(folded, len(best.sites.groups), len(fitted_to))
    # Where not even a search can be afforded, weights are rounded at one strength alone. With better weights, wider
    # ranges may be the better ones: all compete again.
    for group in plain if steps else [_of_strength(plain, best)]:
        best = judge.best([best, judge.safest(_rounded(group, fitted_to, target))])
    if steps:  # a search is dear: only from where it promises most
        group = _of_strength(plain, best)
        best = judge.best([best, _searched(group, best, fitted_to, count, steps, target)])
    best = judge.best([best, _with_corrected_biases(best, fitted_to, target)])
    return judge.best([best, *(each for group in plain for each in group)])


def fit_plainly(folded: onnx.ModelProto, plan: Plan, inputs: Float32Array, target: Target, strength: float) -> Fitted:
    """As `fit`, for a form that is only one of several: plain ranges and rounded weights, without any search.

    Args:
        folded, plan, inputs, target: as in `fit`.
        strength: of the equalisation, as the search of another form found it.
    """
    fitted_to, judging = split(folded, inputs)
    judge = Judge(folded, fitted_to, judging, target)
    group = _plain(Equalizer(folded, fitted_to), plan, fitted_to, strength)
    return judge.best([judge.safest(group), judge.safest(_rounded(group, fitted_to, target))])


def split(model: onnx.ModelProto, inputs: Float32Array) -> tuple[Float32Array, Float32Array]:
    """The inputs that are fitted to, and those that judge: apart, unless there are too few, and as many as the work
    allows."""
    if len(inputs) < JUDGED:
        return inputs, inputs
    # Drawn, not taken in turn: sets of pictures repeat (four cameras, one after the other) more often than not.
    order = np.random.default_rng(0).permutation(len(inputs))
    judging, fitted_to = np.sort(order[: len(inputs) // JUDGED]), np.sort(order[len(inputs) // JUDGED :])
    return (
        affordable(model, inputs[fitted_to], FITTED_WORK, FITTED_VALUES, FITTED_INPUTS),
        affordable(model, inputs[judging], JUDGE_WORK, JUDGE_VALUES, JUDGE_INPUTS),
    )


def affordable(
    model: onnx.ModelProto, inputs: Float32Array, work: float, values: float, counts: tuple[int, int]
) -> Float32Array:
    """As many of the inputs, evenly spread, as one run may take.

    Args:
        model: the graph that will run.
        inputs: to choose from.
        work: multiply-adds of the run.
        values: activations that it writes, which take the time where layers have few multiply-adds.
        counts: fewest and most inputs, whatever the work.
    """
    each = max(multiply_adds(model) / work, activation_values(model) / values)
    count = int(min(max(1 / max(each, 1e-12), counts[0]), counts[1], len(inputs)))
    return spread(inputs, count)


def spread(inputs: Float32Array, count: int) -> Float32Array:
    """So many of the inputs, from the first to the last."""
    chosen: Float32Array = inputs[np.linspace(0, len(inputs) - 1, count).astype(int)]
    return chosen


def _strengths(folded: onnx.ModelProto, target: Target) -> Sequence[float]:
    if not target.per_channel or not equalizable(folded):  # one scale per weight pays for equal activations
        return STRENGTHS[:1]
    return STRENGTHS


def _plain(equalizer: Equalizer, plan: Plan, inputs: Float32Array, strength: float) -> list[Fitted]:
    """Each kind of plain ranges, at one strength of equalisation."""
    equalized = equalizer.at(strength)
    graph, _ = rewrite(equalized, plan)
    strength = 0.0 if equalized is equalizer.model else strength  # it may have been dropped
    sites = find_sites(graph)
    histograms = calibrate(graph, sites.tensors, inputs)
    return [Fitted(graph, sites, ranges, strength=strength) for ranges in all_starting_ranges(graph, sites, histograms)]


def _searched(
    plain: Sequence[Fitted], start: Fitted, inputs: Float32Array, count: int, steps: Steps, target: Target
) -> Fitted:
    """With ranges searched on some of the inputs, from the plain ones on."""
    ranges, _ = search_ranges(
        start.rewritten,
        start.sites,
        target,
        spread(inputs, count),
        steps,
        [each.ranges for each in plain],
        start.rounded,
    )
    return replace(start, ranges=ranges)


def _of_strength(groups: Sequence[list[Fitted]], fitted: Fitted) -> list[Fitted]:
    return next(group for group in groups if group[0].strength == fitted.strength)


def _rounded(group: Sequence[Fitted], inputs: Float32Array, target: Target) -> list[Fitted]:
    """With weights rounded by what their layers give, which no range changes."""
    rounded = round_weights(group[0].rewritten, group[0].sites, inputs, target)
    return [replace(each, rounded=rounded) for each in group]


def _with_corrected_biases(fitted: Fitted, inputs: Float32Array, target: Target) -> Fitted:
    """With what rounding shifts the layers' means by given back."""
    some = affordable(fitted.rewritten, inputs, JUDGE_WORK, JUDGE_VALUES, JUDGE_INPUTS)
    shifts = correct_biases(
        fitted.rewritten, fitted.sites, some, lambda tried: replace(fitted, bias_shifts=tried).quantized(target)
    )
    return replace(fitted, bias_shifts=shifts)
