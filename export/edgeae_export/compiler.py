"""From a simplified graph to the one that ships: rewritten by the fastest plan that is exact, in 8 bits if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
from edgeae_runtime.bundle.layers import Precision
from edgeae_runtime.errors import InputError

from edgeae_export.arrays import Float32Array
from edgeae_export.int8.as_executed import settled
from edgeae_export.int8.calibration import calibrate
from edgeae_export.int8.fitting import Fitted, fit, fit_plainly
from edgeae_export.int8.placement import Sites, find_sites
from edgeae_export.int8.ranges import starting_ranges
from edgeae_export.rewrites.candidates import Candidate, choose, exact_candidates
from edgeae_export.rewrites.plans import FLOAT_PLANS, int8_plans
from edgeae_export.rewrites.steps import Decision
from edgeae_export.targets import Target

_QUICK_INPUTS = 16
FOR_QUALITY = "in int8 it would cost too much quality"
"""Why a layer that could run in int8 was put back."""


class NothingInInt8Error(InputError):
    """No layer of a graph would run in 8 bits."""


@dataclass(frozen=True)
class Compiled:
    """One part, compiled."""

    model: onnx.ModelProto
    plan: str
    """The set of rewrites that was taken."""
    decisions: Sequence[Decision]
    """Which rewrites were applied to which nodes, and why others were not."""
    fitted: Fitted | None = None
    """How it was quantised; None for float32."""
    times_us: Mapping[str, float] = field(default_factory=dict)
    """Median microseconds of each plan at batch 1 on one thread, where candidates were timed."""

    @property
    def precision(self) -> Precision:
        """`int8` when the graph was quantised."""
        return "int8" if self.fitted else "float32"

    @property
    def rewritten(self) -> onnx.ModelProto:
        """The float32 graph before quantisation."""
        return self.fitted.rewritten if self.fitted else self.model

    @property
    def kept(self) -> Mapping[str, str]:
        """Layers that an int8 graph keeps in float, and why."""
        return self.fitted.sites.kept if self.fitted else {}


def compile_float32(
    model: onnx.ModelProto,
    inputs: Float32Array,
    tolerance: float,
    target: Target,
    corners: Float32Array | None = None,
) -> Compiled:
    """Rewrite a part for float32.

    Args:
        model: the simplified graph.
        inputs: real inputs, float32 [n, …], to check equality on and to time with.
        tolerance: largest absolute difference from `model` that counts as equal: float32 rounding.
        target: the machine; candidates are timed if it is this one.
        corners: further inputs to check equality on; see `exact_candidates`.
    """
    plans = sorted(FLOAT_PLANS, key=lambda plan: plan.name != target.float_plan)  # the target's own first
    candidates = exact_candidates(model, plans, inputs, tolerance, corners)
    name, times = choose({name: each.graph for name, each in candidates.items()}, inputs, target)
    return Compiled(candidates[name].graph, name, candidates[name].decisions, times_us=times)


def compile_int8(
    model: onnx.ModelProto,
    inputs: Float32Array,
    tolerance: float,
    target: Target,
    corners: Float32Array | None = None,
) -> Compiled:
    """Rewrite a part for int8 and quantise it.

    Args:
        model: the simplified graph.
        inputs: calibration inputs, float32 [n, …].
        tolerance: as in `compile_float32`.
        target: the machine.
        corners: as in `compile_float32`.

    Raises:
        NothingInInt8Error: nothing in the graph runs in int8.
    """
    candidates = exact_candidates(model, int8_plans(model), inputs, tolerance, corners)
    sites = {name: find_sites(each.graph) for name, each in candidates.items()}
    quick = {
        name: quickly_quantized(each.graph, sites[name], inputs, target)
        for name, each in candidates.items()
        if sites[name].layers
    }
    if not quick:
        raise _nothing_in_int8(next(iter(sites.values())))
    name, times = choose(quick, inputs, target)
    chosen = candidates[name]
    fitted = fit(chosen.folded, chosen.plan, inputs, target)
    return _quantized(Compiled(chosen.graph, name, chosen.decisions, fitted, times), target)


def compile_plainly(candidate: Candidate, inputs: Float32Array, target: Target, strength: float) -> Compiled:
    """One form of a part in int8, fitted with less effort than the one that is chosen.

    Args:
        candidate: the form.
        inputs, target: as in `compile_int8`.
        strength: see `fit_plainly`.

    Raises:
        NothingInInt8Error: nothing in it runs in int8.
    """
    sites = find_sites(candidate.graph)
    if not sites.layers:
        raise _nothing_in_int8(sites)
    fitted = fit_plainly(candidate.folded, candidate.plan, inputs, target, strength)
    return _quantized(Compiled(candidate.graph, candidate.plan.name, candidate.decisions, fitted), target)


def keep_in_float(compiled: Compiled, keep: frozenset[str], target: Target) -> Compiled:
    """The same part in int8, with some more of its layers in float and everything else as it was.

    Raises:
        NothingInInt8Error: nothing would be left in int8.
    """
    assert compiled.fitted is not None
    fitted = with_layers_in_float(compiled.fitted, keep)
    if not fitted.sites.layers:
        raise _nothing_in_int8(fitted.sites)
    return _quantized(replace(compiled, fitted=fitted), target)


def with_layers_in_float(fitted: Fitted, keep: frozenset[str]) -> Fitted:
    """The same fit without some of its layers."""
    sites = find_sites(fitted.rewritten, keep)
    kept = {name: FOR_QUALITY if name in keep else why for name, why in sites.kept.items()}
    of_tensor = {tensor: limits for group, limits in fitted.ranges.items() for tensor in group}
    ranges = {group: of_tensor[group[0]] for group in sites.groups}
    return replace(fitted, sites=replace(sites, kept=kept), ranges=ranges, returned=tuple(sorted(keep)))


def _quantized(compiled: Compiled, target: Target) -> Compiled:
    """Quantise as fitted; a graph that then runs nothing in int8 is an error, not a success."""
    fitted = compiled.fitted
    assert fitted is not None
    sites, ranges, model = settled(
        fitted.rewritten, fitted.sites, fitted.ranges, target, fitted.bias_shifts, fitted.rounded
    )
    if not sites.layers:
        raise _nothing_in_int8(sites)
    return replace(compiled, model=model, fitted=replace(fitted, sites=sites, ranges=ranges))


def quickly_quantized(graph: onnx.ModelProto, sites: Sites, inputs: Float32Array, target: Target) -> onnx.ModelProto:
    """Good enough to be timed: the ranges are not what decides the speed."""
    histograms = calibrate(graph, sites.tensors, inputs[:_QUICK_INPUTS])
    return settled(graph, sites, starting_ranges(graph, sites, histograms, 100.0), target)[2]


def _nothing_in_int8(sites: Sites) -> NothingInInt8Error:
    reasons = "; ".join(f"{name}: {why}" for name, why in list(sites.kept.items())[:4])
    return NothingInInt8Error(
        f"Nothing in the graph would run in int8 ({reasons or 'it has no layers with weights'}). Quantise the other "
        "part alone with --quantize-part, let --quantize auto leave this one in float32, or export with "
        "--quantize none."
    )
