"""From a checkpoint on disk, or a model of the user's own, to what the exporter needs: the model and its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from edgeae_export import ExportReport
from edgeae_export import export as export_model
from edgeae_export.bundle.writer import check_target
from edgeae_export.value_range import ValueRange
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.errors import InputError
from numpy.typing import NDArray

from edgeae.calibration import checkpoint_calibration, own_images
from edgeae.checkpoint import load_checkpoint
from edgeae.checkpoint_images import checkpoint_images
from edgeae.own_model.import_name import build_foreign


def export_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    quantize: str = "none",
    calibration: str | None = None,
    target: str = "host",
    quantize_parts: Sequence[str] = PARTS,
    max_drop: str | None = None,
    pixels: str = "float32",
    overwrite: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a checkpoint, calibrated on its own training set unless told otherwise, measured on its test set.

    Args:
        path: the checkpoint's folder.
        out: the bundle's folder.
        quantize: `"none"`, `"int8"` or `"auto"`.
        calibration: a data set's name, a folder of pictures, or a .npy or .npz file; None for the training set.
        target, quantize_parts, max_drop, pixels: as `edgeae_export.export`.
        overwrite: whether an existing bundle may be replaced.
        on_stage: told the name of each stage when it begins.

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
        quantize_parts=quantize_parts,
        max_drop=max_drop,
        pixels=pixels,
        overwrite=overwrite,
        on_stage=on_stage,
    )
    return replace(report, notices=[*notices, *report.notices])


def export_foreign(
    name: str,
    out: str | Path,
    *,
    weights: Path | None = None,
    weights_key: str | None = None,
    trust_pickle: bool = False,
    calibration: str | None = None,
    image_shape: Sequence[int] | None = None,
    fit: str | None = None,
    value_range: ValueRange | None = None,
    **options: Any,  # noqa: ANN401 those of `edgeae_export.export`
) -> ExportReport:
    """Export a model of the user's own.

    Args:
        name: `package.module:attribute`, see `edgeae.own_model.import_name.build_foreign`.
        out: the bundle's folder.
        weights, weights_key, trust_pickle: as there.
        calibration: a folder of pictures, a .npy or .npz file, or a data set's name; a tenth of it is held out to
            measure parity on.
        image_shape: of one image; by default that of the images in `calibration`.
        fit: how pictures of another size are brought to that: `crop`, `pad` or `stretch`.
        value_range: of the model's own images.
        options: as `edgeae_export.export`.

    Raises:
        InputError, ParityError: as there, or the model or its weights cannot be had.
    """
    model, told = build_foreign(name, weights, weights_key=weights_key, trust_pickle=trust_pickle)
    if calibration is None:
        report = export_model(model, out, image_shape=image_shape, value_range=value_range, **options)
        return replace(report, notices=[*told, *report.notices])
    given = own_images(calibration, model, image_shape, fit)
    report = export_model(
        model,
        out,
        calibration=given.calibration,
        held_out=given.held_out,
        image_shape=given.calibration.shape[1:],
        value_range=value_range,
        **options,
    )
    return replace(report, notices=[*told, *given.notices, *report.notices])
