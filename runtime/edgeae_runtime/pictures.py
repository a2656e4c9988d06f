"""Pictures on disk: found below a folder, measured, loaded as pixels; what cannot be read is skipped and told.

Training, calibration and the device find and load pictures with these functions: one set of rules, the same pixels.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.manifest import Preprocessing

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_OTHER_SUFFIXES = (
    ".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".pbm", ".pgm", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
)  # fmt: skip
"""Pictures too, but not read: they are told, lest a part of a set go missing in silence."""
MAX_SKIPPED_SHOWN = 10
MAX_SIZES_SHOWN = 4
_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "F")  # and I;16 in its byte orders: more than 8 bits in a channel
_TURNED = range(5, 9)  # EXIF orientations that swap height and width
_ORIENTATION = 0x0112

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """What the headers of some pictures say."""

    sizes: Counter[tuple[int, int]]
    """How many pictures have which height and width, upright."""
    grey: bool
    """Whether all of them are grey."""


def pillow() -> ModuleType:
    """Pillow, an extra: devices without pictures do without it.

    Raises:
        InputError: it is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            "Reading and writing pictures needs pillow: pip install 'edgeae-runtime[images]'. "
            "Without it, use .npy or .npz files."
        ) from error
    return Image


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts img2 before img10."""
    return [(0, int(word)) if word.isdecimal() else (1, word.lower()) for word in re.split(r"(\d+)", name) if word]


def find_pictures(
    folder: Path, order: Callable[[str], Any] = natural_order, tell: Tell = lambda notice: None
) -> list[Path]:
    """All pictures below a folder, at any depth: a folder's own files, then its subfolders, by their names.

    Links are not followed. They, and picture files of kinds that are not read, are counted and told.

    Args:
        folder: where to look.
        order: the key that names are sorted by.
        tell: told in one sentence what was left out.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for root, folders, files in os.walk(folder):
        folders.sort(key=order)
        for name in sorted(files, key=order):
            path = Path(root, name)
            suffix = path.suffix.lower()
            if suffix in PICTURE_SUFFIXES and not path.is_symlink():
                found.append(path)
            elif suffix in PICTURE_SUFFIXES:
                left_out["links"] += 1
            elif suffix in _OTHER_SUFFIXES:
                left_out[f"{suffix} files"] += 1
        left_out["linked folders"] += sum(Path(root, name).is_symlink() for name in folders)
    kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.items() if count)
    if kinds:
        tell(f"Left out of {shown(folder)}: {kinds}. Links are not followed; {', '.join(PICTURE_SUFFIXES)} are read.")
    return found


def survey(files: Sequence[Path]) -> Survey:
    """The sizes and the colour of pictures, from their headers; those that cannot be read are left out.

    Raises:
        InputError: pillow is missing.
    """
    library = pillow()
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for path in files:
        try:
            with library.open(path) as file:
                width, height = file.size
                turned = file.getexif().get(_ORIENTATION) in _TURNED
                mode = file.mode
        except Exception:  # decoders raise anything; loading the picture will tell
            continue
        sizes[(width, height) if turned else (height, width)] += 1
        grey = grey and mode in _GREY_MODES
    return Survey(sizes, grey)


