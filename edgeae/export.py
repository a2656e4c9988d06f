"""From a checkpoint on disk to what the exporter and the benchmark need: the model and its images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from edgeae_export import ExportReport, Int8, OwnModel
from edgeae_export import export as export_model
from edgeae_export.bundle.writer import check_target
from edgeae_export.graph.pixels import HALF_STEP
from edgeae_export.modules.images import HELD_OUT_IMAGES, choose_images
from edgeae_export.modules.own_model import INFERRED
from edgeae_export.options import EVERYWHERE
from edgeae_export.parity import Int8Limits, check_parity
from edgeae_export.reference import make_reference
from edgeae_runtime import Autoencoder
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.parity import Check, unit_scale
from numpy.typing import NDArray

from edgeae.benchmark import bench_variants
from edgeae.calibration import checkpoint_calibration, own_images
from edgeae.checkpoint import Checkpoint, load_checkpoint
from edgeae.data import PictureOptions, load_images, prepare
from edgeae.own_model.import_name import build_own_model


def export_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    quantize: str = "none",
    calibration: str | None = None,
    target: str = "host",
    int8: Int8 = EVERYWHERE,
    pixels: str = "float32",
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a checkpoint, calibrated on its own training set unless told otherwise, measured on its test set.

    Args:
        path: the checkpoint's folder.
        out: the bundle's folder.
        quantize: `"none"`, `"int8"` or `"auto"`.
        calibration: a data set's name, a folder of pictures, or a .npy or .npz file; None for the training set.
        target, int8, pixels: as `edgeae_export.export`.
        overwrite: whether an existing bundle may be replaced.
        on_progress: told the name of each stage when it begins.

    Raises:
        InputError, ParityError: as `edgeae_export.export`, or int8 needs the training set, and it cannot be had.
    """
    checkpoint = load_checkpoint(path)
    check_target(out, overwrite=overwrite)
    given = None if calibration is None else checkpoint_calibration(calibration, checkpoint)
    notices = [] if given is None else given.notices
    train_images: NDArray[np.uint8] | None = None
    test_images: NDArray[np.uint8] | None = None
    try:
        train_images, test_images = checkpoint_images(checkpoint)
    except (InputError, OSError) as error:
        if given is None and quantize != "none":
            raise InputError(f"{error} Or calibrate on other images: --calibration.") from error
        instead = "noise" if given is None else "a tenth of the images of --calibration"
        notices = [*notices, f"The images of {checkpoint.data_name} cannot be had: measured on {instead} instead."]
    report = export_model(
        checkpoint,
        out,
        quantize=quantize,
        calibration=train_images if given is None else given.calibration,
        held_out=test_images,
        target=target,
        int8=int8,
        pixels=pixels,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    return replace(report, notices=[*notices, *report.notices])


def export_own_model(
    name: str,
    out: str | Path,
    *,
    own_model: OwnModel = INFERRED,
    weights: Path | None = None,
    weights_key: str | None = None,
    trust_pickle: bool = False,
    quantize: str = "none",
    calibration: str | None = None,
    fit: str | None = None,
    target: str = "host",
    int8: Int8 = EVERYWHERE,
    pixels: str = "float32",
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a model of the user's own.

    Args:
        name: `package.module:attribute`, see `edgeae.own_model.import_name.build_own_model`.
        out: the bundle's folder.
        own_model: what its owner tells of it; the shape of an image is by default that of those in `calibration`.
        weights, weights_key, trust_pickle: as `build_own_model`.
        quantize: `"none"`, `"int8"` or `"auto"`.
        calibration: a folder of pictures, a .npy or .npz file, or a data set's name; a tenth of it is held out to
            measure parity on.
        fit: how pictures of another size are brought to the image's: `crop`, `pad` or `stretch`.
        target, int8, pixels, overwrite, on_progress: as `edgeae_export.export`.

    Raises:
        InputError, ParityError: as there, or the model or its weights cannot be had.
    """
    model, notices = build_own_model(name, weights, weights_key=weights_key, trust_pickle=trust_pickle)
    given = None if calibration is None else own_images(calibration, model, own_model.image_shape, fit)
    if given is not None:
        notices = [*notices, *given.notices]
        own_model = replace(own_model, image_shape=given.calibration.shape[1:])
    report = export_model(
        model,
        out,
        quantize=quantize,
        calibration=None if given is None else given.calibration,
        held_out=None if given is None else given.held_out,
        target=target,
        pixels=pixels,
        own_model=own_model,
        int8=int8,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    return replace(report, notices=[*notices, *report.notices])


def verify_against_torch(bundle: str | Path, checkpoint_path: str | Path, provider: str = "cpu") -> list[Check]:
    """Compare a bundle with the torch model of a checkpoint, on its test images.

    Raises:
        InputError: the checkpoint or its images cannot be had, or the bundle lacks one half.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    _, test_images = checkpoint_images(checkpoint)
    autoencoder = Autoencoder.load(bundle, provider)
    check_same_shape(autoencoder, checkpoint)
    images = choose_images(checkpoint.image_shape, None, test_images)
    reference = make_reference(checkpoint.encoder, checkpoint.decoder, images.held_out)
    precision = {name: part.precision for name, part in autoencoder.manifest.parts.items()}
    in_bytes = autoencoder.manifest.parts["decoder"].output.dtype == "uint8"
    decode = lambda latents: unit_scale(autoencoder.decode(latents))  # noqa: E731
    second = (lambda images: autoencoder.encode_distribution(images)[1]) if autoencoder.manifest.variational else None
    quantization = autoencoder.manifest.document.get("quantization") or {}
    limits = Int8Limits(**quantization.get("limits", {}))
    rounding = HALF_STEP if in_bytes else 0.0
    return check_parity(reference, autoencoder.encode, decode, precision, rounding, second, limits)


def bench_checkpoint(
    bundle: str | Path,
    checkpoint_path: str | Path,
    *,
    parts: Sequence[str] | None,
    batches: Sequence[int],
    threads: Sequence[int],
    provider: str,
    soak_seconds: float = 0.0,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time a bundle against the torch model it came from; the arguments are those of `bench_variants`."""
    checkpoint = load_checkpoint(checkpoint_path)
    _, test_images = checkpoint_images(checkpoint)
    check_same_shape(Autoencoder.load(bundle, provider), checkpoint)
    return bench_variants(
        bundle,
        checkpoint,
        test_images[:HELD_OUT_IMAGES],
        parts=parts,
        batches=batches,
        threads=threads,
        provider=provider,
        soak_seconds=soak_seconds,
        on_step=on_step,
    )


def checkpoint_images(checkpoint: Checkpoint) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The training and test images a checkpoint was made with, prepared: uint8 [n, channels, height, width].

    Where other images lie there now, or they are split in another way, a warning tells: images that the model was
    trained on may be among those that it is measured on.
    """
    resize = cast("dict[str, Any] | None", checkpoint.preprocessing.get("resize"))
    pictures = PictureOptions(resize["size"][0], resize["channels"], resize["fit"]) if resize else None
    data = load_images(checkpoint.data_name, pictures=pictures)
    if data.fingerprint != checkpoint.data_fingerprint:
        warnings.warn(
            f"The images of {shown(checkpoint.data_name)} are not those that {shown(checkpoint.path)} was trained on: "
            "some were added, changed or removed, or are split in another way. Figures measured on them may be of "
            "pictures seen in training. Bring the old ones back, or train again.",
            stacklevel=2,
        )
    size = checkpoint.config.image_size
    return prepare(data.train_images, size), prepare(data.test_images, size)


def check_same_shape(autoencoder: Autoencoder, checkpoint: Checkpoint) -> None:
    """Refuse to compare a bundle with a checkpoint of another shape.

    Raises:
        InputError: they differ, or the bundle lacks one half.
    """
    manifest = autoencoder.manifest
    found = (sorted(manifest.parts), manifest.image_shape, manifest.latent.dim)
    expected = (["decoder", "encoder"], checkpoint.image_shape, checkpoint.latent_dim)
    if found != expected:
        raise InputError(
            f"The bundle {autoencoder.path} (parts, image shape, latent size: {found}) was not exported from "
            f"{checkpoint.path} ({expected}). Give the checkpoint it came from, as --checkpoint."
        )
