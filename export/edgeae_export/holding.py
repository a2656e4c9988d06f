"""Holding the limits of int8: the layers that hurt most go back to float until every check passes.

How much a layer hurts is the error of the output when it alone runs in 8 bits, on calibration inputs; layers are taken
by that error per multiply-add, so that little speed is given up for much quality. In deep graphs neighbours are taken
together, so that the work is bounded. How many go back is decided by the checks themselves, by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.parity import Check, mse

from edgeae_export.arrays import Float32Array, Run, in_large_batches
from edgeae_export.compiler import Compiled, NothingInInt8Error, keep_in_float, with_layers_in_float
from edgeae_export.graph.editing import opened
from edgeae_export.graph.layer import layers_of
from edgeae_export.graph.running import runner
from edgeae_export.int8.fitting import affordable
from edgeae_export.targets import Target

TRIALS = 24
"""Most groups of neighbouring layers whose harm is measured, per part."""
TRIAL_WORK, TRIAL_VALUES, TRIAL_INPUTS = 5e9, 1e8, (4, 128)
"""Multiply-adds and activations of measuring one, in float but for that group, and its fewest and most inputs."""

Parts = Mapping[str, Compiled]
Checks = Callable[[Parts], list[Check]]


@dataclass(frozen=True)
class Held:
    """The parts as they hold the limits."""

    parts: dict[str, Compiled]
    told: list[str]
    """What it took, one sentence per check that int8 throughout failed."""
    failed: dict[str, Check]
    """The parts that do not hold with any layer in int8, and are in float32 now, each with the check that fails."""

    def followed_by(self, further: Held) -> Held:
        """This, and what a stricter look changed."""
        return Held(further.parts, self.told + further.told, self.failed | further.failed)


@dataclass(frozen=True)
class _Group:
    """Neighbouring layers of one part, which go back to float together."""

    part: str
    layers: frozenset[str]
    harm: float
    """Mean squared error of the output when these alone run in int8."""
    work: float
    """Their share of the part's multiply-adds."""


def hold(parts: Parts, float_parts: Parts, checks: Checks, images: Float32Array, target: Target) -> Held:
    """Leave int8 layers in float until the checks pass: those of each part alone first, then those of the round trip.

    Args:
        parts: `encoder` and `decoder`, at least one of them in int8.
        float_parts: the same in float32, for a part that cannot hold.
        checks: checks some parts against torch.
        images: calibration inputs.
        target: the machine.
    """
    held = Held(dict(parts), [], {})
    measured = checks(held.parts)
    for stage in (*PARTS, ""):
        failing = _failing(measured, stage)
        if failing:
            held = _hold_stage(held, stage, failing[0], float_parts, checks, images, target)
            measured = checks(held.parts)
    return held


def _hold_stage(
    held: Held, stage: str, check: Check, float_parts: Parts, checks: Checks, images: Float32Array, target: Target
) -> Held:
    names = [name for name in PARTS if name.startswith(stage) and held.parts[name].fitted]
    groups = [group for name in names for group in _groups(held.parts, name, stage, images, target)]
    by_gain = sorted(groups, key=lambda group: -group.harm / max(group.work, 1e-3))

    def without(some: Sequence[_Group]) -> dict[str, Compiled]:
        return {name: _without(held.parts, float_parts, name, some, target) for name in held.parts}

    def holds(some: Sequence[_Group]) -> bool:
        return not _failing(checks(without(some)), stage)

    taken = _fewest(by_gain, holds)
    # Of those, perhaps the most harmful suffice: what is cheap to give up may gain next to nothing.
    taken = _fewest(sorted(taken, key=lambda group: -group.harm), holds)
    done = without(taken)
    lost = {name: check for name in names if done[name].fitted is None}
    told = [_sentence(check, held.parts[name], name, taken) for name in names if name not in lost]
    return Held(done, held.told + [each for each in told if each], held.failed | lost)


