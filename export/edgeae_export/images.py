"""Choosing real images for calibration, parity and the golden vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from edgeae_runtime.arrays import Float32Array, as_images
from edgeae_runtime.errors import InputError
from edgeae_runtime.manifest import TensorSpec
from edgeae_runtime.parity import BATCH_SIZES
from numpy.typing import NDArray

CALIBRATION_IMAGES = 1024
"""Enough that the ranges of these layers settle; more only takes longer."""
HELD_OUT_IMAGES = 2000
"""Images that parity is measured on; never used for calibration."""
MOST_BYTES = 128 << 20
"""Most memory that the calibration images may take as float32, and the held-out ones again; large images are fewer."""
GOLDEN_IMAGES = 16
"""Images whose torch outputs travel with the bundle: a few kilobytes, all of 1 + 2 + 3 + 7 batches."""


@dataclass(frozen=True)
class ExportImages:
    """The images an export works with, float32 [n, channels, height, width] in [0, 1]."""

    calibration: Float32Array
    held_out: Float32Array
    real: bool
    """Whether they are the user's images, and not noise."""
    bounded: bool = True
    """Whether their values lie in [0, 1]."""


def choose_images(
    image_shape: tuple[int, ...],
    calibration: NDArray[np.uint8] | Float32Array | None,
    held_out: NDArray[np.uint8] | Float32Array | None,
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> ExportImages:
    """Pick calibration and parity images, evenly spread over what is given.

    Without any images, seeded noise stands in: good enough to compare two float32 graphs, never for calibration.

    Args:
        image_shape: of one image, signal or row, as channels, height, width.
        limits: what the values must lie in; None for any finite numbers.
        calibration: uint8 or float [n, channels, height, width], or None.
        held_out: the same; None takes the last tenth of `calibration`, which is then not calibrated on.

    Raises:
        InputError: a wrong shape, dtype or range, NaN, or fewer than two images.
    """
    spec = TensorSpec("image", "float32", (None, *image_shape), limits)
    if calibration is None and held_out is None:
        noise = np.random.default_rng(0).random((2 * sum(BATCH_SIZES), *image_shape), dtype=np.float32)
        return ExportImages(noise[:0], noise, real=False, bounded=limits is not None)
    if calibration is not None and len(calibration) < 2:
        raise InputError(
            f"Got {len(calibration)} calibration images, expected at least two, and better some hundreds: ranges "
            "taken from less would fit nothing else."
        )
    if calibration is not None and held_out is None:
        split = len(calibration) - min(max(len(calibration) // 10, 1), HELD_OUT_IMAGES)
        calibration, held_out = calibration[:split], calibration[split:]
    assert held_out is not None
    most = max(MOST_BYTES // (4 * math.prod(image_shape)), GOLDEN_IMAGES)
    chosen = calibration if calibration is not None else held_out[:0]
    return ExportImages(
        calibration=_pick(chosen, min(CALIBRATION_IMAGES, most), spec) if len(chosen) else _pick(held_out, 1, spec)[:0],
        held_out=_at_least(_pick(held_out, min(HELD_OUT_IMAGES, most), spec), GOLDEN_IMAGES),
        real=True,
        bounded=limits is not None,
    )


def _pick(images: NDArray[np.uint8] | Float32Array, count: int, spec: TensorSpec) -> Float32Array:
    """At most `count` images, evenly spread, as float32: only these are ever converted."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    batch, _ = as_images(images[chosen], spec)
    return batch


def _at_least(images: Float32Array, count: int) -> Float32Array:
    """Repeat the images until every batch size of the parity check can be filled."""
    return images if len(images) >= count else np.resize(images, (count, *images.shape[1:]))
