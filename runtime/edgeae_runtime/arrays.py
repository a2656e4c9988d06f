"""Checking the arrays a caller gives, without copying those that are already right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import InputError
from edgeae_runtime.manifest import TensorSpec

Float32Array = NDArray[np.float32]

_RANGE_SLACK = 1e-6  # resizing and arithmetic in float32 overshoot a bound by about one rounding error


def as_images(images: object, spec: TensorSpec) -> tuple[Float32Array, bool]:
    """Images as a batch the encoder takes, and whether a single image was given.

    Args:
        images: [n, channels, height, width], [channels, height, width], or for one channel [height, width].
            uint8 is divided by 255; floating point must lie in the input's range already.
        spec: the encoder's input.

    Returns:
        float32 [n, channels, height, width], C-contiguous: the caller's own memory where it already was all that.

    Raises:
        InputError: a wrong type, shape or dtype, a value outside the range, NaN, or no image at all.
    """
    channels, height, width = (int(n) for n in spec.shape[1:] if n is not None)
    array = _as_array(images, "images")
    given = array.shape
    single = array.ndim < 4
    if array.ndim == 2 and channels == 1:
        array = array[None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[1:] != (channels, height, width):
        alone = f" or [{height}, {width}]" if channels == 1 else ""
        raise InputError(
            f"Got images of shape {list(given)}, expected [n, {channels}, {height}, {width}], "
            f"[{channels}, {height}, {width}]{alone}. Resize or pad them to {height}x{width} first."
        )
    if array.dtype == np.uint8:
        return _not_empty(np.divide(array, np.float32(255), dtype=np.float32), "image"), single
    return _checked(array, spec, "image", "uint8 pixels in 0..255, or floating point"), single


def as_latents(latents: object, spec: TensorSpec) -> tuple[Float32Array, bool]:
    """Latents as a batch the decoder takes, and whether a single latent was given.

    Args:
        latents: floating point [n, latent_dim] or [latent_dim], finite.
        spec: the decoder's input.

    Raises:
        InputError: a wrong type, shape or dtype, NaN or infinity, or no latent at all.
    """
    dim = spec.shape[1]
    array = _as_array(latents, "latents")
    single = array.ndim == 1
    if single:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != dim:
        raise InputError(f"Got latents of shape {list(array.shape)}, expected [n, {dim}] or [{dim}].")
    return _checked(array, spec, "latent", "floating point"), single


def _as_array(value: object, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        array = np.asarray(None)
    if array.dtype == object:
        raise InputError(f"Got {name} of type {type(value).__name__}, expected one numpy array of numbers.")
    return array


def _checked(array: NDArray[Any], spec: TensorSpec, name: str, expected: str) -> Float32Array:
    if array.dtype.kind != "f":
        raise InputError(f"Got {name}s of dtype {array.dtype}, expected {expected}. Convert them first.")
    _not_empty(array, name)
    if spec.range is None and math.isfinite(np.add.reduce(array, axis=None, dtype=np.float64)):
        return _contiguous(array)  # a finite sum has only finite terms; a sum that overflows is looked at below
    low, high = spec.range or (-np.inf, np.inf)
    # NaN passes through min and max and fails both comparisons.
    smallest, largest = float(array.min()), float(array.max())
    inside = low - _RANGE_SLACK <= smallest and largest <= high + _RANGE_SLACK
    if not inside or not (np.isfinite(smallest) and np.isfinite(largest)):
        wanted = "finite numbers" if spec.range is None else f"numbers from {low:g} to {high:g}"
        advice = " Divide 8-bit pixels by 255, or give them as uint8." if spec.range and largest > high else ""
        raise InputError(f"Got {name}s with values from {smallest:g} to {largest:g}, expected {wanted}.{advice}")
    return _contiguous(array)


def _contiguous(array: NDArray[Any]) -> Float32Array:
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, dtype=np.float32)


def _not_empty(array: NDArray[Any], name: str) -> NDArray[Any]:
    if len(array) == 0:
        raise InputError(f"Got an empty batch, expected at least one {name}.")
    return array
