"""The forms a graph could take: one per plan, each checked to compute the same, and the fastest of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from edgeae_runtime.errors import gist
from edgeae_runtime.measure.timing import THREAD_CLOCK, interleave

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.probe import Probe
from edgeae_export.graph.running import as_input, content_of, runner
from edgeae_export.rewrites.plans import AS_IT_IS, FOLDING, Plan
from edgeae_export.rewrites.steps import Decision, Step, apply
from edgeae_export.targets import Target

MARGIN = 0.05
"""A candidate must be faster than the estimated best by this share to replace it: less is the noise of short timings,
and the same export should give the same graph."""
ROUNDS, SECONDS = 15, 3.0
"""Most rounds, and CPU time after which no further one begins; fewer where every interval is narrow before."""


@dataclass(frozen=True)
class Candidate:
    """One form of a graph."""

    plan: Plan
    folded: onnx.ModelProto
    """The graph that the plan's rewrites were applied to."""
    graph: onnx.ModelProto
    decisions: list[Decision]


def exact_candidates(
    model: onnx.ModelProto,
    plans: Sequence[Plan],
    inputs: Float32Array,
    tolerance: float,
    corners: Float32Array | None = None,
) -> dict[str, Candidate]:
    """The form of each plan that computes the same, alike ones once, in the order of the plans.

    A rewrite that raises, or changes the outputs, is left out of its plan, and says why among the decisions.

    Args:
        model: the simplified graph.
        plans: which to try.
        inputs: real inputs, float32 [n, …].
        tolerance: largest absolute difference from `model` that counts as equal, on real inputs.
        corners: further inputs to compare on; None makes them from the real ones. See `Probe`.

    Returns:
        Candidates by name; the given graph, as it is, if no rewrite fits.
    """
    probe = Probe(model, inputs, tolerance, corners)
    folding = _apply_checked(Plan("folding", FOLDING), model, probe, set())
    assert folding is not None, "nothing was seen before"
    folded, dropped = folding.graph, folding.dropped
    candidates: dict[str, Candidate] = {}
    seen: set[bytes] = set()
    for plan in plans:
        done = _apply_checked(plan, folded, probe, seen)
        if done is None:
            continue
        dropped = dropped + done.dropped
        candidates[plan.name] = Candidate(done.plan, folded, done.graph, folding.decisions + done.decisions)
    applied = [each for each in candidates.values() if any(decision.applied for decision in each.decisions)]
    if not applied:
        candidates = {AS_IT_IS.name: next(iter(candidates.values()))}
    return {name: replace(each, decisions=each.decisions + dropped) for name, each in candidates.items()}


def choose(
    graphs: Mapping[str, onnx.ModelProto], inputs: Float32Array, target: Target
) -> tuple[str, Mapping[str, float]]:
    """By timing on this machine; by the order of the plans for another.

    Returns:
        The name, and the median microseconds of each where they were timed.
    """
    if len(graphs) == 1 or not target.here:
        return next(iter(graphs)), {}
    return fastest(graphs, inputs)


def fastest(candidates: Mapping[str, onnx.ModelProto], inputs: Float32Array) -> tuple[str, dict[str, float]]:
    """Time graphs at batch 1 on one thread, by its CPU time; the first wins unless another is faster by `MARGIN`.

    Returns:
        The winner's name, and the median microseconds of each.
    """
    one = np.ascontiguousarray(inputs[:1])
    runs = {name: runner(graph) for name, graph in candidates.items()}
    given = {name: as_input(graph, one) for name, graph in candidates.items()}
    calls = {name: (lambda run=run, one=given[name]: run(one)) for name, run in runs.items()}
    timed = interleave(calls, rounds=ROUNDS, seconds_per_turn=0.02, clock=THREAD_CLOCK, budget_s=SECONDS)
    times = {name: latency.median_us for name, latency in timed.items()}
    first, best = next(iter(times)), min(times, key=lambda name: times[name])
    margin = max(MARGIN, timed[first].noise + timed[best].noise)
    return (best if times[best] < times[first] * (1 - margin) else first), times


@dataclass(frozen=True)
class _Checked:
    """A graph after some rewrites that were found to change nothing."""

    plan: Plan
    """Those rewrites alone."""
    graph: onnx.ModelProto
    decisions: list[Decision]
    dropped: list[Decision]
    """One for each rewrite that was left out."""


def _apply_checked(plan: Plan, model: onnx.ModelProto, probe: Probe, seen: set[bytes]) -> _Checked | None:
    """Apply rewrites together; where that changes the outputs, one by one, each compared with what was before.

    Returns:
        None where the graph was seen before.
    """
    graph, decisions, why = _attempt(model, plan.steps)
    if not why and content_of(graph) in seen:
        return None
    exact = not why and not probe.difference(graph)
    done = _Checked(plan, graph, decisions, []) if exact else _one_by_one(plan, model, probe)
    if content_of(done.graph) in seen:
        return None
    seen.add(content_of(done.graph))
    return done


def _one_by_one(plan: Plan, model: onnx.ModelProto, probe: Probe) -> _Checked:
    kept, graph, decisions, dropped = list[Step](), model, list[Decision](), list[Decision]()
    for step in plan.steps:
        after, made, why = _attempt(graph, [step])
        if why := why or probe.difference(after):
            dropped.append(Decision(step.rule, plan.name, False, f"it was dropped: {why}"))
        else:
            kept, graph, decisions = [*kept, step], after, decisions + made
    return _Checked(replace(plan, steps=tuple(kept)), graph, decisions, dropped)


def _attempt(model: onnx.ModelProto, steps: Iterable[Step]) -> tuple[onnx.ModelProto, list[Decision], str]:
    """The graph after some rewrites, and why it is not there if one of them raised."""
    try:
        return *apply(model, steps), ""
    except Exception as error:  # whatever a rewrite did not foresee, the graph before it stands
        return model, [], f"it raised {type(error).__name__} ({gist(error)})"
