"""Further forms of the parts, for a machine that is not this one: what may be fastest there, each proven as the part.

The plans differ in speed from processor to processor, and the exporter's estimate for another is a guess. So every
distinct exact form of a part goes along, in float32 and, where int8 was asked for, in int8, if it passes the checks
that the part itself passed; `edgeae-runtime tune` times them where they run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from edgeae_runtime.bundle.golden_limits import CornerLimits
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.bundle.variants import MAX_VARIANTS
from edgeae_runtime.errors import EdgeAEError, gist
from edgeae_runtime.parity import Check, psnr

from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.compiler import Compiled, NothingInInt8Error, compile_plainly
from edgeae_export.corners import Corners, corner_checks, finite_on_corners, golden_corners, output_peaks, output_runs
from edgeae_export.graph.running import check_guarded, content_of, runner
from edgeae_export.int8_parts import references
from edgeae_export.parity import Int8Limits, check_parity, golden_limits
from edgeae_export.reference import PartSource, Reference
from edgeae_export.report import PartReport
from edgeae_export.rewrites.candidates import exact_candidates
from edgeae_export.rewrites.plans import FLOAT_PLANS, int8_plans
from edgeae_export.targets import Target

MAX_PSNR_DB = 200.0
"""What a PSNR without any difference is written as: JSON has no infinity."""
_OWN = {"encoder": ("latent", "log_variance", "reconstruction"), "decoder": ("image", "reconstruction")}
"""Which outputs a form of each part is held to."""


@dataclass(frozen=True)
class Form:
    """One further form of a part, which passed its checks."""

    name: str
    compiled: Compiled
    limits: Mapping[str, Mapping[str, float]]
    corners: CornerLimits
    psnr_db: float
    """Of the first output against torch."""


@dataclass(frozen=True)
class Request:
    """What the forms are made from, and held to."""

    sources: Mapping[str, PartSource]
    float32: Mapping[str, PartReport]
    """The parts as float32 graphs."""
    parts: Mapping[str, Compiled]
    """The parts as they ship, before their pixels are rounded."""
    in_int8: Mapping[str, Compiled]
    """The parts that hold their limits in int8."""
    calibration: Float32Array
    reference: Reference
    corners: Corners
    limits: Int8Limits
    rounding: float
    bounded: bool
    """Whether images lie in [0, 1]."""
    target: Target
    finished: Callable[[str, onnx.ModelProto], onnx.ModelProto]
    """Makes of a part's graph the one that ships, with its pixels rounded where that was asked for."""


@dataclass(frozen=True)
class Forms:
    """The further forms of all parts."""

    variants: dict[str, list[Form]]
    psnr_db: dict[str, float]
    """Of the parts themselves, measured alike."""
    notices: list[str]
    """What was left out, and why."""

    @property
    def bytes(self) -> int:
        """What they add to the bundle."""
        return sum(form.compiled.model.ByteSize() for forms in self.variants.values() for form in forms)

    @property
    def sentence(self) -> str:
        """How much they add, for the verdict; empty without any."""
        if not self.bytes:
            return ""
        count = sum(map(len, self.variants.values()))
        return (
            f"{count} variants add {self.bytes / 1000:.0f} kB, of which edgeae-runtime tune chooses on the device: "
            "copy the bundle without variants/ where space is short."
        )


NO_FORMS = Forms({}, {}, [])


def make_variants(request: Request, on_progress: Callable[[str], None]) -> Forms:
    """Every distinct form of each part that passes its checks.

    Args:
        request: see there.
        on_progress: told each stage.
    """
    some = references(request.reference, {name: part.compiled for name, part in request.float32.items()})[0]
    forms = Forms({name: [] for name in PARTS}, {}, [])
    for name in PARTS:
        on_progress(f"make and check the variants of the {name}")
        shipped = request.parts[name]
        forms.psnr_db[name] = _psnr(name, request.finished(name, shipped.model), some)
        seen = {content_of(shipped.model)}
        for compiled in _proposals(name, request, forms.notices):
            if content_of(compiled.model) in seen or len(forms.variants[name]) == MAX_VARIANTS:
                continue
            seen.add(content_of(compiled.model))
            form, why = _checked(name, compiled, request, some)
            if form is None:
                forms.notices.append(f"The variant {_name(compiled)} of the {name} is left out: {why}.")
            else:
                forms.variants[name].append(form)
    return forms


