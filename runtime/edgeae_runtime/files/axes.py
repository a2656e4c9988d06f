"""The order of an array's axes: which are the images, the channels, the pixels; understood or asked, never misread."""

from __future__ import annotations

import numpy as np

from edgeae_runtime.errors import InputError
from edgeae_runtime.files.array_files import Array, Fits, Shape

_COLOURS = (1, 3)


def as_batch(array: Array, image_shape: Shape, where: str) -> tuple[Array, str]:
    """An array as a batch of images of a known shape: where its axes stand in another order that only one reading
    fits, as a view in the right one.

    Args:
        array: [n, …] of the image's shape; or with the channels last; or, for one channel, without it; or one image
            alone in one of these forms.
        image_shape: of one image, channels first.
        where: for messages.

    Returns:
        The batch [n, *image_shape], and what to tell: empty where the axes stood in that order already.

    Raises:
        InputError: no reading fits.
    """
    for words, shape, channels in _readings(image_shape):
        for batch, what in ((array, "images"), (array[None], "one image")):
            if batch.shape[1:] == shape:
                told = f"Took {where}, of shape {list(array.shape)}, as {what} of {list(image_shape)}{words}."
                return _moved(batch, channels, image_shape), told if words else ""
    sizes = ", ".join(map(str, image_shape))
    forms = ", ".join(f"[n, {', '.join(map(str, shape))}]" for _, shape, _ in _readings(image_shape))
    raise InputError(
        f"{where} holds an array of shape {list(array.shape)}, expected {forms} for images of [{sizes}] (channels "
        "first). Bring it to one of these, or tell another image shape."
    )


def fits_batch(image_shape: Shape) -> Fits:
    """Whether `as_batch` takes an array of a shape."""
    shapes = [shape for _, shape, _ in _readings(image_shape)]
    return lambda shape: shape in shapes or shape[1:] in shapes


def _readings(image_shape: Shape) -> list[tuple[str, Shape, int | None]]:
    """What one image can look like: words, its shape, and where its channels stand (None: nowhere)."""
    readings: list[tuple[str, Shape, int | None]] = [("", image_shape, 0)]
    channels, *rest = image_shape
    last = (*rest, channels)
    if len(image_shape) > 1 and last != image_shape:
        readings.append((" with the channels last", last, -1))
    if len(image_shape) > 1 and channels == 1:
        readings.append((" without an axis of the channel", tuple(rest), None))
    return readings


def _moved(batch: Array, channels: int | None, image_shape: Shape) -> Array:
    """The batch with its channels in front: a view."""
    if channels is None:
        return batch.reshape(len(batch), *image_shape)
    return batch if channels == 0 else np.moveaxis(batch, -1, 1)


TELL_THE_SHAPE = (
    "Tell it with --image-shape, channels first, as 3,64,64, or save the array as [n, channels, height, width]."
)


def guess_shape(array_shape: Shape, where: str, axes: int | None = None, remedy: str = TELL_THE_SHAPE) -> Shape:
    """The shape of one image, channels first, in an array whose images have no known shape.

    Only what can mean one thing is taken: [n, length] are rows; of [n, a, b, c], either a or c is 1 or 3, the channels.

    Args:
        array_shape: of the whole array.
        where: for messages.
        axes: how many axes the model's images have behind their channels, where that is known: then [n, a, b] are
            signals of a channels (1), or grey pictures (2).
        remedy: what to do about a shape that can mean several things, for the message.

    Raises:
        InputError: it can mean several things, or nothing.
    """
    first, last = array_shape[1:2], array_shape[-1:]
    shape: Shape | None = None
    why = "an array of images has two to five axes"
    if len(array_shape) == 2:
        shape = array_shape[1:]
    elif len(array_shape) == 3:
        why = "it may be grey pictures, signals with channels, or a single picture in colour"
        if axes == 1 or array_shape[1] == 1:
            shape = array_shape[1:]
        elif axes == 2 and array_shape[0] not in _COLOURS and last[0] not in _COLOURS:
            shape = (1, *array_shape[1:])
    elif len(array_shape) in (4, 5):
        why = "the channels may stand first or last"
        in_front, behind = first[0] in _COLOURS, last[0] in _COLOURS
        if (in_front and not behind) or (not in_front and not behind and first[0] < min(array_shape[2:])):
            shape = array_shape[1:]
        elif behind and not in_front:
            shape = (last[0], *array_shape[1:-1])
    if shape is not None:
        return shape
    raise InputError(
        f"{where} holds an array of shape {list(array_shape)}, from which the shape of one image cannot be told: "
        f"{why}. {remedy}"
    )


def fits_any(axes: int | None = None) -> Fits:
    """Whether `guess_shape` takes an array of a shape as images or signals."""

    def fits(shape: Shape) -> bool:
        try:
            return len(guess_shape(shape, "", axes)) > 1
        except InputError:
            return False

    return fits
