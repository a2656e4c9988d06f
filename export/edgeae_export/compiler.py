"""From a simplified graph to the one that ships: rewritten by the fastest plan that is exact, in 8 bits if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
from edgeae_runtime.errors import InputError
from edgeae_runtime.parity import in_batches, max_abs

from edgeae_export.calibration import calibrate
from edgeae_export.executed import executed_layers
from edgeae_export.fit import Fitted, fit
from edgeae_export.graph import Float32Array, runner
from edgeae_export.plans import FLOAT_PLANS, FOLDED, INT8_PLANS, Plan, fastest, fold, rewrite
from edgeae_export.quantize import quantize
from edgeae_export.ranges import starting_ranges
from edgeae_export.rewrites import Decision
from edgeae_export.sites import Sites, find_sites
from edgeae_export.targets import Target

AS_IT_IS = "as it is"
"""The plan of a graph that no rewrite fits."""
_QUICK_INPUTS = 64


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
    def precision(self) -> str:
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


def compile_float32(model: onnx.ModelProto, inputs: Float32Array, tolerance: float, target: Target) -> Compiled:
    """Rewrite a part for float32.

    Args:
        model: the simplified graph.
        inputs: real inputs, float32 [n, …], to check equality on and to time with.
        tolerance: largest absolute difference from `model` that counts as equal: float32 rounding.
        target: the machine; candidates are timed if it is this one.
    """
    candidates = exact_candidates(model, FLOAT_PLANS, inputs, tolerance)
    chosen, times = _choose({name: graph for name, (graph, _) in candidates.items()}, inputs, target)
    graph, decisions = candidates[chosen]
    return Compiled(graph, chosen, decisions, times_us=times)


def compile_int8(model: onnx.ModelProto, inputs: Float32Array, tolerance: float, target: Target) -> Compiled:
    """Rewrite a part for int8 and quantise it.

    Args:
        model: the simplified graph.
        inputs: calibration inputs, float32 [n, …].
        tolerance: as in `compile_float32`.
        target: the machine.

    Raises:
        InputError: nothing in the graph runs in int8.
    """
    candidates = exact_candidates(model, INT8_PLANS, inputs, tolerance)
    sites = {name: find_sites(graph) for name, (graph, _) in candidates.items()}
    if not any(site.layers for site in sites.values()):
        raise _nothing_in_int8(next(iter(sites.values())))
    quick = {name: _quickly_quantized(graph, sites[name], inputs, target) for name, (graph, _) in candidates.items()}
    chosen, times = _choose(quick, inputs, target)
    graph, decisions = candidates[chosen]
    plan = next((plan for plan in INT8_PLANS if plan.name == chosen), FOLDED)
    fitted = fit(fold(model)[0], plan, inputs, target)
    return _quantized(Compiled(graph, chosen, decisions, fitted, times), target)


def keep_in_float(compiled: Compiled, keep: frozenset[str], target: Target) -> Compiled:
    """The same part in int8, with some more of its layers in float and everything else as it was.

    Raises:
        InputError: nothing would be left in int8.
    """
    assert compiled.fitted is not None
    sites = find_sites(compiled.rewritten, keep)
    if not sites.layers:
        raise _nothing_in_int8(sites)
    of_tensor = {tensor: limits for group, limits in compiled.fitted.ranges.items() for tensor in group}
    ranges = {group: of_tensor[group[0]] for group in sites.groups}
    return _quantized(replace(compiled, fitted=replace(compiled.fitted, sites=sites, ranges=ranges)), target)


def _quantized(compiled: Compiled, target: Target) -> Compiled:
    """Quantise as fitted; a graph that then runs nothing in int8 is an error, not a success."""
    assert compiled.fitted is not None
    model = compiled.fitted.quantized(target)
    if not any(layer.precision == "int8" for layer in executed_layers(model)):
        raise _nothing_in_int8(compiled.fitted.sites)
    return replace(compiled, model=model)


def _quickly_quantized(graph: onnx.ModelProto, sites: Sites, inputs: Float32Array, target: Target) -> onnx.ModelProto:
    """Good enough to be timed: the ranges are not what decides the speed."""
    histograms = calibrate(graph, sites.tensors, inputs[:_QUICK_INPUTS])
    return quantize(graph, sites, starting_ranges(graph, sites, histograms, 100.0), target)


def exact_candidates(
    model: onnx.ModelProto, plans: Sequence[Plan], inputs: Float32Array, tolerance: float
) -> dict[str, tuple[onnx.ModelProto, list[Decision]]]:
    """The graph of each plan that computes the same; the given graph itself if none does."""
    expected = in_batches(runner(model), inputs[:13])

    def equal(graph: onnx.ModelProto) -> bool:
        return max_abs(expected, in_batches(runner(graph), inputs[:13])) <= tolerance

    folded, fold_decisions = fold(model)
    if not equal(folded):
        folded, fold_decisions = model, [_dropped("folding", decision) for decision in fold_decisions]
    candidates: dict[str, tuple[onnx.ModelProto, list[Decision]]] = {}
    seen: set[bytes] = set()
    for plan in plans:
        graph, decisions = rewrite(folded, plan)
        content = graph.SerializeToString(deterministic=True)
        if content not in seen and equal(graph):
            seen.add(content)
            candidates[plan.name] = graph, fold_decisions + decisions
    if not candidates:
        return {AS_IT_IS: (model, [])}
    if not any(decision.applied for _, decisions in candidates.values() for decision in decisions):
        return {AS_IT_IS: next(iter(candidates.values()))}
    return candidates


def _choose(
    graphs: Mapping[str, onnx.ModelProto], inputs: Float32Array, target: Target
) -> tuple[str, Mapping[str, float]]:
    """By timing on this machine, by the order of the plans for another."""
    if len(graphs) == 1 or not target.here:
        return next(iter(graphs)), {}
    return fastest(graphs, inputs)


def _dropped(what: str, decision: Decision) -> Decision:
    return Decision(decision.rule, decision.node, False, f"{what} was dropped: it changed the outputs")


def _nothing_in_int8(sites: Sites) -> InputError:
    reasons = "; ".join(f"{name}: {why}" for name, why in list(sites.kept.items())[:4])
    return InputError(
        f"Nothing in the graph would run in int8 ({reasons or 'it has no layers with weights'}). Export it without "
        "--quantize, or quantise the other part alone with --quantize-part."
    )
