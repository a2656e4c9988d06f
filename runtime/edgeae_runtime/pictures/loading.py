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

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.pictures.decoding import Notices, load_picture, notices_in_words, picture_header, pillow

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff")
MAX_SKIPPED_SHOWN = 10
MAX_SIZES_SHOWN = 4
MAX_ENDINGS_SHOWN = 6

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """What the headers of some pictures say."""

    sizes: Counter[tuple[int, int]]
    """How many pictures have which height and width, upright."""
    grey: bool
    """Whether all of them are grey."""


def natural_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """A key that sorts img2 before img10, and img1 and img01 always in the same order."""
    words = re.split(r"(\d+)", name)
    return [(0, int(word)) if word.isdecimal() else (1, word.lower()) for word in words if word], name


def find_pictures(folder: Path, tell: Tell = lambda notice: None) -> list[Path]:
    """All pictures below a folder, at any depth, in natural order: a folder's own files, then its subfolders.

    Links are not followed. They, files of other endings, and folders that cannot be read are counted and told.

    Args:
        folder: where to look.
        tell: told in one sentence what was left out.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()

    def unreadable(_: OSError) -> None:
        left_out["folders that cannot be read"] += 1

    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort(key=natural_order)
        for name in sorted(files, key=natural_order):
            path = Path(root, name)
            suffix = path.suffix.lower()
            if suffix in PICTURE_SUFFIXES and not path.is_symlink():
                found.append(path)
            elif suffix in PICTURE_SUFFIXES:
                left_out["links"] += 1
            elif suffix or not name.startswith("."):
                left_out[f"{shown(suffix)} files" if suffix else "files without an ending"] += 1
        left_out["linked folders"] += sum(Path(root, name).is_symlink() for name in folders)
    kinds = [f"{count} {kind}" for kind, count in left_out.most_common() if count]
    if kinds:
        more = [f"{len(kinds) - MAX_ENDINGS_SHOWN} kinds more"] if len(kinds) > MAX_ENDINGS_SHOWN else []
        told = ", ".join([*kinds[:MAX_ENDINGS_SHOWN], *more])
        tell(f"Left out of {shown(folder)}: {told}. Links are not followed; {', '.join(PICTURE_SUFFIXES)} are read.")
    return found


def pictures_of(folder: Path, tell: Tell = lambda notice: None) -> list[Path]:
    """`find_pictures`, where there must be some.

    Raises:
        InputError: there are none.
    """
    notices: list[str] = []
    found = find_pictures(folder, notices.append)
    if not found:
        raise InputError(
            " ".join([
                f"The folder {shown(folder)} holds no pictures, at any depth. Expected files ending in "
                f"{', '.join(PICTURE_SUFFIXES)}.", *notices,
            ])
        )  # fmt: skip
    for notice in notices:
        tell(notice)
    return found


def survey(files: Sequence[Path]) -> Survey:
    """The sizes and the colour of pictures, from their headers; those that cannot be read are left out.

    Raises:
        InputError: pillow is missing.
    """
    pillow()
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for path in files:
        try:
            size, is_grey = picture_header(path)
        except InputError:  # loading the picture will tell
            continue
        sizes[size] += 1
        grey = grey and is_grey
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
        tell: told, a sentence each, what was skipped and what was done to pictures of some kinds.
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
    notices: Notices = Counter()
    why = ""
    for path in files:
        try:
            images[len(good)] = _prepared(path, image_shape, preprocessing, notices)
        except InputError as error:
            skipped.append(shown(path.name))
            why = why or str(error)
        else:
            good.append(path)
    if not good:
        raise InputError(why if len(files) == 1 else f"None of {len(files)} pictures can be read. The first: {why}")
    if skipped:
        words = skipped_in_words(skipped, len(files))
        tell(f"{words[0].upper()}{words[1:]}. The first: {why}")
    for notice in notices_in_words(notices):
        tell(notice)
    return images[: len(good)], good


def skipped_in_words(skipped: Sequence[str], count: int) -> str:
    """`skipped 2 broken pictures of 10: a.png, b.png`"""
    more = f" and {len(skipped) - MAX_SKIPPED_SHOWN} more" if len(skipped) > MAX_SKIPPED_SHOWN else ""
    names = ", ".join(skipped[:MAX_SKIPPED_SHOWN])
    return f"skipped {len(skipped)} broken pictures of {count}: {names}{more}"


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


def _prepared(
    path: Path, image_shape: tuple[int, ...], preprocessing: Preprocessing, notices: Notices
) -> NDArray[np.uint8]:
    """One picture at the model's size: brought there, or padded as the training pictures were."""
    image = load_picture(path, image_shape, preprocessing.fit, notices)
    if preprocessing.source_size is not None and image.shape[1:] == preprocessing.source_size:
        top, bottom, left, right = preprocessing.pad
        image = np.pad(image, ((0, 0), (top, bottom), (left, right)))
    if image.shape != image_shape:  # numpy would stretch a picture of one pixel
        raise InputError(f"{shown(path)} has the shape {list(image.shape)}, expected {list(image_shape)}.")
    return image
