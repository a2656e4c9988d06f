"""The forms a graph could take: one per plan, each checked to compute the same, and the fastest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from edgeae_runtime.parity import in_batches, max_abs
from edgeae_runtime.timing import THREAD_CLOCK, interleave

from edgeae_export.graph import Float32Array, joined_runner, runner
from edgeae_export.plans import AS_IT_IS, Plan, fold, rewrite
from edgeae_export.rewrites import Decision
from edgeae_export.targets import Target

MARGIN = 0.05
"""A candidate must be faster than the estimated best by this share to replace it: less is the noise of short timings,
and the same export should give the same graph."""
ROUNDS, SECONDS = 15, 3.0
"""Most rounds, and CPU time after which no further one begins; fewer where every interval is narrow before."""
_CHECKED = 13  # inputs: one of each batch size


@dataclass(frozen=True)
class Candidate:
    """One form of a graph."""

    plan: Plan
    folded: onnx.ModelProto
    """The graph that the plan's rewrites were applied to."""
    graph: onnx.ModelProto
    decisions: list[Decision]


def exact_candidates(
    model: onnx.ModelProto, plans: Sequence[Plan], inputs: Float32Array, tolerance: float
) -> dict[str, Candidate]:
    """The form of each plan that computes the same, alike ones once, in the order of the plans.

    Args:
        model: the simplified graph.
        plans: which to try.
        inputs: real inputs, float32 [n, …].
        tolerance: largest absolute difference from `model` that counts as equal.

    Returns:
        Candidates by name; the given graph, as it is, if no rewrite fits.
    """
    inputs = inputs[:_CHECKED]
    expected = in_batches(joined_runner(model), inputs)

    def equal(graph: onnx.ModelProto) -> bool:
        return max_abs(expected, in_batches(joined_runner(graph), inputs)) <= tolerance

    dropped: list[Decision] = []
    folded, fold_decisions = fold(model)
    if not equal(folded):
        folded, fold_decisions = model, []
        dropped.append(_dropped("folding"))
    candidates: dict[str, Candidate] = {}
    seen: set[bytes] = set()
    for plan in plans:
        graph, decisions = rewrite(folded, plan)
        content = graph.SerializeToString(deterministic=True)
        if content in seen:
            continue
        seen.add(content)
        if equal(graph):
            candidates[plan.name] = Candidate(plan, folded, graph, fold_decisions + decisions)
        else:
            dropped.append(_dropped(plan.name))
    applied = [each for each in candidates.values() if any(decision.applied for decision in each.decisions)]
    if not applied:
        candidates = {AS_IT_IS.name: next(iter(candidates.values()), Candidate(AS_IT_IS, model, model, []))}
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
    calls = {name: (lambda run=run: run(one)) for name, run in runs.items()}
    timed = interleave(calls, rounds=ROUNDS, seconds_per_turn=0.02, clock=THREAD_CLOCK, budget_s=SECONDS)
    times = {name: latency.median_us for name, latency in timed.items()}
    first, best = next(iter(times)), min(times, key=lambda name: times[name])
    margin = max(MARGIN, timed[first].noise + timed[best].noise)
    return (best if times[best] < times[first] * (1 - margin) else first), times


def _dropped(plan: str) -> Decision:
    return Decision("plan", plan, False, "it was dropped, for it changed the outputs")
