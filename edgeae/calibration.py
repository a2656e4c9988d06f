"""The images named by `--calibration`: a data set, a folder of pictures, or arrays in a file.

What can mean only one thing is understood and told; anything else is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgeae_export.modules.images import CALIBRATION_IMAGES, GOLDEN_IMAGES, HELD_OUT_IMAGES, MOST_BYTES
from edgeae_runtime.bundle.preprocessing import FITS, Fit, Preprocessing
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.array_files import find_array, is_array_file
from edgeae_runtime.files.axes import as_batch, fits_any, fits_batch, guess_shape
from edgeae_runtime.pictures.images import arranged, fits_images
from edgeae_runtime.pictures.loading import (
    PICTURE_SUFFIXES,
    folder_in_words,
    pictures_of,
    read_pictures,
    sizes_in_words,
    survey,
)
from numpy.typing import NDArray
from torch import nn

from edgeae.checkpoint import Checkpoint
from edgeae.data import DATA_SETS, load_images, prepare
from edgeae.data.fashion_mnist import find_files
from edgeae.data.places import user_path

PREFERRED = "train"
"""The word in the name of the array to calibrate on, as x_train or train_images, where others fit too."""
_CONVOLUTIONS = (
    (1, (nn.Conv1d, nn.ConvTranspose1d)),
    (2, (nn.Conv2d, nn.ConvTranspose2d)),
    (3, (nn.Conv3d, nn.ConvTranspose3d)),
)
_LOOKED_AT = 64

Tell = Callable[[str], None]


@dataclass(frozen=True)
class CalibrationImages:
    """Images to calibrate with, and those kept aside to measure parity on."""

    calibration: NDArray[Any]
    """[n, *image_shape], uint8 or of the file's own dtype; perhaps mapped from the disk."""
    held_out: NDArray[Any] | None = None
    """The same of other images; None leaves the choice to the exporter."""
    notices: list[str] = field(default_factory=list)
    """What had to be understood and what was skipped, a sentence each."""


def own_images(
    source: str, model: object, image_shape: Sequence[int] | None = None, fit: Fit | None = None
) -> CalibrationImages:
    """Images for a model of the user's own.

    Args:
        source: a data set's name, a folder of pictures or of IDX files, or a .npy or .npz file (`file.npz:name`).
        model: a module or a pair; its convolutions tell signals from pictures.
        image_shape: of one image, channels first; by default what the model says, or what the images all have.
        fit: how pictures of another size are brought to that: `crop`, `pad` or `stretch`.

    Raises:
        InputError: nothing there, broken, of another shape, or of a shape that can mean several things.
    """
    if fit is not None and fit not in FITS:
        raise InputError(f"Got --fit {fit}, expected one of {', '.join(FITS)}.")
    shape = tuple(image_shape or getattr(model, "image_shape", None) or ())
    path, notices = user_path(source), list[str]()
    pictures = not is_array_file(path) and not _is_data_set(source, path)
    if fit is not None and not pictures:
        raise InputError(f"Got --fit {fit} for {shown(source)}, expected pictures: arrays are not resized.")
    if pictures:
        return _own_pictures(_pictures(path, notices.append), shape, fit, notices)
    if is_array_file(path):
        axes = _axes(model)
        found = find_array(path, fits_batch(shape) if shape else fits_any(axes), PREFERRED)
        array, where = found.array, found.where
        notices += [found.notice] if found.notice else []
        shape = shape or guess_shape(array.shape, where, axes)
    else:
        array, where = load_images(source).train_images, source
    images, notice = as_batch(array, shape or array.shape[1:], where)
    notices += [notice] if notice else []
    _refuse_masks(images, where)
    return CalibrationImages(images, notices=notices)


def checkpoint_calibration(source: str, checkpoint: Checkpoint) -> CalibrationImages:
    """Images for a checkpoint, prepared as its training images were; `source` as in `own_images`.

    Raises:
        InputError: as there.
    """
    path, notices = user_path(source), list[str]()
    shape, preprocessing = checkpoint.image_shape, checkpoint.preprocessing
    if _is_data_set(source, path):
        return CalibrationImages(prepare(load_images(source).train_images, checkpoint.config.image_size))
    if is_array_file(path):
        found = find_array(path, fits_images(shape, preprocessing), PREFERRED)
        images = arranged(found, shape, preprocessing, notices.append, CALIBRATION_IMAGES)
        _refuse_masks(images, found.where)
        return CalibrationImages(images, notices=notices)
    files = _pictures(path, notices.append)
    chosen = _shuffled(files)[: min(CALIBRATION_IMAGES, _most(shape))]
    images, _ = read_pictures(chosen, shape, preprocessing, notices.append)
    return CalibrationImages(images, notices=notices)