def sizes_in_words(sizes: Counter[tuple[int, int]]) -> str:
    """`40 of 32x32 and 2 of 48x64 pixels`, the most frequent first."""
    most = sizes.most_common(MAX_SIZES_SHOWN)
    words = [f"{count} of {height}x{width}" for (height, width), count in most]
    if len(sizes) > len(most):
        words.append(f"{len(sizes) - len(most)} sizes more")
    return (" and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]) + " pixels"


def read_pictures(
    files: Sequence[Path],
    image_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    tell: Tell = lambda notice: None,
    hint: str = "Resize them first.",
) -> tuple[NDArray[np.uint8], list[Path]]:
    """Pictures prepared as in training; broken ones are skipped and told.

    Args:
        files: at least one.
        image_shape: channels (1 or 3), height, width that the model takes.
        preprocessing: how the training pictures were prepared.
        tell: told in one sentence what was skipped.
        hint: what to do about pictures of a wrong size, for the message.

    Returns:
        uint8 [n, channels, height, width], and the file of each.

    Raises:
        InputError: none can be read, or one has a size that the preprocessing does not bring to the model's.
    """
    if len(image_shape) != 3 or image_shape[0] not in (1, 3):
        last = len(image_shape) == 3 and image_shape[2] in (1, 3)
        turned = ",".join(map(str, (image_shape[-1], *image_shape[:-1])))
        raise InputError(
            f"Got pictures for a model of arrays of shape {list(image_shape)}, expected 1 or 3 channels, height and "
            f"width. {f'The channels come first: {turned}.' if last else 'Give a .npy or .npz file of such arrays.'}"
        )
    if preprocessing.fit is None:
        _check_sizes(files, image_shape, preprocessing, hint)
    images = np.empty((len(files), *image_shape), np.uint8)
    good: list[Path] = []
    skipped: list[str] = []
    why = ""
    for path in files:
        try:
            images[len(good)] = _prepared(path, image_shape, preprocessing)
        except InputError as error:
            skipped.append(shown(path.name))
            why = why or str(error)
        else:
            good.append(path)
    if not good:
        raise InputError(why if len(files) == 1 else f"None of {len(files)} pictures can be read. The first: {why}")
    if skipped:
        words = skipped_in_words(skipped, len(files))
        tell(f"{words[0].upper()}{words[1:]}.")
    return images[: len(good)], good


def skipped_in_words(skipped: Sequence[str], count: int) -> str:
    """`skipped 2 broken pictures of 10: a.png, b.png`"""
    more = f" and {len(skipped) - MAX_SKIPPED_SHOWN} more" if len(skipped) > MAX_SKIPPED_SHOWN else ""
    names = ", ".join(skipped[:MAX_SKIPPED_SHOWN])
    return f"skipped {len(skipped)} broken pictures of {count}: {names}{more}"


def load_picture(path: Path, image_shape: tuple[int, ...], fit: str | None) -> NDArray[np.uint8]:
    """One picture file as uint8 [channels, height, width]; turned upright as its EXIF says, without transparency.

    Args:
        path: the file.
        image_shape: channels (1 or 3), height, width.
        fit: how a picture of another size is brought to this one: `crop` its middle, `pad` it with black, or `stretch`
            it, bilinearly with antialiasing; None leaves its size, which may be another one then.

    Raises:
        InputError: the file is not a readable picture of 8 bits in a channel, or pillow is missing.
    """
    library = pillow()
    from PIL import ImageOps

    channels, height, width = image_shape
    try:
        with library.open(path) as file:
            mode = file.mode
            if mode.split(";")[0] not in _DEEP_MODES:
                picture = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
                if fit is not None and picture.size != (width, height):
                    bring = {"crop": ImageOps.fit, "pad": ImageOps.pad}.get(fit, _stretch)
                    picture = bring(picture, (width, height), method=library.Resampling.BILINEAR)
                pixels = np.asarray(picture)
    except Exception as error:  # a file from anywhere: decoders and EXIF readers raise anything
        raise InputError(
            f"{shown(path)} is not a readable picture ({shown(error)}). Remove it or convert it again."
        ) from error
    if mode.split(";")[0] in _DEEP_MODES:  # pillow would cut everything above 255 off: white
        raise InputError(
            f"{shown(path)} has more than 8 bits in a channel (mode {mode}), expected 8. Which of its values is white "
            "is not known: convert it to 8 bits first."
        )
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def folder_in_words(files: Sequence[Path]) -> str:
    """The innermost folder that holds all of some files."""
    return shown(os.path.commonpath([path.parent for path in files]))


def _check_sizes(files: Sequence[Path], image_shape: tuple[int, ...], preprocessing: Preprocessing, hint: str) -> None:
    """Refuse pictures that would have to be brought to another size when it is not known how."""
    sizes = survey(files).sizes
    height, width = image_shape[1:]
    source = preprocessing.source_size
    if set(sizes) <= {(height, width), source}:
        return
    also = f" or {source[0]}x{source[1]}, which is padded" if source else ""
    where = shown(files[0]) if len(files) == 1 else f"{len(files)} pictures in {folder_in_words(files)}"
    raise InputError(f"Got {where}: {sizes_in_words(sizes)}, expected {height}x{width}{also}. {hint}")


def _prepared(path: Path, image_shape: tuple[int, ...], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """One picture at the model's size: brought there, or padded as the training pictures were."""
    image = load_picture(path, image_shape, preprocessing.fit)
    if preprocessing.source_size is not None and image.shape[1:] == preprocessing.source_size:
        top, bottom, left, right = preprocessing.pad
        image = np.pad(image, ((0, 0), (top, bottom), (left, right)))
    if image.shape != image_shape:  # numpy would stretch a picture of one pixel
        raise InputError(f"{shown(path)} has the shape {list(image.shape)}, expected {list(image_shape)}.")
    return image


def _stretch(picture: Any, size: tuple[int, int], method: int) -> Any:  # noqa: ANN401 pillow is an extra
    return picture.resize(size, method)
