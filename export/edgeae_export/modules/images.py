"""Choosing real images for calibration, parity and the golden vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from edgeae_runtime.arrays import Float32Array, as_images
from edgeae_runtime.bundle.parts import TensorSpec
from edgeae_runtime.errors import InputError
from edgeae_runtime.parity import BATCH_SIZES
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

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
    calibration_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which of the given images `calibration` holds."""
    held_out_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The same of `held_out`; of the calibration images, where they were held out from these."""
    apart: bool = True
    """Whether the held-out images were given apart from the calibration images."""


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
    apart, first = held_out is not None, 0
    if calibration is not None and held_out is None:
        first = len(calibration) - min(max(len(calibration) // 10, 1), HELD_OUT_IMAGES)
        calibration, held_out = calibration[:first], calibration[first:]
    assert held_out is not None
    most = max(MOST_BYTES // (4 * math.prod(image_shape)), GOLDEN_IMAGES)
    chosen = calibration if calibration is not None else held_out[:0]
    rows = _rows(len(chosen), min(CALIBRATION_IMAGES, most))
    measured = _rows(len(held_out), min(HELD_OUT_IMAGES, most))
    return ExportImages(
        calibration=_pick(chosen, rows, spec) if len(chosen) else _pick(held_out, measured[:1], spec)[:0],
        held_out=at_least(_pick(held_out, measured, spec), GOLDEN_IMAGES),
        real=True,
        bounded=limits is not None,
        calibration_rows=rows,
        held_out_rows=at_least(measured + first, GOLDEN_IMAGES),
        apart=apart,
    )


def _rows(given: int, count: int) -> NDArray[np.int64]:
    """At most `count` of so many, evenly spread."""
    return np.linspace(0, given - 1, min(count, given)).astype(np.int64)


def _pick(images: NDArray[np.uint8] | Float32Array, rows: NDArray[np.int64], spec: TensorSpec) -> Float32Array:
    """Some images as float32: only these are ever converted."""
    batch, _ = as_images(images[rows], spec)
    return batch


def at_least(rows: NDArray[T], count: int) -> NDArray[T]:
    """Repeat rows until every batch size of the parity check can be filled."""
    return rows if len(rows) >= count else np.resize(rows, (count, *rows.shape[1:]))
