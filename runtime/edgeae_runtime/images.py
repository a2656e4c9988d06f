"""Files in, files out: images and latents as .npy, .npz or pictures."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import InputError
from edgeae_runtime.manifest import FITS, Preprocessing

__all__ = ["FITS", "load_picture", "read_array", "read_images", "write_atomically", "write_output"]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_array(path: str | Path) -> NDArray[Any]:
    """One numeric array from a .npy file, or from a .npz that holds a single one.

    Raises:
        InputError: no such file, another format, several arrays, or pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}. Expected a .npy or .npz file with one array.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise InputError(f"{path} holds {len(loaded.files)} arrays, expected one: save it alone.")
            return np.asarray(loaded[loaded.files[0]])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable .npy or .npz file ({error}). Save it with numpy.save.") from error


def read_images(path: str | Path, image_shape: tuple[int, ...], preprocessing: Preprocessing) -> NDArray[Any]:
    """Images for `encode`: a .npy or .npz file as it is, a picture or a folder of pictures prepared as in training.

    A picture is turned into the model's number of channels and, where the training pictures were, brought to its
    size in the same way, pixel for pixel; else, where it has the size of the training pictures, padded as they were.

    Args:
        path: the file or folder.
        image_shape: channels, height, width that the model takes.
        preprocessing: how the training pictures were prepared.

    Returns:
        [n, channels, height, width]; uint8 from pictures, whatever the file holds from arrays.

    Raises:
        InputError: nothing to read, a broken picture, or one of a wrong size.
    """
    path = Path(path)
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise InputError(
                f"The folder {path} holds no pictures. Expected files ending in {', '.join(PICTURE_SUFFIXES)}."
            )
        return np.stack([_read_picture(file, image_shape, preprocessing) for file in pictures])
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        return _read_picture(path, image_shape, preprocessing)[None]
    return read_array(path)


def write_output(path: str | Path, array: NDArray[Any], *, images: bool) -> None:
    """Write latents or images to .npy or .npz, or images to one .png sheet; atomically.

    Args:
        path: where to; its ending chooses the format.
        array: float32 latents [n, latent_dim] or images [n, channels, height, width], float in [0, 1] or uint8.
        images: whether the array holds images.

    Raises:
        InputError: an unknown ending, or latents asked for as a picture.
        OSError: the file cannot be written; nothing half-written stays.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))
    elif suffix == ".npz":
        write_atomically(path, lambda file: np.savez_compressed(file, array))
    elif suffix == ".png" and images:
        picture = _pillow().fromarray(contact_sheet(array))
        write_atomically(path, lambda file: picture.save(file, format="PNG"))
    else:
        kinds = ".npy, .npz or .png" if images else ".npy or .npz"
        raise InputError(f"Cannot write {path.name}: expected a name that ends in {kinds}.")


def check_output(path: str | Path, *, images: bool) -> None:
    """Refuse an ending that `write_output` would refuse, before any work is done."""
    suffixes = (".npy", ".npz", ".png") if images else (".npy", ".npz")
    if Path(path).suffix.lower() not in suffixes:
        raise InputError(f"Cannot write {path}: expected a name that ends in {' or '.join(suffixes)}.")


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` on a temporary file beside `path`, then rename: `path` is the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's own mode would keep others from reading the result
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        sheet[top : top + height, left : left + width] = pixels.transpose(1, 2, 0)
    return sheet[..., 0] if channels == 1 else sheet


def load_picture(path: Path, image_shape: tuple[int, ...], fit: str | None) -> NDArray[np.uint8]:
    """One picture file as uint8 [channels, height, width]; turned upright as its EXIF says, without transparency.

    Args:
        path: the file.
        image_shape: channels (1 or 3), height, width.
        fit: how a picture of another size is brought to this one: `crop` its middle, `pad` it with black, or `stretch`
            it, bilinearly with antialiasing; None leaves its size, which may be another one then.

    Raises:
        InputError: the file is not a readable picture, or pillow is missing.
    """
    pillow = _pillow()
    from PIL import ImageOps

    channels, height, width = image_shape
    try:
        with pillow.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
            if fit is not None and picture.size != (width, height):
                bring = {"crop": ImageOps.fit, "pad": ImageOps.pad}.get(fit, _stretch)
                picture = bring(picture, (width, height), method=pillow.Resampling.BILINEAR)
            pixels = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable picture ({error}). Remove it or convert it again.") from error
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _stretch(picture: Any, size: tuple[int, int], method: int) -> Any:  # noqa: ANN401 pillow is an extra
    return picture.resize(size, method)


def _read_picture(path: Path, image_shape: tuple[int, ...], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """One picture, prepared as in training."""
    if len(image_shape) != 3 or image_shape[0] not in (1, 3):
        raise InputError(f"The model takes arrays of shape {list(image_shape)}, not pictures. Give a .npy file.")
    image = load_picture(path, image_shape, preprocessing.fit)
    source, size = preprocessing.source_size, image.shape[1:]
    if source is not None and size == source:
        top, bottom, left, right = preprocessing.pad
        image = np.pad(image, ((0, 0), (top, bottom), (left, right)))
    if image.shape != image_shape:
        also = f" or {source[0]}x{source[1]}, which is padded" if source else ""
        height, width = image_shape[1:]
        raise InputError(f"{path} is {size[0]}x{size[1]} pixels, expected {height}x{width}{also}. Resize it first.")
    return image


def _pillow() -> ModuleType:
    try:
        from PIL import Image  # an extra: devices without pictures do without it
    except ImportError as error:
        raise InputError(
            "Reading and writing pictures needs pillow: pip install 'edgeae-runtime[images]'. "
            "Without it, use .npy or .npz files."
        ) from error
    return Image
