"""The way of the data, from torch modules to a bundle, in one readable function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import onnx
import torch
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.bundle.parts import LAYOUTS, PIXELS, Layout, Pixels
from edgeae_runtime.errors import InputError
from edgeae_runtime.parity import Check, mse, psnr, require
from numpy.typing import NDArray
from torch import nn

from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.bundle.variants import MAX_PSNR_DB, NO_FORMS, make_variants
from edgeae_export.bundle.variants import Request as FormsRequest
from edgeae_export.bundle.writer import BundleContents, check_target, write_bundle
from edgeae_export.compiler import Compiled, compile_float32
from edgeae_export.corners import (
    corner_checks,
    finite_on_corners,
    golden_corners,
    output_peaks,
    output_runs,
    torch_corners,
)
from edgeae_export.graph.pixels import HALF_STEP, emit_uint8, rounded_to_pixels, take_channels_last, take_uint8
from edgeae_export.graph.running import check_guarded, runner
from edgeae_export.graph.simplify import simplify
from edgeae_export.graph.trace import trace
from edgeae_export.int8.signed_bytes import in_signed_bytes
from edgeae_export.int8_parts import Mode, Quantized, Request
from edgeae_export.int8_parts import quantize_parts as compile_in_int8
from edgeae_export.modules.adapter import adapt, known_shape
from edgeae_export.modules.calibration_set import remarks, without_glitches
from edgeae_export.modules.dtypes import told_of_precisions
from edgeae_export.modules.images import choose_images
from edgeae_export.modules.own_model import INFERRED, OwnModel
from edgeae_export.modules.soundness import refuse_broken_outputs, refuse_broken_weights, refuse_neighbours
from edgeae_export.options import EVERYWHERE, Int8
from edgeae_export.parity import Int8Limits, check_parity, reconstruction_rise
from edgeae_export.reference import PartSource, Reference, make_reference, part_sources
from edgeae_export.report import ExportReport, PartReport
from edgeae_export.rewrites.plans import AS_IT_IS
from edgeae_export.targets import Target, TargetName, choose_target
from edgeae_export.value_range import ValueRange
from edgeae_export.verdict import verdict

Quantize = Literal["none", Mode]
QUANTIZE: tuple[Quantize, ...] = ("none", *get_args(Mode))
Change = Callable[[onnx.ModelProto], onnx.ModelProto]
MAX_RISE = 1e6
"""The same of the rise of an error that was nothing."""


class ExportableAutoencoder(Protocol):
    """An autoencoder that brings its own shapes; `edgeae.load_checkpoint` returns one.

    It may also bring how its pictures were prepared, a `Preprocessing` as `preprocessing`.
    """

    @property
    def encoder(self) -> nn.Module:
        """Eval mode; float32 [batch, channels, height, width] in [0, 1] -> the latent, or its mean and log-variance."""

    @property
    def decoder(self) -> nn.Module:
        """Eval mode; the latent -> [batch, channels, height, width] in [0, 1]."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""


