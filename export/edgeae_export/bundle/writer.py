"""What a bundle holds, and whose place it may take."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgeae_runtime.bundle.golden_limits import limits_document
from edgeae_runtime.bundle.layers import Layer
from edgeae_runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_FILE, PLAIN_VERSION, Manifest, parse_manifest
from edgeae_runtime.bundle.parts import PIXEL_RANGE, LatentSpace, Layout, Part, Pixels, TensorSpec
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.bundle.reader import open_bundle
from edgeae_runtime.bundle.variants import VARIANTS_FOLDER, Variant
from edgeae_runtime.errors import BundleError, InputError, shown
from edgeae_runtime.files.documents import json_bytes
from edgeae_runtime.files.file_record import record_of
from edgeae_runtime.parity import Check
from onnx import ModelProto, TensorProto, ValueInfoProto

from edgeae_export.bundle.model_card import model_card
from edgeae_export.bundle.swap import check_writable, put_back, replace_folder
from edgeae_export.bundle.variants import Form
from edgeae_export.compiler import Compiled
from edgeae_export.corners import ShippedCorners
from edgeae_export.graph.executed import executed_layers
from edgeae_export.graph.running import (
    check_guarded,
    operator_counts,
    parameter_count,
    takes_channels_last,
    takes_pixels,
)
from edgeae_export.int8.fitting import Fitted
from edgeae_export.int8.signed_bytes import in_unsigned_bytes
from edgeae_export.modules.images import GOLDEN_IMAGES
from edgeae_export.parity import COMMON_LIMITS, Int8Limits, golden_limits
from edgeae_export.reference import Reference
from edgeae_export.targets import Target
from edgeae_export.value_range import ValueRange

_TOOLS = ("edgeae", "edgeae-runtime", "torch", "onnx", "onnxruntime", "onnxsim", "numpy")
_BESIDE = ("README.md", "tuning.json", VARIANTS_FOLDER, "model.sig", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What else lies in a bundle's folder: written by `export`, `tune` and `sign`, or by a file manager."""


@dataclass(frozen=True)
class BundleContents:
    """What goes into a bundle."""

    parts: Mapping[str, Compiled]
    reference: Reference
    checks: list[Check]
    quality: Mapping[str, float]
    target: Target
    calibration_images: int
    preprocessing: Preprocessing
    prior: str | None
    """`"normal"` where latents are drawn from N(0, 1), else None."""
    value_range: ValueRange
    """What the model's own images look like."""
    real_images: bool
    rounding: float
    """Most that the decoder's own rounding of its pixels changes them."""
    golden_corners: ShippedCorners | None = None
    """What travels with the bundle beside real images."""
    limits: Int8Limits = COMMON_LIMITS
    """What int8 was allowed to cost."""
    variants: Mapping[str, Sequence[Form]] = field(default_factory=dict)
    """Per part, its further forms."""
    psnr_db: Mapping[str, float] = field(default_factory=dict)
    """Per part, the PSNR that those of its variants compare with."""


def check_target(out: str | Path, *, overwrite: bool) -> None:
    """Refuse a target that must not or cannot be replaced, before any work is done.

    A bundle that an export left under a hidden name when it was killed is put back first.

    Raises:
        InputError: it is a file, a folder that is not a bundle or holds other files, a bundle without leave to
            overwrite it, or it cannot be written.
    """
    target = Path(out)
    put_back(target)
    if target.exists():
        if not target.is_dir():
            raise InputError(f"{target} is a file, expected a folder for the bundle. Choose another --out.")
        if any(target.iterdir()):
            _check_is_ours(target)
            if not overwrite:
                raise InputError(
                    f"There is a bundle at {target} already. Choose another --out, or replace it: --overwrite."
                )
    check_writable(target)


