"""The way of the data, from torch modules to a bundle, in one readable function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from edgeae_runtime.errors import InputError
from edgeae_runtime.manifest import PARTS, Manifest
from edgeae_runtime.parity import BATCH_SIZES, Check, mse, psnr, require
from numpy.typing import NDArray
from torch import nn

from edgeae_export.adapters import adapt, known_shape
from edgeae_export.bundle import BundleContents, check_target, write_bundle
from edgeae_export.compiler import Compiled, compile_float32, compile_int8
from edgeae_export.dtypes import told_of_precisions
from edgeae_export.graph import Float32Array, operator_counts, runner
from edgeae_export.halves import Half
from edgeae_export.images import ExportImages, choose_images
from edgeae_export.max_drop import MaxDrop, hold_limit
from edgeae_export.parity import (
    NOISE_FACTOR,
    Reference,
    check_parity,
    in_large_batches,
    make_reference,
    reconstruction_rise,
)
from edgeae_export.pixels import HALF_STEP, PIXELS, emit_uint8
from edgeae_export.plans import AS_IT_IS
from edgeae_export.simplify import SimplifyReport, simplify
from edgeae_export.targets import Target, choose_target
from edgeae_export.trace import trace
from edgeae_export.value_range import ValueRange
from edgeae_export.verdict import Comparison, compare_with_float, verdict

QUANTIZE = ("none", "int8")
MAX_PSNR_DB = 200.0
"""What a PSNR without any difference is written as: JSON has no infinity."""


class ExportableAutoencoder(Protocol):
    """An autoencoder that brings its own shapes; `edgeae.load_checkpoint` returns one."""

    @property
    def encoder(self) -> nn.Module:
        """Eval mode; float32 [batch, channels, height, width] in [0, 1] -> the latent, or its mean and log-variance."""

    @property
    def decoder(self) -> nn.Module:
        """Eval mode; the latent -> [batch, channels, height, width] in [0, 1]."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""

    @property
    def preprocessing(self) -> Mapping[str, object]:
        """How a picture becomes an image: `source_size`, `pad` and `scale`, as in the manifest."""


@dataclass(frozen=True)
class PartReport:
    """What the export did to one part."""

    simplification: SimplifyReport
    simplified: onnx.ModelProto
    """The plain float32 graph, before any rewrite."""
    compiled: Compiled

    @property
    def model(self) -> onnx.ModelProto:
        """The exported graph."""
        return self.compiled.model

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(self.model.ByteSize())

    @property
    def operators(self) -> dict[str, int]:
        """How many nodes of each operator the exported graph has."""
        return operator_counts(self.model)


@dataclass(frozen=True)
class ExportReport:
    """A finished export."""

    path: Path
    parts: dict[str, PartReport]
    checks: list[Check]
    manifest: Manifest
    comparisons: list[Comparison]
    """The int8 parts against float32, on this machine; empty for a float32 export."""
    verdict: str
    """One sentence on size, speed and quality; empty for a float32 export."""
    notices: list[str]
    """What the user should know about the model that was given; usually empty."""