def _proposals(name: str, request: Request, notices: list[str]) -> Iterator[Compiled]:
    """The forms there could be, those in int8 first."""
    source, simplified = request.sources[name], request.float32[name].simplified
    best = request.in_int8.get(name)
    if best is not None and best.fitted is not None:
        yield best
        inputs = request.calibration
        if name == "decoder":
            inputs = in_large_batches(runner(request.float32["encoder"].simplified), inputs)
        candidates = exact_candidates(simplified, int8_plans(simplified), inputs, source.allowed, source.corners)
        for plan, each in candidates.items():
            if plan != best.plan:
                try:
                    yield compile_plainly(each, inputs, request.target, best.fitted.strength)
                except NothingInInt8Error:
                    continue
                except Exception as error:  # whatever one form does not stand, the bundle can do without
                    notices.append(f"The variant int8 {plan} of the {name} cannot be made ({gist(error)}).")
    candidates = exact_candidates(simplified, FLOAT_PLANS, source.inputs, source.allowed, source.corners)
    for plan, each in candidates.items():
        yield Compiled(each.graph, plan, each.decisions)


def _checked(name: str, compiled: Compiled, request: Request, some: Reference) -> tuple[Form | None, str]:
    """A form with its limits; or None, and why it fails the checks that the part passed."""
    model = request.finished(name, compiled.model)
    parts = {**request.parts, name: compiled}
    graphs = {part: request.finished(part, each.model) for part, each in parts.items()}
    precision = {part: each.precision for part, each in parts.items()}
    try:
        check_guarded(model.SerializeToString(), name)
        checks = _checks(graphs, {part: each.model for part, each in parts.items()}, precision, request, some)
    except EdgeAEError as error:
        return None, gist(error)
    failed = [
        each
        for each in checks
        if not each.passed and each.what.startswith((name, "round trip", "reconstruction", "numbers"))
    ]
    if failed:
        worst = failed[0]
        return None, f"{worst.what}, {worst.metric} {worst.measured:.4g}, limit {worst.limit:.4g}"
    runs, kinds = output_runs(graphs, precision)
    peaks = output_peaks(request.reference, request.bounded)
    shipped = golden_corners(request.corners, runs, kinds, request.rounding, peaks)
    own = _OWN[name]
    limits = golden_limits(precision, request.reference, request.rounding, request.limits)
    return Form(
        name=_name(compiled),
        compiled=replace(compiled, model=model),
        limits={output: each for output, each in limits.items() if output in own},
        corners={output: each for output, each in shipped.record.limits.items() if output in own} if shipped else {},
        psnr_db=_psnr(name, model, some),
    ), ""


def _checks(
    graphs: Mapping[str, onnx.ModelProto],
    unrounded: Mapping[str, onnx.ModelProto],
    precision: Mapping[str, str],
    request: Request,
    some: Reference,
) -> list[Check]:
    """The checks of an export, of these graphs."""
    encode, decode = runner(graphs["encoder"]), runner(graphs["decoder"])
    second = runner(graphs["encoder"], output=1) if some.log_variances is not None else None
    checks = check_parity(some, encode, decode, precision, request.rounding, second, request.limits)
    runs, kinds = output_runs(graphs, precision)
    peaks = output_peaks(request.reference, request.bounded)
    checks += corner_checks(request.corners, runs, kinds, request.rounding, peaks)
    decoded = in_large_batches(lambda images: decode(encode(images)), some.images)
    broken = int((~np.isfinite(decoded)).sum())
    return [*checks, finite_on_corners(request.corners, unrounded), Check("numbers not finite", "count", broken, 0)]


def _psnr(name: str, model: onnx.ModelProto, some: Reference) -> float:
    """Of a part's first output against torch, in dB."""
    run = runner(model)
    if name == "decoder":
        figure = psnr(some.decoded, in_large_batches(run, some.latents), some.image_peak)
    else:
        figure = psnr(some.latents, in_large_batches(run, some.images), float(np.ptp(some.latents)))
    return round(min(figure, MAX_PSNR_DB), 2)


def _name(compiled: Compiled) -> str:
    """As `int8-sub-pixel-by-rows`."""
    return f"{compiled.precision}-{re.sub('[^a-z0-9]+', '-', compiled.plan.lower()).strip('-')}"[:48]
