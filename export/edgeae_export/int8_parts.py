"""The parts in 8 bits: compiled, held to their limits, timed, and each left in float32 where int8 brings nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edgeae_runtime.errors import InputError, ParityError
from edgeae_runtime.parity import Check

from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.compiler import Compiled, NothingInInt8Error, compile_int8
from edgeae_export.graph.running import runner
from edgeae_export.holding import Held, Parts, hold, told_check
from edgeae_export.int8.fitting import affordable, spread
from edgeae_export.parity import Int8Limits, check_parity
from edgeae_export.reference import PartSource, Reference
from edgeae_export.report import PartReport
from edgeae_export.targets import Target
from edgeae_export.verdict import Comparison, compare_with_float

Mode = Literal["int8", "auto"]
"""`int8` wants the parts in 8 bits unless that brings nothing at all; `auto` the fastest form of each."""
CHECK_WORK, CHECK_VALUES, CHECK_INPUTS = 3e10, 6e8, (64, 2000)
"""Multiply-adds and activations of checking one part while layers are chosen, and fewest and most held-out inputs."""


@dataclass(frozen=True)
class Request:
    """What is wanted in int8, and what it may cost."""

    mode: Mode
    parts: Sequence[str]
    limits: Int8Limits
    by_user: bool
    """Whether the limits are those of `--max-drop`."""
    target: Target


@dataclass(frozen=True)
class Quantized:
    """The parts as they ship."""

    parts: dict[str, Compiled]
    comparisons: list[Comparison]
    """Of the parts in int8 with float32."""
    told: list[str]
    """Sentences for the verdict: layers that went back to float, and parts that stayed there."""
    in_int8: Mapping[str, Compiled] = field(default_factory=dict)
    """The parts that hold their limits in int8, whether they ship so or not."""


def quantize_parts(
    sources: Mapping[str, PartSource],
    float32: Mapping[str, PartReport],
    reference: Reference,
    calibration: Float32Array,
    request: Request,
    on_progress: Callable[[str], None],
) -> Quantized:
    """The wanted parts in int8; the decoder is calibrated on the latents the encoder gives for the same images.

    Args:
        sources: the torch side of each part.
        float32: the same parts as float32 graphs.
        reference: the torch side of the whole, on held-out inputs.
        calibration: the calibration images.
        request: what is wanted.
        on_progress: told each stage.

    Raises:
        InputError: in mode `int8`, nothing in a wanted part would run in int8, or `--max-drop` does not hold with any
            layer in it.
        ParityError: the same of the common limits.
    """
    simplified = {name: part.simplified for name, part in float32.items()}
    float_parts = {name: part.compiled for name, part in float32.items()}
    latents = in_large_batches(runner(simplified["encoder"]), calibration)
    inputs = {"encoder": calibration, "decoder": latents}
    compiled, told = dict(float_parts), []
    for name in request.parts:
        on_progress(f"quantise the {name} to int8, calibrated on {len(inputs[name])} inputs")
        try:
            compiled[name] = compile_int8(
                simplified[name], inputs[name], sources[name].allowed, request.target, sources[name].corners
            )
        except NothingInInt8Error as error:
            if request.mode == "int8":
                raise
            told.append(
                f"The {name} stays in float32: {str(error).split('. ')[0][:1].lower()}{str(error).split('. ')[0][1:]}."
            )
    on_progress("hold the limits of quality")
    held = Held(compiled, [], {})
    for some in references(reference, float_parts):  # few held-out inputs choose the layers, all have the last word
        checks = _checks(some, request.limits)
        held = held.followed_by(hold(held.parts, float_parts, checks, calibration, request.target))
    in_int8 = [name for name in request.parts if held.parts[name].fitted]
    if held.failed and not in_int8 and request.mode == "int8":
        raise _refusal(*next(iter(held.failed.items())), request)
    told += held.told
    told += [f"The {name} stays in float32: in int8, {told_check(check)}" for name, check in held.failed.items()]
    parts, comparisons = dict(held.parts), []
    if in_int8:
        on_progress("time int8 against float32")
    for name in in_int8:
        found = compare_with_float(name, simplified[name], float_parts[name].model, parts[name].model, inputs[name])
        why = reason_for_float(found, request)
        if why:
            parts[name] = float_parts[name]
            told.append(f"The {name} stays in float32: {why}")
        else:
            comparisons.append(found)
    return Quantized(parts, comparisons, told, {name: held.parts[name] for name in in_int8})


def reason_for_float(found: Comparison, request: Request) -> str:
    """Why a part that could be int8 is better left in float32; empty where it is not.

    Timed on this machine: in mode `int8`, where it would be really slower and its file no smaller; in mode `auto`,
    where it would not be really faster. For another machine, whose times are unknown: in mode `auto`, where the file
    would be no smaller.
    """
    speed, here = found.speed, request.target.here
    slower, faster = speed.real and speed.ratio < 1, speed.real and speed.ratio > 1
    smaller = found.exported_bytes < found.float_form_bytes
    size = f"its file would have {found.exported_bytes / 1000:.0f} kB instead of {found.float_form_bytes / 1000:.0f}"
    if here and slower and (request.mode == "auto" or not smaller):
        return f"int8 is {1 / speed.ratio:.2f}x slower here, and {size}"
    if here and request.mode == "auto" and not faster:
        return f"int8 is only as fast here, and {size}"
    if not here and request.mode == "auto" and not smaller:
        return f"for a machine that is not this one int8 is taken where files shrink, and {size}"
    return ""


def references(reference: Reference, float_parts: Parts) -> list[Reference]:
    """The torch side on as many of the held-out inputs as many checks can afford, and if that is not all, on all."""
    total = len(reference.images)
    few = min(
        len(affordable(part.rewritten, reference.images, CHECK_WORK, CHECK_VALUES, CHECK_INPUTS))
        for part in float_parts.values()
    )
    if few == total:
        return [reference]
    log_variances = reference.log_variances
    less = replace(
        reference,
        images=spread(reference.images, few),
        latents=spread(reference.latents, few),
        decoded=spread(reference.decoded, few),
        log_variances=None if log_variances is None else spread(log_variances, few),
    )
    return [less, reference]


def _checks(reference: Reference, limits: Int8Limits) -> Callable[[Parts], list[Check]]:
    """Parity of some parts with torch."""

    def checks(parts: Parts) -> list[Check]:
        encode, decode = runner(parts["encoder"].model), runner(parts["decoder"].model)
        second = None if reference.log_variances is None else runner(parts["encoder"].model, output=1)
        precision = {name: part.precision for name, part in parts.items()}
        return check_parity(reference, encode, decode, precision, 0.0, second, limits)

    return checks


def _refusal(name: str, check: Check, request: Request) -> InputError | ParityError:
    other = "decoder" if name == "encoder" else "encoder"
    message = (
        f"The limit of int8 does not hold while any layer of the {name} runs in int8: {told_check(check)}. Nothing was "
        f"written. Allow more with --max-drop, such as {_laxer(check)}, quantise the other part alone with "
        f"--quantize-part {other}, let --quantize auto choose, or export with --quantize none."
    )
    return InputError(message) if request.by_user else ParityError(message)


def _laxer(check: Check) -> str:
    """A limit that the check would have kept."""
    if check.metric == "psnr_db":
        return f"{max(int(check.measured) - 1, 1)}dB"
    return f"{100 * check.measured * 1.2:.0f}%"