def _check_is_ours(target: Path) -> None:
    """Refuse a folder of which anything would be lost but a bundle."""
    alone = "so it is left alone. Choose another --out."
    if not (target / MANIFEST_FILE).is_file():
        raise InputError(f"The folder {target} is not empty and is not a bundle, {alone}")
    try:
        manifest = open_bundle(target).manifest
    except BundleError as error:
        raise InputError(f"The folder {target} is not a bundle, {alone} Its {MANIFEST_FILE}: {error}") from error
    ours = {MANIFEST_FILE, *_BESIDE, *(record.file for record in manifest.records)}
    strangers = sorted(
        path.name
        for path in target.iterdir()
        if (path.name not in ours and path.suffix != ".sig") or path.is_dir() != (path.name == VARIANTS_FOLDER)
    )
    if not strangers and (target / VARIANTS_FOLDER).is_dir():
        inside = (f"{VARIANTS_FOLDER}/{path.name}" for path in (target / VARIANTS_FOLDER).iterdir())
        strangers = sorted(name for name in inside if name not in ours and Path(name).name not in _BESIDE[-3:])
    if strangers:
        named = ", ".join(shown(name) for name in strangers[:5]) + (", …" if len(strangers) > 5 else "")
        raise InputError(f"The folder {target} holds what is not a bundle's ({named}), {alone}")


def write_bundle(contents: BundleContents, out: str | Path, *, overwrite: bool) -> Manifest:
    """Write the folder and return the manifest that a runtime will read.

    Raises:
        InputError: the target must not be replaced.
        OSError: the folder cannot be written; the target is as it was.
    """
    check_target(out, overwrite=overwrite)
    files = {f"{name}.onnx": part.model.SerializeToString() for name, part in contents.parts.items()}
    for name in contents.parts:
        check_guarded(files[f"{name}.onnx"], name)
        files |= {
            variant_file(name, form): form.compiled.model.SerializeToString()
            for form in contents.variants.get(name, ())
        }
    files["golden.npz"] = _golden_bytes(contents)
    document = _document(contents, files)
    files[MANIFEST_FILE] = json_bytes(document)
    manifest = parse_manifest(files[MANIFEST_FILE])
    files["README.md"] = model_card(document).encode()
    replace_folder(Path(out), files)
    return manifest


