"""How far outputs are from the torch model's, and whether that is within a limit.

Used twice with the same words: at export, against torch itself, and on a device, against the golden vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import ParityError

BATCH_SIZES = (1, 2, 3, 7)
"""Batches that parity is checked with: a frozen batch axis, or one that is only ever a power of two, shows here."""


@dataclass(frozen=True)
class Check:
    """One measured figure with its limit."""

    what: str
    """What was compared, as `decoder image, batch 7`."""
    metric: str
    """`max_abs` (largest absolute difference), `psnr_db`, `error_rise` (relative), or `count`."""
    measured: float
    limit: float
    where: str = ""
    """The place of the worst element."""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its limit; never true for NaN."""
        if self.metric == "psnr_db":
            return self.measured >= self.limit
        return self.measured <= self.limit

    def as_document(self) -> dict[str, Any]:
        """The check as JSON; an infinite PSNR (no difference at all) becomes null."""
        return {
            "what": self.what,
            "metric": self.metric,
            "measured": self.measured if math.isfinite(self.measured) else None,
            "limit": self.limit,
            "passed": self.passed,
            "where": self.where,
        }


def require(checks: list[Check], advice: str) -> None:
    """Raise unless every check passed.

    Raises:
        ParityError: naming the first failed check and how many failed.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        first = failed[0]
        raise ParityError(
            f"Parity failed for {len(failed)} of {len(checks)} checks; the first: {first.what}, {first.metric} "
            f"{first.measured:.4g}, limit {first.limit:.4g}{', ' + first.where if first.where else ''}. {advice}"
        )


def compare(
    what: str,
    reference: NDArray[np.float32],
    measured: NDArray[np.float32],
    metric: str,
    limit: float,
    peak: float,
) -> Check:
    """Compare two arrays of one shape by `max_abs` or `psnr_db`.

    Args:
        what: the check's name.
        reference: the torch model's output.
        measured: the output under test.
        metric: `"max_abs"` or `"psnr_db"`.
        limit: the largest difference, or the smallest PSNR, that passes.
        peak: the width of the values' range, for the PSNR: 1 for images in [0, 1].
    """
    place = worst_element(reference, measured)
    figure = max_abs(reference, measured) if metric == "max_abs" else psnr(reference, measured, peak)
    return Check(what, metric, figure, limit, place)


def compare_each(
    what: str,
    names: Sequence[str],
    reference: NDArray[np.float32],
    measured: NDArray[np.float32],
    metric: str,
    limits: Sequence[float] | NDArray[np.float64],
    peak: float,
) -> Check:
    """Compare row by row, each with a limit of its own, and give the row that is nearest to its limit or furthest over.

    Args:
        what: the check's name.
        names: what each row is called, [n].
        reference: the torch model's outputs, [n, …], n at least one.
        measured: the outputs under test.
        metric: `"max_abs"` or `"psnr_db"`; the latter as in `psnr_each`.
        limits: the largest difference, or the smallest PSNR, that passes, [n].
        peak: as in `psnr_each`.
    """
    if reference.shape != measured.shape:
        return compare(what, reference, measured, metric, float(limits[0]), max(peak, 1e-30))
    limits = np.asarray(limits, np.float64)
    if metric == "psnr_db":
        figures = psnr_each(reference, measured, peak)
        excess = limits - figures
    else:
        figures = np.array([max_abs(*pair) for pair in zip(reference, measured, strict=True)])
        excess = figures / np.maximum(limits, np.finfo(np.float64).tiny)
    worst = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    place = f"{names[worst]}, {worst_element(reference[worst], measured[worst])}"
    return Check(what, metric, float(figures[worst]), float(limits[worst]), place)


def psnr_each(reference: NDArray[Any], measured: NDArray[Any], peak: float) -> NDArray[np.float64]:
    """The PSNR of each row, [n]; the peak is the row's own largest value where that is above the given one."""
    rows = zip(reference, measured, strict=True)
    return np.array([psnr(one, other, max(peak, float(np.abs(one).max()), 1e-30)) for one, other in rows])


def in_batches(run: Callable[[NDArray[np.float32]], NDArray[Any]], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the inputs in batches of 1, 2, 3, 7, 1, … and join the outputs, pixels as float: every row in its place."""
    outputs, start, turn = [], 0, 0
    while start < len(inputs):
        size = BATCH_SIZES[turn % len(BATCH_SIZES)]
        outputs.append(unit_scale(run(inputs[start : start + size])))
        start, turn = start + size, turn + 1
    return np.concatenate(outputs)


def max_abs(reference: NDArray[Any], measured: NDArray[Any]) -> float:
    """Largest absolute difference; NaN where either holds NaN, infinite where the shapes differ."""
    if reference.shape != measured.shape:
        return math.inf
    return float(np.max(np.abs(reference.astype(np.float64) - measured)))


def mse(reference: NDArray[Any], measured: NDArray[Any]) -> float:
    """Mean squared error, computed in float64; infinite where the shapes differ."""
    if reference.shape != measured.shape:
        return math.inf
    return float(np.mean(np.square(reference.astype(np.float64) - measured)))


def psnr(reference: NDArray[Any], measured: NDArray[Any], peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, `10 log10(peak² / mse)`; infinite for equal arrays, NaN passes through.

    A reference of one value everywhere has no width to be its peak: then its largest absolute value is, or if it is
    zero, nothing is near enough, and the ratio is minus infinity.
    """
    error = mse(reference, measured)
    if error == 0:
        return math.inf
    peak = peak or float(np.abs(reference).max(initial=0))
    if not peak:
        return -math.inf
    return 10 * math.log10(peak * peak / error) if math.isfinite(error) else -math.inf if error > 0 else math.nan


def unit_scale(images: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 pixels as float32 in [0, 1]; floating point images as they are."""
    return np.divide(images, 255, dtype=np.float32) if images.dtype == np.uint8 else images


def worst_element(reference: NDArray[Any], measured: NDArray[Any]) -> str:
    """Where the two differ most, with both values."""
    if reference.shape != measured.shape:
        return f"shape {list(measured.shape)} instead of {list(reference.shape)}"
    difference = np.abs(reference.astype(np.float64) - measured)
    index = np.unravel_index(int(np.argmax(difference)), difference.shape)
    place = ", ".join(str(int(i)) for i in index)
    return f"at [{place}]: {float(measured[index]):.6g} for {float(reference[index]):.6g}"
