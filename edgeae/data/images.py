"""A set of labelled images in memory, and how its pictures become the model's input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.errors import InputError
from numpy.typing import NDArray

from edgeae.image_size import ImageSize, sides, size_in_words

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
_CHUNK = 4096  # images at a time: the set may be a file larger than the memory


@dataclass(frozen=True)
class ImageSet:
    """Training and test images with their labels.

    Raises:
        InputError: an array has the wrong shape or dtype, is empty, or labels and images do not match.
    """

    name: str
    """What `load_images` takes to find this set again: a known name, or the path of a folder."""
    source: str
    """Where the images came from, in words."""
    train_images: Images
    """uint8 [n, channels, height, width], pixels in 0..255."""
    train_labels: Labels
    """int64 [n], indices into `class_names`."""
    test_images: Images
    """uint8 [m, channels, height, width], pixels in 0..255."""
    test_labels: Labels
    """int64 [m], indices into `class_names`."""
    class_names: tuple[str, ...]
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009 frozen
    """How pictures were brought to this size, if they were."""

    def __post_init__(self) -> None:
        check_images(self.train_images, "train_images")
        check_images(self.test_images, "test_images")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise InputError(
                f"Got training images of shape {list(self.train_images.shape[1:])} and test images of shape "
                f"{list(self.test_images.shape[1:])}, expected the same. Give two parts of one set."
            )
        self._check_labels(self.train_labels, len(self.train_images), "train_labels")
        self._check_labels(self.test_labels, len(self.test_images), "test_labels")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the images: sets that train the same model have the same one, whatever they are called."""
        digest = hashlib.sha256()
        for images in (self.train_images, self.test_images):
            digest.update(repr(images.shape).encode())
            for start in range(0, len(images), _CHUNK):
                digest.update(np.ascontiguousarray(images[start : start + _CHUNK]).data)
        return digest.hexdigest()

    def _check_labels(self, labels: Labels, count: int, name: str) -> None:
        if labels.shape != (count,) or labels.dtype != np.int64:
            raise InputError(
                f"Got {name} of shape {list(labels.shape)} and dtype {labels.dtype}, expected int64 [{count}], "
                "one label per image."
            )
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise InputError(
                f"Got {name} from {labels.min()} to {labels.max()}, expected indices into the "
                f"{len(self.class_names)} class names."
            )


def check_images(images: Images, name: str = "images") -> None:
    """Refuse what is not uint8 [n, channels, height, width] with at least one pixel.

    Raises:
        InputError: another dtype or number of axes, or an empty array.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise InputError(
            f"Got {name} of shape {list(images.shape)} and dtype {images.dtype}, expected uint8 "
            "[n, channels, height, width], none of them 0. Convert them first."
        )


def padding(height: int, width: int, image_size: ImageSize) -> tuple[int, int, int, int]:
    """Zero pixels to add at the top, bottom, left and right so that a picture lies in the centre of a larger one.

    An odd pixel goes to the bottom and to the right.

    Raises:
        InputError: the picture is higher or wider than `image_size`.
    """
    full_height, full_width = sides(image_size)
    if height > full_height or width > full_width:
        raise InputError(
            f"Got images of {height}x{width} pixels for a model of {size_in_words(image_size)}, expected none larger. "
            "Resize them, or give the model a larger image_size."
        )
    top, left = (full_height - height) // 2, (full_width - width) // 2
    return top, full_height - height - top, left, full_width - width - left


def prepare(images: Images, image_size: ImageSize) -> Images:
    """Centre pictures on black of the model's size.

    Args:
        images: uint8 [n, channels, height, width].
        image_size: height and width of the result in pixels, one number for a square.

    Returns:
        uint8 [n, channels, height, width] of that size; the given array where it has that size already.

    Raises:
        InputError: the images have another dtype or number of axes, are empty, or are larger than `image_size`.
    """
    check_images(images)
    height, width = images.shape[2:]
    if (height, width) == sides(image_size):
        return images
    top, bottom, left, right = padding(height, width, image_size)
    return np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)))


def entropy_floor(images: Images) -> float:
    """The least binary cross-entropy any model can reach on these images, reached by perfect reconstruction.

    A grey pixel p in (0, 1) costs its own binary entropy -p log p - (1 - p) log (1 - p) even when it is predicted
    exactly, so a loss is only honest beside this figure.

    Args:
        images: uint8 of any shape.

    Returns:
        Mean over all pixels of the binary entropy of pixel / 255, in nats.
    """
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), _CHUNK):
        counts += np.bincount(images[start : start + _CHUNK].ravel(), minlength=256)
    grey = np.arange(1, 255) / 255  # black and white have no entropy
    entropy = -grey * np.log(grey) - (1 - grey) * np.log1p(-grey)
    return float(counts[1:255] @ entropy / images.size)
