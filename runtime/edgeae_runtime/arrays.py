"""Checking the arrays a caller gives, without copying those that are already right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.bundle.parts import TensorSpec
from edgeae_runtime.errors import InputError, gist

Float32Array = NDArray[np.float32]

_UINT8, _FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)
_UNIT = (0.0, 1.0)
_FEW = 8192
"""Numbers up to which a dot product is the quicker check; of more than these, some libraries start threads for it."""
_BITS_OF_ONE = int(np.float32(1).view(np.uint32))
_RANGE_SLACK = 1e-6  # resizing and arithmetic in float32 overshoot a bound by about one rounding error


def as_images(images: object, spec: TensorSpec) -> tuple[Float32Array, bool]:
    """As `image_batch`, converted and checked as a whole.

    Returns:
        float32 [n, …], C-contiguous: the caller's own memory where it already was all that.

    Raises:
        InputError: as `image_batch` and `checked`.
    """
    batch, single = image_batch(images, spec)
    return checked(batch, spec, "image"), single


def image_batch(images: object, spec: TensorSpec) -> tuple[NDArray[Any], bool]:
    """Images as a batch whose values are still to be `checked`, and whether a single image was given.

    Args:
        images: a batch [n, …] of the input's shape, or one image without the batch's axis, also without that of a
            single channel, as [height, width]. Where the input's channels come last, they may come first, too. uint8 is
            divided by 255 where the input's range is [0, 1]; floating point must lie in the range already.
        spec: the encoder's input.

    Returns:
        [n, …] of the caller's dtype, in the caller's memory.

    Raises:
        InputError: a wrong type, shape or dtype, or no image at all.
    """
    shape = spec.shape[1:]
    array = as_array(images, "images")
    if spec.layout == "nhwc":
        array = _channels_last(array, shape)
    single = array.ndim <= len(shape)
    if array.shape[1:] != shape:
        array = _one_image(array, shape)
    if array.dtype.kind != "f" and (array.dtype != _UINT8 or _values(spec) != _UNIT):
        _refuse_kind(array, spec, "image", "uint8 pixels in 0..255, or floating point")
    return _not_empty(array, "image"), single


def _channels_last(array: NDArray[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Images whose channels come first, or that have no axis for a single one, as a view with the channels last."""
    first, axes = (shape[-1], *shape[:-1]), len(shape)
    if array.shape[-axes:] != shape and array.shape[-axes:] == first:
        return np.moveaxis(array, -axes, -1)
    return array[..., None] if first[0] == 1 and array.shape == first[1:] else array


def channels_first(batch: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """A batch in the graph's own order as a view with the channels first."""
    return batch if spec.layout == "nchw" else np.moveaxis(batch, -1, 1)


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
    """As `latent_batch`, converted and checked as a whole.

    Raises:
        InputError: as `latent_batch` and `checked`.
    """
    batch, single = latent_batch(latents, spec)
    return checked(batch, spec, "latent"), single


def latent_batch(latents: object, spec: TensorSpec) -> tuple[NDArray[Any], bool]:
    """Latents as a batch whose values are still to be `checked`, and whether a single latent was given.

    Args:
        latents: floating point [n, …] of the latent's shape, or one without the batch's axis.
        spec: the decoder's input.

    Raises:
        InputError: a wrong type, shape or dtype, or no latent at all.
    """
    shape = spec.shape[1:]
    array = as_array(latents, "latents")
    single = array.shape == shape
    if single:
        array = array[None]
    if array.shape[1:] != shape or array.ndim == 0:
        sizes = ", ".join(map(str, shape))
        raise InputError(f"Got latents of shape {list(array.shape)}, expected [n, {sizes}] or [{sizes}].")
    if array.dtype.kind != "f":
        _refuse_kind(array, spec, "latent", "floating point")
    return _not_empty(array, "latent"), single


def checked(batch: NDArray[Any], spec: TensorSpec, name: str) -> NDArray[Any]:
    """What the graph gets: `batch`, or a chunk of one, of the input's dtype in C order, with each value in its range.

    Where the input is uint8 pixels, these go to it as they are, without a copy if they lie in C order; floating point
    images in [0, 1] are rounded to the nearest pixel. Values are looked at after the conversion to float32: what is
    finite in float64 may not be so there.

    Raises:
        InputError: a value outside the range, NaN, or what float32 cannot hold.
    """
    if spec.dtype == "uint8":
        return np.ascontiguousarray(batch) if batch.dtype == _UINT8 else to_pixels(_checked_floats(batch, _UNIT, name))
    if batch.dtype == _UINT8:
        scaled: Float32Array = np.divide(batch, np.float32(255), dtype=np.float32, order="C")
        return scaled
    return _checked_floats(batch, spec.range, name)


def _checked_floats(batch: NDArray[Any], limits: tuple[float, float] | None, name: str) -> Float32Array:
    array = batch
    if batch.dtype != _FLOAT32 or not batch.flags.c_contiguous:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            array = np.ascontiguousarray(batch, dtype=np.float32)
    if limits is None:
        # A finite sum of squares or of numbers has only finite terms; where it overflows, each is looked at.
        if array.size <= _FEW and math.isfinite(np.vdot(array, array)):
            return array
        with np.errstate(invalid="ignore"):  # infinity less infinity
            total = np.add.reduce(array, axis=None, dtype=np.float64)
        if math.isfinite(total):
            return array
    elif limits == _UNIT and _within_unit(array):
        return array
    low, high = limits or (-np.inf, np.inf)
    # NaN passes through min and max and fails both comparisons.
    smallest, largest = float(array.min()), float(array.max())
    inside = low - _RANGE_SLACK <= smallest and largest <= high + _RANGE_SLACK
    if not inside or not (math.isfinite(smallest) and math.isfinite(largest)):
        raise _outside(float(batch.min()), float(batch.max()), limits, name)
    return array


def to_pixels(images: Float32Array) -> NDArray[np.uint8]:
    """Floating point images in [0, 1] as uint8 0..255, each number rounded to the nearest, halves to even."""
    pixels: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * np.float32(255)).astype(np.uint8, order="C")
    return pixels