def _own_pictures(files: list[Path], shape: tuple[int, ...], fit: Fit | None, notices: list[str]) -> CalibrationImages:
    """Pictures, a seeded tenth of them held out: in class folders the last tenth would be of one class."""
    if not shape:
        shape = _common_shape(files)
        notices.append(f"Took the shape of one image from the {len(files)} pictures: {list(shape)}, channels first.")
    ways = ", ".join(f"--fit {way}" for way in FITS)
    hint = f"Bring them to one size with {ways}, or give the size that all have as --image-shape."
    order, most = _shuffled(files), _most(shape)
    aside = min(max(len(order) // 10, 1), HELD_OUT_IMAGES, most)
    chosen = order[: aside + min(CALIBRATION_IMAGES, most)]
    images, good = read_pictures(chosen, shape, Preprocessing(fit=fit), notices.append, hint)
    kept = sum(file in set(chosen[:aside]) for file in good)
    if not 0 < kept < len(good):
        return CalibrationImages(images, notices=notices)
    return CalibrationImages(images[kept:], images[:kept], notices)


def _common_shape(files: Sequence[Path]) -> tuple[int, ...]:
    """Channels, height and width of pictures that all have one size; 3 channels unless all are grey."""
    found = survey(files)
    if len(found.sizes) == 1:
        ((height, width),) = found.sizes
        return (1 if found.grey else 3, height, width)
    where = folder_in_words(files)
    if not found.sizes:
        raise InputError(
            f"None of {len(files)} pictures in {where} can be read, as {shown(files[0].name)}. Convert them again."
        )
    raise InputError(
        f"The pictures in {where} have {len(found.sizes)} sizes: {sizes_in_words(found.sizes)}. Expected one, or the "
        f"model's and a way to bring them to it: --image-shape 3,HEIGHT,WIDTH with --fit {' or --fit '.join(FITS)}."
    )


def _pictures(path: Path, tell: Tell) -> list[Path]:
    """The pictures of a folder, or the one that a path names."""
    if path.is_dir():
        return pictures_of(path, tell)
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        return [path]
    raise InputError(
        f"Got the calibration images {shown(path)}, which is no file or folder with images. Expected a folder of "
        f"pictures, a .npy or .npz file, or one of {', '.join(DATA_SETS)}."
    )


def _is_data_set(source: str, path: Path) -> bool:
    return source in DATA_SETS or (path.is_dir() and bool(find_files(path)))


def _shuffled(files: Sequence[Path]) -> list[Path]:
    """In a seeded order: any part of it has pictures of every folder."""
    return [files[index] for index in np.random.default_rng(0).permutation(len(files))]


def _most(shape: tuple[int, ...]) -> int:
    """As many images as the exporter would take of this shape."""
    return max(MOST_BYTES // (4 * math.prod(shape)), GOLDEN_IMAGES)


def _axes(model: object) -> int | None:
    """How many axes the model's images have behind their channels; None where its convolutions do not agree."""
    parts = model if isinstance(model, tuple | list) else (model,)
    layers = [layer for part in parts if isinstance(part, nn.Module) for layer in part.modules()]
    found = [axes for axes, kinds in _CONVOLUTIONS if any(isinstance(layer, kinds) for layer in layers)]
    return found[0] if len(found) == 1 else None


def _refuse_masks(images: NDArray[Any], where: str) -> None:
    """Refuse 8-bit pixels of 0 and 1: a model that sees 1/255 for white would be calibrated on black pictures."""
    spread = np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int)
    if images.dtype == np.uint8 and images.size and images[spread].max() == 1:
        raise InputError(
            f"{shown(where)} holds uint8 from 0 to 1, expected pixels in 0..255: as they are, white would be 1/255. "
            "Multiply them by 255, or save them as floating point."
        )