def export(
    model: ExportableAutoencoder | nn.Module | tuple[nn.Module, nn.Module],
    out: str | Path,
    *,
    quantize: Quantize = "none",
    calibration: NDArray[np.uint8] | Float32Array | None = None,
    held_out: NDArray[np.uint8] | Float32Array | None = None,
    target: TargetName = "host",
    pixels: Pixels = "float32",
    layout: Layout = "nchw",
    own_model: OwnModel = INFERRED,
    int8: Int8 = EVERYWHERE,
    rewrites: bool = True,
    variants: bool | None = None,
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export an autoencoder as a bundle; it is written only if it computes what torch does.

    Args:
        model: a torch module with encode and decode methods or encoder and decoder submodules, a pair of modules, or
            an object that also brings its shapes. Eval mode; it is copied, not changed.
        out: the bundle's folder.
        quantize: `"none"`; `"int8"`, but for a part that would be both slower here and no smaller; or `"auto"`, each
            part in the form that is fastest here and holds the limits, float32 included (for another target, int8 where
            it holds them and is smaller).
        calibration: real training images, uint8 or float in [0, 1], [n, channels, height, width]; required for int8.
            Signals and rows are floating point, [n, …], of any finite values.
        held_out: real images that training did not see, to measure parity on.
        target: the machine to compile for, one of `TARGETS`. `host` is this one, with candidates timed; any other gives
            the same bytes every time.
        pixels: what the encoder takes and the decoder gives, `"float32"` in [0, 1] or `"uint8"`; all images that the
            export works with are then rounded to pixels.
        layout: of the pixels that the encoder takes: `"nchw"`, or `"nhwc"` as cameras give them, with `"uint8"` alone.
        own_model: what the model's owner tells of it.
        int8: where 8 bits are wanted, and what they may cost.
        rewrites: False leaves the float32 graphs as torch and onnxsim make them, to compare with.
        variants: whether further forms of the parts go along, of which `tune` chooses on the device; by default where
            the target is not this machine.
        overwrite: whether an existing bundle at `out` may be replaced.
        on_progress: told the name of each stage when it begins.

    Raises:
        InputError: an argument cannot be used; a part cannot be found, is random or in training mode; torch cannot
            trace it, or freezes its batch; or nothing would run in int8.
        ParityError: an exported graph does not compute what torch does; nothing was written.
    """
    tell = on_progress or (lambda stage: None)
    machine = choose_target(target)
    _check_arguments(quantize, calibration, int8.parts, pixels, rewrites)
    _check_layout(layout, pixels)
    limits = int8.limits
    check_target(out, overwrite=overwrite)
    shape = known_shape(model, own_model.image_shape, calibration if held_out is None else held_out)
    value_range = own_model.value_range or ValueRange.default(shape)
    own_model = replace(own_model, image_shape=shape, value_range=value_range)
    refuse_broken_weights(model, own_model.encoder, own_model.decoder)
    if pixels == "uint8" and not value_range.bounded:
        raise InputError("Got pixels='uint8' for a model of signals or rows, expected one of pictures in [0, 1].")
    images = choose_images(shape, calibration, held_out, (0.0, 1.0) if value_range.bounded else None)
    if pixels == "uint8":
        calibration_pixels, held_out_pixels = map(rounded_to_pixels, (images.calibration, images.held_out))
        images = replace(images, calibration=calibration_pixels, held_out=held_out_pixels)
    notices: list[str] = []
    if quantize != "none":
        images, notices = without_glitches(images)
        notices += remarks(images)
    adapted = adapt(model, images.held_out if images.real else None, own_model)

    tell("measure torch's own noise floor")
    peak = 1.0 if value_range.bounded else None
    reference = make_reference(adapted.encoder, adapted.decoder, images.held_out, peak)
    sources = part_sources(adapted.encoder, adapted.decoder, reference)
    for source in sources.values():
        refuse_broken_outputs(source.name, source.module, source.inputs, source.outputs)
        refuse_neighbours(source.name, source.module, source.inputs, source.outputs, source.noise)
    corners = torch_corners(adapted.encoder, adapted.decoder, reference, value_range.bounded, pixels == "uint8")
    found = {"encoder": corners.images, "decoder": corners.latents}
    sources = {name: replace(source, corners=found[name]) for name, source in sources.items()}

    ends: dict[str, Change] = {"encoder": take_uint8} if pixels == "uint8" else {}
    parts = {
        name: _float32_part(source, machine if rewrites else None, tell, ends.get(name))
        for name, source in sources.items()
    }
    float32 = parts
    quantized = Quantized({name: part.compiled for name, part in parts.items()}, [], [])
    if quantize != "none":
        request = Request(quantize, int8.parts, limits, int8.max_drop is not None, machine)
        quantized = compile_in_int8(sources, parts, reference, images.calibration, request, tell)
        parts = {name: replace(part, compiled=quantized.parts[name]) for name, part in parts.items()}
    before = {name: part.compiled for name, part in parts.items()}
    rounding = HALF_STEP if pixels == "uint8" else 0.0

    def finished(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
        model = in_signed_bytes(model) if machine.signed else model
        if name == "encoder":
            return take_channels_last(model) if layout == "nhwc" else model
        return emit_uint8(model) if pixels == "uint8" else model

    parts = {
        name: replace(part, compiled=replace(part.compiled, model=finished(name, part.model)))
        for name, part in parts.items()
    }

    tell("check parity with torch")
    graphs = {name: part.model for name, part in parts.items()}
    precision = {name: part.compiled.precision for name, part in parts.items()}
    checks, quality = _checked(reference, graphs, precision, rounding, limits)
    runs, kinds = output_runs(graphs, precision)
    peaks = output_peaks(reference, value_range.bounded)
    unrounded = {name: compiled.model for name, compiled in before.items()}
    checks += [*corner_checks(corners, runs, kinds, rounding, peaks), finite_on_corners(corners, unrounded)]
    require(checks, _advice(precision))

    forms = NO_FORMS
    if rewrites and (variants if variants is not None else not machine.here):
        wanted = FormsRequest(
            sources=sources,
            float32=float32,
            parts=before,
            in_int8=quantized.in_int8,
            calibration=images.calibration,
            reference=reference,
            corners=corners,
            limits=limits,
            rounding=rounding,
            bounded=value_range.bounded,
            target=machine,
            finished=finished,
        )
        forms = make_variants(wanted, tell)

    tell("write the bundle")
    contents = BundleContents(
        parts={name: part.compiled for name, part in parts.items()},
        reference=reference,
        checks=checks,
        quality=quality,
        target=machine,
        calibration_images=len(images.calibration) if "int8" in precision.values() else 0,
        preprocessing=adapted.preprocessing,
        prior=adapted.prior,
        value_range=value_range,
        real_images=images.real,
        rounding=rounding,
        golden_corners=golden_corners(corners, runs, kinds, rounding, peaks),
        limits=limits,
        variants=forms.variants,
        psnr_db=forms.psnr_db,
    )
    manifest = write_bundle(contents, out, overwrite=overwrite)
    sentence = verdict(quantized.comparisons, quality, quantized.told) if quantize != "none" else ""
    sentence = " ".join(each for each in (sentence, forms.sentence) if each)
    notices = [*adapted.notices, *reference.notices, *([corners.notice] if corners.notice else []), *notices]
    notices += forms.notices
    return ExportReport(Path(out), parts, checks, manifest, quality, quantized.comparisons, sentence, notices)


def _float32_part(
    source: PartSource, machine: Target | None, tell: Callable[[str], None], change: Change | None
) -> PartReport:
    """One part as a float32 graph: traced, simplified, changed at its ends, and for a machine rewritten too."""
    tell(f"trace and simplify the {source.name}")
    example = torch.from_numpy(source.example)
    with told_of_precisions(source.name, source.module, example):
        traced = trace(source.module, example, source.input_name, source.output_names)
    simplified, simplification = simplify(traced, source.inputs, source.noise, source.corners)
    if change is not None:
        simplified = change(simplified)
    check_guarded(simplified.SerializeToString(), source.name)
    compiled = Compiled(simplified, AS_IT_IS.name, [])
    if machine is not None:
        tell(f"rewrite the {source.name} for {machine.name}")
        compiled = compile_float32(simplified, source.inputs, source.allowed, machine, source.corners)
    return PartReport(simplification, simplified, compiled)


def _advice(precision: Mapping[str, str]) -> str:
    if "int8" in precision.values():
        return "Nothing was written. Change what int8 may cost with --max-drop, or export with --quantize none."
    return "Nothing was written. Look at the layer that differs."


def _checked(
    reference: Reference,
    graphs: Mapping[str, onnx.ModelProto],
    precision: Mapping[str, str],
    rounding: float,
    limits: Int8Limits,
) -> tuple[list[Check], dict[str, float]]:
    """The checks, and the figures of quality that the bundle quotes."""
    encode, decode = runner(graphs["encoder"]), runner(graphs["decoder"])
    second = runner(graphs["encoder"], output=1) if reference.log_variances is not None else None
    checks = check_parity(reference, encode, decode, precision, rounding, second, limits)
    decoded = in_large_batches(lambda images: decode(encode(images)), reference.images)
    latents = in_large_batches(encode, reference.images)
    spread = float(np.mean(np.ptp(reference.latents, axis=0)))
    broken = sum(int((~np.isfinite(each)).sum()) for each in (latents, decoded))
    checks.append(Check(f"numbers not finite, {len(decoded)} held out", "count", broken, 0))
    return checks, {
        "decoder_psnr_db": min(
            psnr(reference.decoded, in_large_batches(decode, reference.latents), reference.image_peak), MAX_PSNR_DB
        ),
        "latent_error": float(np.mean(np.abs(latents - reference.latents))) / max(spread, 1e-12),
        "reconstruction_mse_torch": mse(reference.images, reference.decoded),
        "reconstruction_mse": mse(reference.images, decoded),
        "reconstruction_error_rise": min(reconstruction_rise(reference.images, reference.decoded, decoded), MAX_RISE),
        "decoder_error_rise": min(
            reconstruction_rise(reference.images, reference.decoded, in_large_batches(decode, reference.latents)),
            MAX_RISE,
        ),
    }


def _check_layout(layout: str, pixels: str) -> None:
    if layout not in LAYOUTS:
        raise InputError(f"Got layout={layout!r}, expected one of {', '.join(LAYOUTS)}.")
    if layout != "nchw" and pixels != "uint8":
        raise InputError(f"Got layout={layout!r} with float32 images, expected uint8 pixels: give pixels='uint8' too.")


def _check_arguments(quantize: str, calibration: object, parts: Sequence[str], pixels: str, rewrites: bool) -> None:
    if quantize != "none" and not rewrites:
        raise InputError("Got rewrites=False with int8, expected float32: most layers have no int8 kernel as they are.")
    if pixels not in PIXELS:
        raise InputError(f"Got pixels={pixels!r}, expected one of {', '.join(PIXELS)}.")
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise InputError(f"Got parts {list(parts)} to quantise, expected some of {', '.join(PARTS)}.")
    if quantize not in QUANTIZE:
        raise InputError(f"Got quantize={quantize!r}, expected one of {', '.join(QUANTIZE)}.")
    if quantize != "none" and calibration is None:
        raise InputError(
            "int8 needs calibration images and got none. Give real images, as calibration=images in Python or "
            "--calibration on the command line: ranges calibrated on noise would be wrong."
        )
