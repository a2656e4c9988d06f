"""Checking the arrays a caller gives, without copying those that are already right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import InputError
from edgeae_runtime.manifest import TensorSpec

Float32Array = NDArray[np.float32]

_UNIT = (0.0, 1.0)
_BITS_OF_ONE = int(np.float32(1).view(np.uint32))
_RANGE_SLACK = 1e-6  # resizing and arithmetic in float32 overshoot a bound by about one rounding error


def as_images(images: object, spec: TensorSpec) -> tuple[Float32Array, bool]:
    """Images as a batch the encoder takes, and whether a single image was given.

    Args:
        images: a batch [n, …] of the input's shape, or one image without the batch's axis, also without that of a
            single channel, as [height, width]. uint8 is divided by 255 where the input's range is [0, 1]; floating
            point must lie in the range already.
        spec: the encoder's input.

    Returns:
        float32 [n, …], C-contiguous: the caller's own memory where it already was all that.

    Raises:
        InputError: a wrong type, shape or dtype, a value outside the range, NaN, or no image at all.
    """
    shape = spec.shape[1:]
    array = _as_array(images, "images")
    single = array.ndim <= len(shape)
    if array.shape[1:] != shape:
        array = _one_image(array, shape)
    if array.dtype == np.uint8 and spec.range == _UNIT:
        return _not_empty(np.divide(array, np.float32(255), dtype=np.float32), "image"), single
    return _checked(array, spec, "image", "uint8 pixels in 0..255, or floating point"), single


def _one_image(array: NDArray[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """A single image as a batch of one."""
    if array.shape == shape:
        return array[None]
    if len(shape) > 1 and shape[0] == 1 and array.shape == shape[1:]:
        return array[None, None]
    sizes = ", ".join(map(str, shape))
    alone = f" or [{', '.join(map(str, shape[1:]))}]" if len(shape) > 1 and shape[0] == 1 else ""
    raise InputError(
        f"Got images of shape {list(array.shape)}, expected [n, {sizes}], [{sizes}]{alone}.{_way(array.shape, shape)}"
    )


def _way(found: tuple[int, ...], shape: tuple[int | None, ...]) -> str:
    """What to do about images of another shape, by what they look like."""
    if len(shape) > 1 and shape[0] == 1 and found[1:] == shape[1:]:
        return " Give them an axis of the channel: images[:, None]."
    if len(shape) > 1 and (*shape[1:], shape[0]) in (found, found[1:]):
        return f" Move their channels to the front: numpy.moveaxis(images, -1, -{len(shape)})."
    return f" Resize or pad them to {shape[1]}x{shape[2]} first." if len(shape) == 3 else ""


def as_latents(latents: object, spec: TensorSpec) -> tuple[Float32Array, bool]:
    """Latents as a batch the decoder takes, and whether a single latent was given.

    Args:
        latents: floating point [n, …] of the latent's shape, or one without the batch's axis; finite.
        spec: the decoder's input.

    Raises:
        InputError: a wrong type, shape or dtype, NaN or infinity, or no latent at all.
    """
    shape = spec.shape[1:]
    array = _as_array(latents, "latents")
    single = array.shape == shape
    if single:
        array = array[None]
    if array.shape[1:] != shape or array.ndim == 0:
        sizes = ", ".join(map(str, shape))
        raise InputError(f"Got latents of shape {list(array.shape)}, expected [n, {sizes}] or [{sizes}].")
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
        raise InputError(f"Got {name}s of dtype {array.dtype}, expected {expected}. {_conversion(array, spec.range)}")
    _not_empty(array, name)
    if spec.range == _UNIT and array.dtype == np.float32 and _within_unit(array):
        return _contiguous(array)
    if spec.range is None and math.isfinite(np.add.reduce(array, axis=None, dtype=np.float64)):
        return _contiguous(array)  # a finite sum has only finite terms; a sum that overflows is looked at below
    low, high = spec.range or (-np.inf, np.inf)
    # NaN passes through min and max and fails both comparisons.
    smallest, largest = float(array.min()), float(array.max())
    inside = low - _RANGE_SLACK <= smallest and largest <= high + _RANGE_SLACK
    if not inside or not (math.isfinite(smallest) and math.isfinite(largest)):
        wanted = "finite numbers" if spec.range is None else f"numbers from {low:g} to {high:g}"
        raise InputError(
            f"Got {name}s with values from {smallest:g} to {largest:g}, expected {wanted}."
            f"{_advice(smallest, largest, spec.range)}"
        )
    return _contiguous(array)


def _conversion(array: NDArray[Any], limits: tuple[float, float] | None) -> str:
    """What to do about numbers that are neither uint8 nor floating point."""
    if array.dtype.kind not in "iu" or limits != _UNIT or array.size == 0 or array.min() < 0:
        return "Convert them first."
    if array.max() <= np.iinfo(np.uint8).max:
        return "Save them as uint8 if white is 255, else divide them by what white is."
    return "Divide them by what white is, such as 65535 for 16 bits."


def _advice(smallest: float, largest: float, limits: tuple[float, float] | None) -> str:
    """What to do about values outside the range: by what they look like."""
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        return " Find the others with numpy.isfinite, and leave those rows out."
    if limits != _UNIT:
        return ""
    if smallest >= 0:
        return " Divide 8-bit pixels by 255, or give them as uint8."
    return " Undo the normalisation first: a bundle takes [0, 1], whatever range its model was trained on."


def _within_unit(array: Float32Array) -> bool:
    """Whether all numbers lie in [0, 1], in one pass: the bits of positive floats, read as integers, sort as the floats
    do, and those of negative numbers, infinity and NaN lie above those of 1. (-0 lies above too, and is checked again.)
    """
    return int(np.maximum.reduce(array.view(np.uint32), axis=None)) <= _BITS_OF_ONE


def _contiguous(array: NDArray[Any]) -> Float32Array:
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, dtype=np.float32)


def _not_empty(array: NDArray[Any], name: str) -> NDArray[Any]:
    if len(array) == 0:
        raise InputError(f"Got an empty batch, expected at least one {name}.")
    return array