def _document(contents: BundleContents, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest as JSON. It holds no date: the same export gives the same bytes."""
    reference = contents.reference
    flat = reference.latents.reshape(len(reference.latents), -1)
    low, high = np.percentile(flat, (1, 99), axis=0).tolist() if contents.real_images else (None, None)
    latent = LatentSpace(tuple(reference.latents.shape[1:]), contents.prior, low, high)
    precision = {name: part.precision for name, part in contents.parts.items()}
    return {
        "format_version": _format_version(contents),
        "parts": {name: _part(name, part, files, contents) for name, part in contents.parts.items()},
        "golden": {
            **record_of("golden.npz", files["golden.npz"]).as_document(),
            **limits_document(
                golden_limits(precision, reference, contents.rounding, contents.limits),
                contents.golden_corners.record if contents.golden_corners else None,
            ),
        },
        "preprocessing": contents.preprocessing.as_document() | {"model_range": contents.value_range.as_document()},
        "latent": latent.as_document(),
        "target": contents.target.as_document(),
        "quantization": _quantization(contents),
        "quality": dict(contents.quality),
        "parity": {
            "noise_floor": dict(reference.noise),
            "images": len(reference.images),
            "checks": [check.as_document() for check in contents.checks],
        },
        "versions": {tool: importlib.metadata.version(tool) for tool in _TOOLS},
    }


def _format_version(contents: BundleContents) -> int:
    """The oldest that says everything, so that older runtimes read what they can run."""
    new = any(contents.variants.values()) or takes_pixels(contents.parts["encoder"].model)
    return FORMAT_VERSION if new else PLAIN_VERSION


def _part(name: str, part: Compiled, files: Mapping[str, bytes], contents: BundleContents) -> dict[str, Any]:
    graph = part.model
    forms = contents.variants.get(name, ())
    described = Part(
        record=record_of(f"{name}.onnx", files[f"{name}.onnx"]),
        precision=part.precision,
        opset=_opset(graph),
        ir_version=graph.ir_version,
        inputs=_tensors(graph.graph.input, contents, "nhwc" if takes_channels_last(graph) else "nchw"),
        outputs=_tensors(graph.graph.output, contents),
        layers=_layers(graph),
        variants=tuple(_variant(form, variant_file(name, form), files) for form in forms),
        psnr_db=contents.psnr_db.get(name),
    )
    document = described.as_document()
    for form, entry in zip(forms, document.get("variants", ()), strict=True):
        entry["plan"] = form.compiled.plan
    return {
        **document,
        "parameters": parameter_count(graph),
        "operators": operator_counts(graph),
        "plan": part.plan,
        "rewrites": [asdict(decision) for decision in part.decisions],
        "kept_in_float": dict(part.kept),
    }


def variant_file(part: str, form: Form) -> str:
    """Where a further form of a part lies in the bundle's folder."""
    return f"{VARIANTS_FOLDER}/{part}-{form.name}.onnx"


def _variant(form: Form, file: str, files: Mapping[str, bytes]) -> Variant:
    graph = form.compiled.model
    return Variant(
        name=form.name,
        record=record_of(file, files[file]),
        precision=form.compiled.precision,
        opset=_opset(graph),
        ir_version=graph.ir_version,
        layers=_layers(graph),
        limits=form.limits,
        corners=form.corners,
        psnr_db=form.psnr_db,
    )


def _opset(graph: ModelProto) -> int:
    return int(next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")))


def _layers(graph: ModelProto) -> tuple[Layer, ...]:
    executed = executed_layers(in_unsigned_bytes(graph))
    return tuple(Layer(layer.name, layer.op, layer.precision) for layer in executed)


def _quantization(contents: BundleContents) -> dict[str, Any] | None:
    """How the int8 parts were quantised; None when there are none."""
    if all(part.precision == "float32" for part in contents.parts.values()):
        return None
    return {
        "format": "QDQ",
        "activations": "int8, per tensor, but of encoders of uint8 pixels"
        if contents.target.signed
        else "uint8, per tensor",
        "weights": "int8, symmetric per channel" if contents.target.per_channel else "int8, asymmetric per tensor",
        "calibration_images": contents.calibration_images,
        "limits": asdict(contents.limits),
        "parts": {name: _fitted(part.fitted) for name, part in contents.parts.items() if part.fitted},
    }


def _fitted(fitted: Fitted) -> dict[str, Any]:
    return {
        "channels_equalized": fitted.strength,
        "biases_corrected": bool(fitted.bias_shifts),
        "ranges": [
            {"activations": list(group), "low": low, "high": high} for group, (low, high) in fitted.ranges.items()
        ],
    }


def _golden_bytes(contents: BundleContents) -> bytes:
    """The arrays that the runtime's `bundle.GOLDEN_ARRAYS` and `CORNER_ARRAYS` name."""
    reference, count = contents.reference, GOLDEN_IMAGES
    buffer = io.BytesIO()
    arrays = {
        "image": reference.images[:count],
        "latent": reference.latents[:count],
        "decoded": reference.decoded[:count],
    }
    if reference.log_variances is not None:
        arrays["log_variance"] = reference.log_variances[:count]
    if contents.golden_corners:
        arrays |= contents.golden_corners.arrays()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _tensors(
    values: Iterable[ValueInfoProto], contents: BundleContents, layout: Layout = "nchw"
) -> tuple[TensorSpec, ...]:
    """Images are bound to [0, 1] unless they are signals or rows; latents may be any finite number."""
    reference = contents.reference
    ranges = {"image": (0.0, 1.0) if contents.value_range.bounded else None}
    dtypes: dict[int, Pixels] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
    latent = reference.latents.shape[1:]
    channels, *axes = reference.images.shape[1:]
    image = (channels, *axes) if layout == "nchw" else (*axes, channels)
    shapes = {"image": image, "latent": latent, "log_variance": latent}
    specs = []
    for value in values:
        dtype = dtypes[value.type.tensor_type.elem_type]
        limits = PIXEL_RANGE if dtype == "uint8" else ranges.get(value.name)
        specs.append(TensorSpec(value.name, dtype, (None, *shapes[value.name]), limits, layout))
    return tuple(specs)