def export(
    model: ExportableAutoencoder | nn.Module | tuple[nn.Module, nn.Module],
    out: str | Path,
    *,
    quantize: str = "none",
    calibration: NDArray[np.uint8] | Float32Array | None = None,
    held_out: NDArray[np.uint8] | Float32Array | None = None,
    target: str = "host",
    quantize_parts: Sequence[str] = PARTS,
    max_drop: str | None = None,
    pixels: str = "float32",
    image_shape: Sequence[int] | None = None,
    encoder: Half = None,
    decoder: Half = None,
    outputs: Sequence[str] | None = None,
    encoder_arguments: Mapping[str, Any] | None = None,
    decoder_arguments: Mapping[str, Any] | None = None,
    value_range: ValueRange | None = None,
    rewrites: bool = True,
    overwrite: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export an autoencoder as a bundle; it is written only if it computes what torch does.

    Args:
        model: a torch module with encode and decode methods or encoder and decoder submodules, a pair of modules, or
            an object that also brings its shapes. Eval mode; it is copied, not changed.
        out: the bundle's folder.
        quantize: `"none"` or `"int8"`.
        calibration: real training images, uint8 or float in [0, 1], [n, channels, height, width]; required for int8.
            Signals and rows are floating point, [n, …], of any finite values.
        held_out: real images that training did not see, to measure parity on.
        target: the machine to compile for, one of `TARGETS`. `host` is this one, with candidates timed; any other gives
            the same bytes every time.
        quantize_parts: the parts that `int8` applies to.
        max_drop: what int8 may cost, as `"45dB"` (PSNR of the reconstructions against float32) or `"0.05%"` (rise of
            the reconstruction error); the layers that hurt most stay in float until it holds.
        pixels: what the decoder gives, `"float32"` in [0, 1] or `"uint8"`.
        image_shape, encoder, decoder, outputs, encoder_arguments, decoder_arguments: see
            `edgeae_export.adapters.adapt`.
        value_range: what the model's own images look like, where that is not [0, 1]: the bundle's are.
        rewrites: False leaves the float32 graphs as torch and onnxsim make them, to compare with.
        overwrite: whether an existing bundle at `out` may be replaced.
        on_stage: told the name of each stage when it begins.

    Raises:
        InputError: an argument cannot be used; a half cannot be found, is random or in training mode; torch cannot
            trace it, or freezes its batch; or nothing would run in int8.
        ParityError: an exported graph does not compute what torch does; nothing was written.
    """
    tell = on_stage or (lambda stage: None)
    machine = choose_target(target)
    _check_arguments(quantize, calibration, quantize_parts, pixels, rewrites)
    limit = MaxDrop.parse(max_drop) if max_drop is not None else None
    check_target(out, overwrite=overwrite)
    shape = known_shape(model, image_shape, calibration if held_out is None else held_out)
    value_range = value_range or ValueRange.default(shape)
    images = choose_images(shape, calibration, held_out, (0.0, 1.0) if value_range.bounded else None)
    adapted = adapt(
        model,
        images.held_out if images.real else None,
        image_shape=shape,
        encoder=encoder,
        decoder=decoder,
        outputs=outputs,
        encoder_arguments=encoder_arguments,
        decoder_arguments=decoder_arguments,
        value_range=value_range,
    )
    if pixels == "uint8" and not value_range.bounded:
        raise InputError("Got pixels='uint8' for a model of signals or rows, expected one of pictures in [0, 1].")

    tell("measure torch's own noise floor")
    modules = {"encoder": adapted.encoder, "decoder": adapted.decoder}
    reference = make_reference(
        modules["encoder"], modules["decoder"], images.held_out, 1.0 if value_range.bounded else None
    )
    names = {"encoder": ("image", ["latent"]), "decoder": ("latent", ["image"])}
    if reference.log_variances is not None:
        names["encoder"][1].append("log_variance")
    inputs = {"encoder": reference.images, "decoder": reference.latents}
    noise = {
        "encoder": max(reference.noise["latent"], reference.noise.get("log_variance", 0.0)),
        "decoder": reference.noise["image"],
    }

    parts: dict[str, PartReport] = {}
    for name in PARTS:
        tell(f"trace and simplify the {name}")
        example = torch.from_numpy(inputs[name][: BATCH_SIZES[-1]])
        with told_of_precisions(name, modules[name], example):
            traced = trace(modules[name], example, *names[name])
        simplified, simplification = simplify(traced, inputs[name][:13], noise[name])
        float32 = Compiled(simplified, AS_IT_IS.name, [])
        if rewrites:
            tell(f"rewrite the {name} for {machine.name}")
            float32 = compile_float32(simplified, inputs[name], NOISE_FACTOR * noise[name], machine)
        parts[name] = PartReport(simplification, simplified, float32)
    float_parts = parts
    if quantize == "int8":
        parts = _quantized(parts, quantize_parts, images, noise, machine, limit, tell)
    rounding = 0.0
    if pixels == "uint8":
        part, rounding = parts["decoder"], HALF_STEP
        compiled = replace(part.compiled, model=emit_uint8(part.model))
        parts["decoder"] = replace(part, compiled=compiled)

    tell("check parity with torch")
    graphs = {name: part.model for name, part in parts.items()}
    precision = {name: part.compiled.precision for name, part in parts.items()}
    checks, quality = _checked(reference, graphs, precision, rounding)
    require(checks, "Nothing was written. Look at the layer that differs, or export without --quantize.")

    tell("write the bundle")
    contents = BundleContents(
        parts={name: part.compiled for name, part in parts.items()},
        reference=reference,
        checks=checks,
        quality=quality,
        target=machine,
        calibration_images=len(images.calibration) if quantize == "int8" else 0,
        preprocessing={**adapted.preprocessing, "model_range": value_range.as_document()},
        prior=adapted.prior,
        bounded=value_range.bounded,
        real_images=images.real,
        rounding=rounding,
    )
    manifest = write_bundle(contents, out, overwrite=overwrite)
    comparisons: list[Comparison] = []
    if quantize == "int8":
        tell("time int8 against float32")
        comparisons = [
            compare_with_float(name, part.simplified, float_parts[name].model, part.model, inputs[name])
            for name, part in parts.items()
            if part.compiled.precision == "int8"
        ]
    sentence = verdict(comparisons, quality) if comparisons else ""
    notices = [*adapted.notices, *reference.notices]
    return ExportReport(Path(out), parts, checks, manifest, comparisons, sentence, notices)


def _quantized(
    parts: dict[str, PartReport],
    wanted: Sequence[str],
    images: ExportImages,
    noise: Mapping[str, float],
    machine: Target,
    limit: MaxDrop | None,
    tell: Callable[[str], None],
) -> dict[str, PartReport]:
    """The wanted parts in int8; the decoder is calibrated on the latents the encoder gives for the same images."""
    encode = runner(parts["encoder"].simplified)
    inputs = {"encoder": images.calibration, "decoder": in_large_batches(encode, images.calibration)}
    compiled = {name: part.compiled for name, part in parts.items()}
    for name in wanted:
        tell(f"quantise the {name} to int8, calibrated on {len(inputs[name])} images")
        compiled[name] = compile_int8(parts[name].simplified, inputs[name], NOISE_FACTOR * noise[name], machine)
    if limit is not None:
        tell("leave layers in float until --max-drop holds")
        peak = 1.0 if images.bounded else float(np.ptp(images.calibration))
        compiled = hold_limit(compiled, limit, images.calibration, machine, peak)
    return {name: replace(part, compiled=compiled[name]) for name, part in parts.items()}


def _checked(
    reference: Reference, graphs: Mapping[str, onnx.ModelProto], precision: Mapping[str, str], rounding: float
) -> tuple[list[Check], dict[str, float]]:
    """The checks, and the figures of quality that the bundle quotes."""
    encode, decode = runner(graphs["encoder"]), runner(graphs["decoder"])
    second = runner(graphs["encoder"], output=1) if reference.log_variances is not None else None
    checks = check_parity(reference, encode, decode, precision, rounding, second)
    decoded = in_large_batches(lambda images: decode(encode(images)), reference.images)
    latents = in_large_batches(encode, reference.images)
    spread = float(np.mean(np.ptp(reference.latents, axis=0)))
    return checks, {
        "decoder_psnr_db": min(
            psnr(reference.decoded, in_large_batches(decode, reference.latents), reference.image_peak), MAX_PSNR_DB
        ),
        "latent_error": float(np.mean(np.abs(latents - reference.latents))) / max(spread, 1e-12),
        "reconstruction_mse_torch": mse(reference.images, reference.decoded),
        "reconstruction_mse": mse(reference.images, decoded),
        "reconstruction_error_rise": reconstruction_rise(reference.images, reference.decoded, decoded),
        "decoder_error_rise": reconstruction_rise(
            reference.images, reference.decoded, in_large_batches(decode, reference.latents)
        ),
    }


def _check_arguments(quantize: str, calibration: object, parts: Sequence[str], pixels: str, rewrites: bool) -> None:
    if quantize == "int8" and not rewrites:
        raise InputError("Got rewrites=False with int8, expected float32: most layers have no int8 kernel as they are.")
    if pixels not in PIXELS:
        raise InputError(f"Got pixels={pixels!r}, expected one of {', '.join(PIXELS)}.")
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise InputError(f"Got parts {list(parts)} to quantise, expected some of {', '.join(PARTS)}.")
    if quantize not in QUANTIZE:
        raise InputError(f"Got quantize={quantize!r}, expected one of {', '.join(QUANTIZE)}.")
    if quantize == "int8" and calibration is None:
        raise InputError(
            "int8 needs calibration images and got none. Give real images, as calibration=images in Python or "
            "--calibration on the command line: ranges calibrated on noise would be wrong."
        )
