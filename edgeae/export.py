"""From a checkpoint on disk, or a model of the user's own, to what the exporter needs: the model and its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from edgeae_export import ExportReport, Int8, OwnModel
from edgeae_export import export as export_model
from edgeae_export.bundle.writer import check_target
from edgeae_export.modules.own_model import INFERRED
from edgeae_export.options import EVERYWHERE
from edgeae_export.pipeline import Quantize
from edgeae_export.targets import TargetName
from edgeae_runtime.bundle.parts import Layout, Pixels
from edgeae_runtime.bundle.preprocessing import Fit
from edgeae_runtime.errors import InputError
from numpy.typing import NDArray

from edgeae.calibration import checkpoint_calibration, own_images
from edgeae.checkpoint import load_checkpoint
from edgeae.checkpoint_images import checkpoint_images
from edgeae.own_model.import_name import build_own_model


def export_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    quantize: Quantize = "none",
    calibration: str | None = None,
    target: TargetName = "host",
    int8: Int8 = EVERYWHERE,
    pixels: Pixels = "float32",
    layout: Layout = "nchw",
    variants: bool | None = None,
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a checkpoint, calibrated on its own training set unless told otherwise, measured on its test set.

    Args:
        path: the checkpoint's folder.
        out: the bundle's folder.
        quantize: `"none"`, `"int8"` or `"auto"`.
        calibration: a data set's name, a folder of pictures, or a .npy or .npz file; None for the training set.
        target, int8, pixels, layout, variants: as `edgeae_export.export`.
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
        layout=layout,
        variants=variants,
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
    quantize: Quantize = "none",
    calibration: str | None = None,
    fit: Fit | None = None,
    target: TargetName = "host",
    int8: Int8 = EVERYWHERE,
    pixels: Pixels = "float32",
    layout: Layout = "nchw",
    variants: bool | None = None,
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
        target, int8, pixels, layout, variants, overwrite, on_progress: as `edgeae_export.export`.

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
        layout=layout,
        variants=variants,
        own_model=own_model,
        int8=int8,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    return replace(report, notices=[*notices, *report.notices])
