"""Files in, files out: images and latents as .npy, .npz or pictures."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.bundle.preprocessing import FITS, Preprocessing
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.array_files import ArrayFile, Fits, find_array, read_array
from edgeae_runtime.files.axes import as_batch, fits_batch
from edgeae_runtime.files.writing import write_atomically
from edgeae_runtime.pictures.decoding import load_picture, pillow
from edgeae_runtime.pictures.loading import PICTURE_SUFFIXES, Tell, pictures_of, read_pictures

__all__ = [
    "FITS", "PICTURE_SUFFIXES", "load_picture", "read_array", "read_images", "write_atomically", "write_output",
]  # fmt: skip


def read_images(
    path: str | Path,
    image_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    tell: Tell = lambda notice: None,
) -> NDArray[Any]:
    """The images of `read_named_images`, without their names."""
    return read_named_images(path, image_shape, preprocessing, tell)[0]


def read_named_images(
    path: str | Path,
    image_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    tell: Tell = lambda notice: None,
) -> tuple[NDArray[Any], list[str] | None]:
    """Images for `encode`: those of a .npy or .npz file, a picture, or all below a folder, prepared as in training.

    A picture is turned into the model's number of channels and, where the training pictures were, brought to its
    size in the same way, pixel for pixel; else, where it has the size of the training pictures, padded as they were.
    Broken pictures of a folder are skipped; arrays may have their channels last, or none (see `axes.as_batch`).

    Args:
        path: the file or folder; `file.npz:name` for one of several arrays.
        image_shape: channels, height, width that the model takes.
        preprocessing: how the training pictures were prepared.
        tell: told, a sentence each, what was skipped and what had to be understood.

    Returns:
        [n, channels, height, width]; uint8 from pictures, of the file's own dtype from arrays. And n names, where they
        are pictures: paths below the folder with `/` in them, bytes that are no UTF-8 escaped; None for arrays.

    Raises:
        InputError: nothing to read, nothing but broken pictures, or images of a wrong size.
    """
    path = Path(path)
    folder = path.is_dir()
    if folder or path.suffix.lower() in PICTURE_SUFFIXES:
        files = pictures_of(path, tell) if folder else [path]
        images, good = read_pictures(files, image_shape, preprocessing, tell)
        return images, [_utf8((file.relative_to(path) if folder else Path(file.name)).as_posix()) for file in good]
    return arranged(find_array(path, fits_images(image_shape, preprocessing)), image_shape, preprocessing, tell), None


def _utf8(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def fits_images(image_shape: tuple[int, ...], preprocessing: Preprocessing) -> Fits:
    """Whether `arranged` takes an array of a shape."""
    sizes = [fits_batch(shape) for shape in _sizes(image_shape, preprocessing)]
    return lambda shape: any(fits(shape) for fits in sizes)


def arranged(
    found: ArrayFile,
    image_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    tell: Tell = lambda notice: None,
    most: int | None = None,
) -> NDArray[Any]:
    """The array of a file as a batch [n, *image_shape]; images of the training pictures' size are padded as they were.

    Args:
        found: the file's array.
        image_shape, preprocessing, tell: as in `read_images`.
        most: the most images to take, evenly spread; None for all.

    Raises:
        InputError: it has another shape.
    """
    if found.notice:
        tell(found.notice)
    shapes = _sizes(image_shape, preprocessing)
    shape = next((shape for shape in shapes if fits_batch(shape)(found.array.shape)), image_shape)
    batch, notice = as_batch(found.array, shape, found.where)
    if notice:
        tell(notice)
    if most is not None and len(batch) > most:
        batch = batch[np.linspace(0, len(batch) - 1, most).astype(int)]
    if shape == image_shape:
        return batch
    tell(f"Padded the images of {found.where} to {list(image_shape)}, as in training.")
    top, bottom, left, right = preprocessing.pad
    return np.pad(batch, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _sizes(image_shape: tuple[int, ...], preprocessing: Preprocessing) -> list[tuple[int, ...]]:
    """The shapes that images may have: the model's, and that of the training pictures before they were padded."""
    source = preprocessing.source_size
    before = [(image_shape[0], *source)] if source is not None and len(image_shape) == 3 else []
    return [image_shape, *(shape for shape in before if shape != image_shape)]


def write_output(path: str | Path, array: NDArray[Any], *, images: bool, names: Sequence[str] | None = None) -> None:
    """Write latents or images to .npy or .npz, latents to .csv, or images to one .png sheet; atomically.

    A .npz holds `latents` or `images`, and `names` where there are some; a .csv a line each: a name, or else a number
    from 0, and the latent's elements.

    Args:
        path: where to; its ending chooses the format.
        array: float32 latents [n, latent_dim] or images [n, channels, height, width], float in [0, 1] or uint8.
        images: whether the array holds images.
        names: of each, as files; kept in .npz and .csv.

    Raises:
        InputError: an unknown ending, or latents asked for as a picture.
        OSError: the file cannot be written; nothing half-written stays.
    """
    path = Path(path)
    check_output(path, images=images)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))
    elif suffix == ".npz":
        arrays: dict[str, Any] = {"images" if images else "latents": array} | (
            {} if names is None else {"names": np.array(names, str)}
        )
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
    elif suffix == ".csv":
        write_atomically(path, lambda file: _write_table(file, array.reshape(len(array), -1), names))
    else:
        picture = pillow().fromarray(contact_sheet(array))
        write_atomically(path, lambda file: picture.save(file, format="PNG"))


def _write_table(file: BinaryIO, rows: NDArray[Any], names: Sequence[str] | None) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", *(f"z{index}" for index in range(rows.shape[1]))])
    for index, row in enumerate(rows):
        table.writerow([index if names is None else names[index], *map(str, row)])  # the shortest exact decimals
    text.flush()
    text.detach()


def check_output(path: str | Path, *, images: bool) -> None:
    """Refuse an ending that `write_output` would refuse, before any work is done."""
    suffixes = (".npy", ".npz", ".png" if images else ".csv")
    if Path(path).suffix.lower() not in suffixes:
        raise InputError(f"Cannot write {shown(path)}: expected a name that ends in {' or '.join(suffixes)}.")


def contact_sheet(images: NDArray[Any], columns: int | None = None, gap: int = 2) -> NDArray[np.uint8]:
    """Images side by side on a white sheet, near to square.

    Args:
        images: [n, channels, height, width], float in [0, 1] or uint8; one or three channels.
        columns: images in a row.
        gap: white pixels between them.

    Returns:
        uint8 [height, width] or [height, width, 3].
    """
    if images.ndim != 4:
        raise InputError(f"Arrays of shape {list(images.shape[1:])} cannot be drawn. Write them to .npy instead.")
    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise InputError(f"Images of {channels} channels cannot be drawn, expected 1 or 3. Write them to .npy instead.")
    columns = columns or min(max(int(np.ceil(np.sqrt(count * height / width))), 1), max(count, 1))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        sheet[top : top + height, left : left + width] = pixels.transpose(1, 2, 0)
    return sheet[..., 0] if channels == 1 else sheet
