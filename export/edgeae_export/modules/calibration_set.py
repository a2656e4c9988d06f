"""What is wrong with a set of calibration inputs: told before ranges are taken from it.

A range is taken from what the inputs show. One broken signal, ten times as large as the others, makes all ranges ten
times too wide (measured: 2 of 300 signals, 53.8 to 35.9 dB); a set that shows less than the model will see makes them
too narrow (black pictures alone: "59.6 dB" on themselves, 17.6 on real ones). The figures of quality are as blind as
the ranges where they are measured on the same inputs, so such sets are told, and broken inputs are left out of both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from edgeae_runtime.errors import InputError
from numpy.typing import NDArray

from edgeae_export.arrays import Float32Array
from edgeae_export.modules.images import GOLDEN_IMAGES, ExportImages, at_least

RARE = 0.05
"""Largest share of inputs that may be glitches; what is more frequent is how the data are."""
FACTOR, GAP = 3.0, 2.0
"""A glitch is so many times as large as 95 % of the inputs, and as the largest that is no glitch: between natural
inputs of long tails there is no such gap."""
HALF_PIXEL_STEP = 0.5 / 255
"""Inputs that differ by less than this, of their whole range, are the same."""
ALIKE = 0.1
"""Largest difference of any element from the median input's, of the whole range, up to which an input is nearly that
one. Nine in ten of 200 copies of one picture with noise of two 8-bit steps stay below 0.04, sneakers of Fashion-MNIST
reach 0.9."""
DIFFERENT = 16
"""Fewest different inputs among many: less were repeated to look like a set."""
SPAN = 0.5
"""Least share of [0, 1] that pictures should reach over."""
BEYOND = 1.25
"""How wide the held-out inputs may reach, in widths of the calibration inputs' range."""


def glitches(inputs: Float32Array) -> NDArray[np.bool_]:
    """Which inputs are out of all proportion to the others, by the largest magnitude of each around the median.

    Args:
        inputs: float32 [n, …].
    """
    count = len(inputs)
    few = int(max(RARE * count, 1)) if count >= 8 else 0
    flat = np.abs(inputs.reshape(count, -1) - np.median(inputs))
    size = flat.max(axis=1) if count else np.zeros(0)
    order = np.argsort(size)
    broken = np.zeros(count, bool)
    if not few:
        return broken
    usual = size[order[count - 1 - few]]
    for index in range(count - few, count):
        if size[order[index]] > FACTOR * usual and size[order[index]] > GAP * size[order[index - 1]]:
            broken[order[index:]] = True
            break
    return broken


def without_glitches(images: ExportImages) -> tuple[ExportImages, list[str]]:
    """The inputs without glitches, and a notice that names those left out. Pictures in [0, 1] have none."""
    if images.bounded or not images.real:
        return images, []
    both = np.concatenate([images.calibration, images.held_out])
    broken = glitches(both)
    if not broken.any():
        return images, []
    here, there = broken[: len(images.calibration)], broken[len(images.calibration) :]
    kept, measured = images.calibration[~here], images.held_out[~there]
    rows = {
        "calibration inputs": images.calibration_rows[here],
        ("held-out inputs" if images.apart else "inputs held out"): np.unique(images.held_out_rows[there]),
    }
    named = " and ".join(f"{len(found)} {what} ({_listed(found)})" for what, found in rows.items() if len(found))
    usual, largest = (float(np.abs(some).max()) for some in (both[~broken], both[broken]))
    notice = (
        f"{named} look like glitches: values up to {largest:.4g}, the others' up to {usual:.4g}. Ranges and figures "
        "are taken without them. Mend or remove them; if such values are real, give more inputs that have them."
    )
    return (
        replace(
            images,
            calibration=kept,
            held_out=at_least(measured, GOLDEN_IMAGES),
            calibration_rows=images.calibration_rows[~here],
            held_out_rows=at_least(images.held_out_rows[~there], GOLDEN_IMAGES),
        ),
        [notice],
    )


def remarks(images: ExportImages) -> list[str]:
    """What ranges taken from the calibration inputs will miss; usually nothing.

    Raises:
        InputError: all inputs are the same.
    """
    inputs = images.calibration
    noun = "images" if images.bounded else "inputs"
    channels = inputs.reshape(len(inputs), inputs.shape[1], -1)
    width = np.ones(inputs.shape[1]) if images.bounded else np.ptp(channels, axis=(0, 2))
    if (np.ptp(channels, axis=0) <= HALF_PIXEL_STEP * width[:, None]).all():
        more = not images.apart and np.allclose(images.held_out, inputs[0], atol=HALF_PIXEL_STEP * float(width.max()))
        given = len(inputs) + (len(np.unique(images.held_out_rows)) if more else 0)
        raise InputError(
            f"Got {given} identical {noun} for the calibration of int8, expected varied ones: ranges taken from "
            "one would fit nothing else. Give some hundreds of real ones, as the model was trained on, or export with "
            "--quantize none."
        )
    told = [_alike(channels, width), _narrow(images)]
    return [f"The calibration {noun} {what} Ranges of int8 may fit nothing else." for what in told if what]


def _alike(channels: Float32Array, width: NDArray[np.floating]) -> str:
    """How inputs [n, channels, elements] are less varied than they look, in units of each channel's width."""
    count = len(channels)
    different = len(np.unique(channels.reshape(count, -1), axis=0))
    if different < min(DIFFERENT, count):
        return f"are {count}, but only {different} of them are different. Give some hundreds of different ones."
    scaled = channels / np.where(width > 0, width, np.inf)[:, None]
    distance = np.abs(scaled - np.median(scaled, axis=0)).max(axis=(1, 2))
    if np.percentile(distance, 90) < ALIKE:
        return (
            f"are nearly the same: in nine of ten no value is {100 * ALIKE:g} % of the range away from that of the "
            "middle one. Give varied ones."
        )
    if channels.shape[2] > 1 and np.percentile(np.ptp(scaled, axis=2).max(axis=1), 90) <= 2 * HALF_PIXEL_STEP:
        return "are of one value each: nine in ten have no structure at all. Give real ones."
    return ""


def _narrow(images: ExportImages) -> str:
    """What range nine in ten inputs stay within, where that is much less than it could be."""
    low, high = _reach(images.calibration)
    if images.bounded and high - low < SPAN:
        return f"lie between {low:.2g} and {high:.2g} of [0, 1], nine in ten. Give some that reach further."
    held_low, held_high = _reach(images.held_out)
    if images.apart and held_high - held_low > BEYOND * (high - low):
        return (
            f"lie between {low:.4g} and {high:.4g}, nine in ten, the held-out ones between {held_low:.4g} and "
            f"{held_high:.4g}. Give some that reach as far."
        )
    return ""


def _reach(inputs: Float32Array) -> tuple[float, float]:
    flat = inputs.reshape(len(inputs), -1)
    return float(np.percentile(flat.min(axis=1), 10)), float(np.percentile(flat.max(axis=1), 90))


def _listed(rows: NDArray[np.int64]) -> str:
    shown = ", ".join(str(int(row)) for row in rows[:8])
    return f"number {shown}{', …' if len(rows) > 8 else ''}"
