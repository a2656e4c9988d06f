"""Parity of exported graphs with the torch modules they came from.

For float32 the limit is measured, not chosen: the noise floor of a module is the largest difference between its own
float32 and float64 outputs on the same inputs, or what random rounding does where it has no float64 (`noise.py`).
Another float32 implementation sums in another order and may be off by as much on its own side, and its worst element
may lie elsewhere; hence the factor below. For int8 the limits are fidelity: PSNR against the float32 torch outputs, and
how much the reconstruction error against the real images may rise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from edgeae_runtime.files.documents import MAX_FIGURE, Entries
from edgeae_runtime.parity import BATCH_SIZES, Check, compare, mse, psnr

from edgeae_export.arrays import Float32Array, Run, in_large_batches
from edgeae_export.modules.noise import NOISE_FACTOR
from edgeae_export.reference import Reference

INT8_PSNR_DB = 30.0
"""Smallest PSNR of an int8 output against float32 torch over the held-out set."""

INT8_ERROR_RISE = 0.05
"""Largest relative rise of the mean squared reconstruction error by int8, over the held-out set."""

TRANSPARENT_PSNR_DB = 42.1
"""From this PSNR of the reconstructions against float32 on, a rise of their error does not count: the difference is two
steps of an 8-bit pixel, root mean square (20 log10(255 / 2) dB), which nobody sees; only a near-lossless model has an
own error so small that this adds to it."""

FEW_IMAGES_ALLOWANCE_DB = 6.0
"""A batch of one to seven images may have four times the mean squared error of the whole set (10 log10 4 = 6 dB)."""


@dataclass(frozen=True)
class Int8Limits:
    """What int8 may cost, over the held-out set."""

    part_psnr_db: float = INT8_PSNR_DB
    """Smallest PSNR of each part's outputs, on the same inputs, against float32 torch."""
    round_trip_psnr_db: float = INT8_PSNR_DB
    """The same of the reconstructions."""
    error_rise: float | None = INT8_ERROR_RISE
    """Largest relative rise of the reconstruction error; None for any."""

    @classmethod
    def of(cls, entries: Entries) -> Int8Limits:
        """What a manifest says of them; where it says nothing, the common ones."""
        any_rise = "error_rise" in entries.document and "error_rise" not in entries
        return cls(
            part_psnr_db=entries.number("part_psnr_db", MAX_FIGURE, INT8_PSNR_DB),
            round_trip_psnr_db=entries.number("round_trip_psnr_db", MAX_FIGURE, INT8_PSNR_DB),
            error_rise=None if any_rise else entries.number("error_rise", MAX_FIGURE, INT8_ERROR_RISE),
        )


COMMON_LIMITS = Int8Limits()
"""What holds unless `--max-drop` says otherwise."""


def check_parity(
    reference: Reference,
    encode: Run,
    decode: Run,
    precision: Mapping[str, str],
    rounding: float = 0.0,
    encode_log_variance: Run | None = None,
    limits: Int8Limits = COMMON_LIMITS,
) -> list[Check]:
    """Check the encoder, the decoder and the round trip in batches of 1, 2, 3 and 7, and int8 on the whole set too.

    Args:
        reference: the torch side.
        encode: the encoder's graph as a function.
        decode: the decoder's graph as a function.
        precision: `float32` or `int8` of `encoder` and `decoder`.
        rounding: most that the decoder's own rounding of its pixels changes them.
        encode_log_variance: the encoder's graph as a function to its second output, where there is one.
        limits: of int8.

    Returns:
        The checks, in the order to print them.
    """
    both = "int8" if "int8" in precision.values() else "float32"
    outputs = [
        ("encoder latent", "latent", reference.images, encode, reference.latents, precision["encoder"]),
        ("decoder image", "image", reference.latents, decode, reference.decoded, precision["decoder"]),
        ("round trip", "reconstruction", reference.images, _chain(encode, decode), reference.decoded, both),
    ]
    if encode_log_variance is not None and reference.log_variances is not None:
        title, expected = "encoder log-variance", reference.log_variances
        outputs.append((title, "log_variance", reference.images, encode_log_variance, expected, precision["encoder"]))
    checks = []
    for title, key, inputs, run, expected, kind in outputs:
        encoded = key in ("latent", "log_variance")
        metric, limit = limit_on_few(kind, reference.noise[key], 0.0 if encoded else rounding, limits)
        peak = float(np.ptp(expected)) if encoded else reference.image_peak
        start = 0
        for size in BATCH_SIZES:
            rows_now = slice(start, start + size)
            name = f"{title}, batch {size}"
            checks.append(compare(name, expected[rows_now], run(inputs[rows_now]), metric, limit, peak))
            start += size
        if kind == "int8":
            name = f"{title}, {len(inputs)} held out"
            least = limits.round_trip_psnr_db if key == "reconstruction" else limits.part_psnr_db
            checks.append(compare(name, expected, in_large_batches(run, inputs), "psnr_db", least, peak))
    if both == "int8" and limits.error_rise is not None:
        measured = in_large_batches(_chain(encode, decode), reference.images)
        checks.append(_error_rise(reference, measured, limits.error_rise))
    return checks


def limit_on_few(
    precision: str, noise: float, rounding: float = 0.0, limits: Int8Limits = COMMON_LIMITS
) -> tuple[str, float]:
    """The metric and its limit for a handful of images: of a part or the round trip that are quite wrong, so that a
    limit stricter than the common one makes no difference."""
    if precision == "int8":
        return "psnr_db", min(limits.part_psnr_db, INT8_PSNR_DB) - FEW_IMAGES_ALLOWANCE_DB
    return "max_abs", NOISE_FACTOR * noise + rounding


def golden_limits(
    precision: Mapping[str, str], reference: Reference, rounding: float, limits: Int8Limits
) -> dict[str, dict[str, float]]:
    """Per output of `encoder` and `decoder` in these precisions, the metric and its limit on the golden vectors."""
    both = "int8" if "int8" in precision.values() else "float32"
    kinds = {"latent": precision["encoder"], "image": precision["decoder"], "reconstruction": both}
    if reference.log_variances is not None:
        kinds["log_variance"] = precision["encoder"]
    pixels = {"image": rounding, "reconstruction": rounding}
    return {
        output: dict([limit_on_few(kind, reference.noise[output], pixels.get(output, 0.0), limits)])
        for output, kind in kinds.items()
    }


def reconstruction_rise(images: Float32Array, reference: Float32Array, measured: Float32Array) -> float:
    """How much larger the mean squared error against the real images is than the torch model's, relatively."""
    before = mse(images, reference)
    return mse(images, measured) / before - 1 if before > 0 else math.inf


def _error_rise(reference: Reference, measured: Float32Array, limit: float) -> Check:
    """The rise of the error, or where that is too large but cannot be seen, the PSNR that says so."""
    rise = reconstruction_rise(reference.images, reference.decoded, measured)
    fidelity = psnr(reference.decoded, measured, reference.image_peak)
    what = f"reconstruction error, {len(measured)} held out"
    if rise > limit and fidelity >= TRANSPARENT_PSNR_DB:
        why = f"error {100 * rise:+.1f} %, but less than two steps of an 8-bit pixel"
        return Check(what, "psnr_db", fidelity, TRANSPARENT_PSNR_DB, why)
    where = f"at {fidelity:.1f} dB against float32; from {TRANSPARENT_PSNR_DB} dB on any rise may be"
    return Check(what, "error_rise", rise, limit, where if rise > limit else "")


def _chain(encode: Run, decode: Run) -> Run:
    return lambda images: decode(encode(images))
