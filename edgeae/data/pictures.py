"""A folder of pictures of any size, or an array of images in a file, as a set of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.axes import as_batch, guess_shape
from edgeae_runtime.pictures.loading import PICTURE_SUFFIXES, find_pictures
from numpy.typing import NDArray

from edgeae.data.images import Images, ImageSet
from edgeae.data.picture_cache import PictureOptions, prepared_pictures, split

PICTURE_AXES = 2
"""Height and width."""


def read_pictures(
    folder: Path, options: PictureOptions | None = None, on_progress: Callable[[str], None] | None = None
) -> ImageSet:
    """Prepare a folder of pictures; the names of its subfolders are the classes.

    Broken files are skipped, with a count and a list of the first of them.

    Args:
        folder: it may have subfolders.
        options: how the pictures become images.
        on_progress: told in words what is being done.

    Raises:
        InputError: fewer than two readable pictures.
        OSError: the cache cannot be written.
    """
    options, tell = options or PictureOptions(), on_progress or (lambda step: None)
    files = find_pictures(folder, tell)
    if len(files) < 2:
        raise InputError(
            f"The folder {shown(folder)} holds {len(files)} pictures, expected at least two, and better some "
            f"thousands. Expected files ending in {', '.join(PICTURE_SUFFIXES)}, or Fashion-MNIST's four files."
        )
    prepared = prepared_pictures(folder, files, options, tell)
    return ImageSet(
        name=str(folder.resolve()),
        source=f"{len(prepared.labels['train']) + len(prepared.labels['test']):,} pictures below {shown(folder)}",
        train_images=prepared.images["train"],
        train_labels=prepared.labels["train"],
        test_images=prepared.images["test"],
        test_labels=prepared.labels["test"],
        class_names=prepared.class_names,
        preprocessing=options.preprocessing,
    )


def as_pixels(array: NDArray[np.generic], name: str) -> Images:
    """An array of images from a file as uint8 [n, channels, height, width].

    Args:
        array: uint8, or floating point in [0, 1]; [n, height, width], [n, channels, height, width] or
            [n, height, width, channels].
        name: for messages.

    Raises:
        InputError: another shape, dtype or range.
    """
    if array.dtype.kind not in "uif":
        raise InputError(f"{name} holds {array.dtype}, expected uint8, or floating point in [0, 1]. Convert it first.")
    shape = (
        guess_shape(array.shape, name, PICTURE_AXES, "Save it as [n, channels, height, width].")
        if array.ndim > 2
        else ()
    )
    if len(shape) != 3 or shape[0] not in (1, 3) or len(array) < 2:
        raise InputError(
            f"{name} holds an array of shape {list(array.shape)}, expected at least two images: [n, height, width], "
            "[n, channels, height, width] or [n, height, width, channels], with 1 or 3 channels."
        )
    array, _ = as_batch(array, shape, name)
    low, high = array.min(), array.max()
    if array.dtype == np.uint8 and high != 1:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise InputError(
            f"{name} holds {array.dtype} from {low:g} to {high:g}, expected uint8 in 0..255, or floating point in "
            "[0, 1]. Convert it first."
        )
    pixels: Images = np.rint(array * 255).astype(np.uint8)
    return pixels


def split_array(array: NDArray[np.generic], name: str, source: str, options: PictureOptions | None = None) -> ImageSet:
    """A set of images from one array: a seeded tenth is kept for testing.

    Raises:
        InputError: as `as_pixels`.
    """
    images = as_pixels(array, source)
    parts = {key: images[chosen] for key, chosen in split(len(images), options or PictureOptions()).items()}
    return ImageSet(
        name=name,
        source=f"{len(images):,} images from {source}",
        train_images=parts["train"],
        train_labels=np.zeros(len(parts["train"]), np.int64),
        test_images=parts["test"],
        test_labels=np.zeros(len(parts["test"]), np.int64),
        class_names=("images",),
    )