def _failing(checks: Sequence[Check], stage: str) -> list[Check]:
    """The checks of int8 that fail; what fails in float32 is no matter of layers."""
    return [each for each in checks if not each.passed and each.metric != "max_abs" and each.what.startswith(stage)]


def _fewest(groups: Sequence[_Group], holds: Callable[[Sequence[_Group]], bool]) -> Sequence[_Group]:
    """The shortest beginning that holds, by bisection; all of them if none shorter does."""
    low, high = 0, len(groups)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(groups[:middle]) else (middle, high)
    return groups[:high]


def _without(parts: Parts, float_parts: Parts, name: str, groups: Sequence[_Group], target: Target) -> Compiled:
    """A part with some layers back in float; in float32 as a whole if no other layer would run in int8."""
    part = parts[name]
    layers = frozenset[str]().union(*(group.layers for group in groups if group.part == name))
    if not layers or part.fitted is None:
        return part
    already = frozenset(part.fitted.returned)
    try:
        return keep_in_float(part, layers | already, target)
    except NothingInInt8Error:
        return float_parts[name]


def _groups(parts: Parts, name: str, stage: str, images: Float32Array, target: Target) -> list[_Group]:
    """The int8 layers of a part, in groups of neighbours, with their harm and their work."""
    part = parts[name]
    assert part.fitted is not None
    int8 = set(part.fitted.sites.layers)
    work = {layer.name: layer.multiply_adds for layer in layers_of(opened(part.rewritten).graph)}
    total = max(sum(work.values()), 1)
    names = [name for name in work if name in int8]
    size = -(-len(names) // TRIALS)
    inputs, after = _measured_on(parts, name, stage, images)
    exact = _run(part.rewritten, after, inputs)
    groups = []
    for start in range(0, len(names), size):
        layers = frozenset(names[start : start + size])
        alone = with_layers_in_float(part.fitted, frozenset(int8) - layers | set(part.fitted.returned))
        harm = mse(exact, _run(alone.quantized(target), after, inputs)) if alone.sites.layers else 0.0
        groups.append(_Group(name, layers, harm, sum(work[layer] for layer in layers) / total))
    return groups


def _measured_on(parts: Parts, name: str, stage: str, images: Float32Array) -> tuple[Float32Array, Run | None]:
    """The inputs of a part to measure harm on, and what follows it: nothing, or the decoder for the round trip."""
    graph = parts[name].rewritten
    some = affordable(graph, images, TRIAL_WORK, TRIAL_VALUES, TRIAL_INPUTS)
    if name == "encoder":
        return some, None if stage else runner(parts["decoder"].rewritten)
    return in_large_batches(runner(parts["encoder"].rewritten), some), None


def _run(graph: onnx.ModelProto, after: Run | None, inputs: Float32Array) -> Float32Array:
    run = runner(graph)
    result = in_large_batches((lambda batch: after(run(batch))) if after else run, inputs)
    return np.asarray(result, np.float32)


def _sentence(check: Check, before: Compiled, name: str, taken: Sequence[_Group]) -> str:
    """What went back, for which figure, and at what price."""
    assert before.fitted is not None
    mine = [group for group in taken if group.part == name]
    layers = [layer for group in mine for layer in before.fitted.sites.layers if layer in group.layers]
    if not layers:
        return ""
    shown = ", ".join(layers[:4]) + (", …" if len(layers) > 4 else "")
    share = 100 * sum(group.work for group in mine)
    return (
        f"In int8 throughout, {told_check(check)}: so {len(layers)} of the {len(before.fitted.sites.layers)} int8 "
        f"layers of the {name} went back to float ({shown}), {share:.0f} % of its work"
    )


def told_check(check: Check) -> str:
    """A failed check in words."""
    if check.metric == "psnr_db":
        return f"{check.what} had {check.measured:.2f} dB PSNR of {check.limit:g} dB"
    where = f" ({check.where})" if check.where else ""
    return f"{check.what} rose by {100 * check.measured:.2f} % of {100 * check.limit:g} % allowed{where}"