def _outside(smallest: float, largest: float, limits: tuple[float, float] | None, name: str) -> InputError:
    """The refusal of values as they were given, before their conversion."""
    wanted = "finite numbers" if limits is None else f"numbers from {limits[0]:g} to {limits[1]:g}"
    if limits is None and math.isfinite(smallest) and math.isfinite(largest):
        wanted = f"numbers that float32 can hold, up to {np.finfo(np.float32).max:.3g} in size"
    return InputError(
        f"Got {name}s with values from {smallest:g} to {largest:g}, expected {wanted}."
        f"{_advice(smallest, largest, limits)}"
    )


def random_input(generator: np.random.Generator, spec: TensorSpec, count: int) -> NDArray[Any]:
    """So many inputs of the kind that a graph takes, to time it with: [0, 1) or any pixels."""
    shape = (count, *(size for size in spec.shape[1:] if size is not None))
    if spec.dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.random(shape, dtype=np.float32)


def owned(value: object) -> NDArray[Any]:
    """A copy of the numbers, which whoever gave them may now change.

    Raises:
        InputError: they are no array of numbers.
    """
    array = as_array(value, "a batch")
    return array if isinstance(value, (list, tuple)) else array.copy()


def as_array(value: object, name: str) -> NDArray[Any]:
    """What the caller gave as an array of whatever numbers it holds.

    Raises:
        InputError: it is no array of numbers, or one with gaps.
    """
    if type(value) is np.ndarray and value.dtype.kind != "O":
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InputError(
            f"Got {name} with values that are masked, expected an array without gaps. "
            "Fill them with array.filled(value), or leave those rows out."
        )
    try:
        array = np.asarray(value)
    except Exception as error:  # nested lists of unequal lengths, tensors that need their gradient: whatever they raise
        raise InputError(
            f"Got {name} of type {type(value).__name__}, expected one numpy array of numbers. "
            f"Making one of it failed: {gist(error)}."
        ) from error
    if array.dtype == object:
        raise InputError(f"Got {name} of type {type(value).__name__}, expected one numpy array of numbers.")
    return array


def _refuse_kind(array: NDArray[Any], spec: TensorSpec, name: str, expected: str) -> None:
    raise InputError(f"Got {name}s of dtype {array.dtype}, expected {expected}. {_conversion(array, _values(spec))}")


def _values(spec: TensorSpec) -> tuple[float, float] | None:
    """What floating point inputs must lie in."""
    return _UNIT if spec.dtype == "uint8" else spec.range


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


def _not_empty(array: NDArray[Any], name: str) -> NDArray[Any]:
    if len(array) == 0:
        raise InputError(f"Got an empty batch, expected at least one {name}.")
    return array
