"""One picture file into pixels: only the formats that are meant, only regular files, only so many pixels.

A file's name says nothing of its content, and pillow knows formats that start programs or take gigabytes: what is no
PNG, JPEG, BMP, WebP or TIFF by its first bytes is refused before a decoder sees it.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.bundle.preprocessing import Fit
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.regular import open_regular

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 110_000_000
"""Four bytes each stay below 512 MB; half as many where a second copy is needed, for transparency or 16 bits."""
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112
_TURNED = range(5, 9)  # EXIF orientations that swap height and width
_WHITE_IS_ZERO, _BITS, _LARGEST, _PHOTOMETRIC = 0, 258, 281, 262  # TIFF's value, and its tags
_DIM = 1 << 12  # 16 bits whose values end below: fewer bits in 16, or a nearly black picture
_DARK = 1 << 14

Picture = Any  # pillow is an extra, without types here
Notices = Counter[str]
TRANSPARENT = "{} with transparency put on white."
PAGES = "{} with several pages or frames: their first was taken."
UNKNOWN_DEPTH = (
    "{} of 16 bits read as such, though their values end below a quarter of the range: if they have fewer bits, they "
    "are too dark now; convert them to 8 bits."
)


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


def notices_in_words(notices: Notices) -> list[str]:
    """What was done to pictures, a sentence each, with how many there were."""
    return [text.format(f"{count} picture{'s' if count > 1 else ''}") for text, count in notices.items()]


def picture_header(path: Path) -> tuple[tuple[int, int], bool]:
    """Height and width of a picture, upright, and whether it is grey; from its header alone.

    Raises:
        InputError: as `load_picture`.
    """
    with _opened(path) as (picture, _):
        width, height = picture.size
        # A TIFF's size is upright already: pillow turns it while it loads.
        turned = picture.format != "TIFF" and picture.getexif().get(_ORIENTATION) in _TURNED
        return ((width, height) if turned else (height, width)), picture.mode in _GREY_MODES


def load_picture(
    path: Path, image_shape: tuple[int, ...], fit: Fit | None, notices: Notices | None = None
) -> NDArray[np.uint8]:
    """One picture file as uint8 [channels, height, width]: turned upright as its EXIF says, put on white where it is
    transparent, its 16 bits scaled to 8; of several pages the first.

    Args:
        path: the file.
        image_shape: channels (1 or 3), height, width.
        fit: how a picture of another size is brought to this one: `crop` its middle, `pad` it with black, or `stretch`
            it, bilinearly with antialiasing; None leaves its size, which may be another one then.
        notices: counts what was done that a user should know of; see `notices_in_words`.

    Raises:
        InputError: the file is not a readable picture of known depth, or pillow is missing.
    """
    channels, height, width = image_shape
    seen: Notices = Counter()
    with _opened(path) as (file, raw):
        picture = _in_bytes(file, raw, "L" if channels == 1 else "RGB", seen)
        if fit is not None and picture.size != (width, height):
            picture = _brought(picture, (width, height), fit)
        pixels = np.asarray(picture)
    if notices is not None:
        notices.update(seen)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Picture, BinaryIO]]:
    """A picture of a regular file, and the file; whatever goes wrong inside is an InputError."""
    library = pillow()
    try:
        with open_regular(path, "a picture") as raw, library.open(raw, formats=FORMATS) as picture:
            count = picture.size[0] * picture.size[1]
            most = MAX_PIXELS // 2 if _transparent(picture) or ";" in picture.mode else MAX_PIXELS
            if count > most:
                raise InputError(f"has {count:,} pixels, expected at most {most:,}. Make it smaller.")
            yield picture, raw
    except InputError as error:
        raise error if shown(path) in str(error) else InputError(f"{shown(path)} {error}") from error
    except Exception as error:  # a file from anywhere: decoders and EXIF readers raise anything
        unknown = type(error).__name__ == "UnidentifiedImageError"  # its text is Python's name of the open file
        why = "of another format, or damaged at its start" if unknown else shown(error)[:200] or type(error).__name__
        raise InputError(
            f"{shown(path)} is not a readable picture ({why}). Expected "
            f"{', '.join(FORMATS)}: remove it or convert it again."
        ) from error


def _in_bytes(file: Picture, raw: BinaryIO, mode: str, seen: Notices) -> Picture:
    """The picture upright, without transparency, of 8 bits in a channel: mode `L` or `RGB`."""
    from PIL import ImageOps

    if getattr(file, "is_animated", False):
        seen[PAGES] += 1
    stored, known = _depth(file, raw)
    white_is_zero = file.format == "TIFF" and file.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    ImageOps.exif_transpose(file, in_place=True)
    if file.mode == "F" or (file.mode.startswith("I") and stored != 16):
        raise InputError(
            f"holds floating-point or 32-bit values (mode {file.mode}), expected 8 or 16 bits in a channel: which of "
            "its values is white is not known. Convert it to 8 bits first."
        )
    if file.mode.startswith("I"):
        return _deep_grey(file, known, white_is_zero, seen).convert(mode)
    on_white = _on_white(file, seen)
    picture = on_white if on_white.mode == mode else on_white.convert(mode)
    if stored == 16:  # pillow kept each value's upper byte
        top = max(high for _, high in np.atleast_2d(np.array(picture.getextrema())).tolist())
        if 0 < top < _DIM >> 8 or (file.format == "TIFF" and known):
            raise InputError(_too_dim((top + 1) << 8))
        seen[UNKNOWN_DEPTH] += int(0 < top < _DARK >> 8)
    return picture


def _deep_grey(file: Picture, known: int | None, white_is_zero: bool, seen: Notices) -> Picture:
    """Sixteen bits of grey as eight, by the depth that the file states; what no depth can be told of is refused."""
    values = np.asarray(file).astype(np.uint16, copy=False)
    key = file.info.get("transparency")
    top = int(values.max())
    largest = _largest(values, top, known, file.format)
    if known is None and 0 < top < _DIM:
        raise InputError(_too_dim(top))
    if known is None and 0 < top < _DARK:
        seen[UNKNOWN_DEPTH] += 1
    levels = np.minimum(np.arange(1 << 16, dtype=np.int64), largest)
    table = ((levels * 510 + largest) // (2 * largest)).astype(np.uint8)  # rounded to the nearest
    if white_is_zero:
        table = 255 - table
    if isinstance(key, int) and 0 <= key < 1 << 16:
        table[key] = 255
        seen[TRANSPARENT] += 1
    return pillow().fromarray(table[values])


def _largest(values: NDArray[np.uint16], top: int, known: int | None, format: str) -> int:  # noqa: A002 pillow's word
    """The value that is white. A PNG's writer scales its bits up to 16, and says in sBIT how many they were; some do
    not scale. Scaled values this small are multiples of the scale."""
    if known is None or known == 16:
        return 0xFFFF
    scaled = top >= 1 << known or not (values & ((1 << (16 - known)) - 1)).any()
    return 0xFFFF if format == "PNG" and scaled else (1 << known) - 1


def _too_dim(top: int) -> str:
    return (
        f"has 16 bits in a channel, but its values end at {top}: it has fewer bits than its file can hold, or is "
        "nearly black. Which of its values is white is not known: convert it to 8 bits first."
    )


def _transparent(picture: Picture) -> bool:
    palette = getattr(picture, "palette", None)
    return (
        picture.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        or "transparency" in picture.info
        or (palette is not None and palette.mode.endswith("A"))
    )


def _on_white(picture: Picture, seen: Notices) -> Picture:
    """A picture with its transparent parts white; the same one where there are none."""
    if not _transparent(picture):
        return picture
    layer = picture.convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema()[0] < 255:
        seen[TRANSPARENT] += 1
    ground = pillow().new("RGB", layer.size, (255, 255, 255))
    ground.paste(layer, mask=alpha)
    return ground


def _brought(picture: Picture, size: tuple[int, int], fit: Fit) -> Picture:
    from PIL import ImageOps

    method = pillow().Resampling.BILINEAR
    if fit == "crop":
        return ImageOps.fit(picture, size, method=method)
    if fit == "pad":
        scale = min(size[0] / picture.width, size[1] / picture.height)
        within = [max(round(side * scale), 1) for side in picture.size]
        if min(side * scale for side in picture.size) < 1:  # a line: pillow would make it nothing
            picture = picture.resize(within, method)
        return ImageOps.pad(picture, size, method=method)
    return picture.resize(size, method)


def _depth(picture: Picture, raw: BinaryIO) -> tuple[int, int | None]:
    """How many bits the file stores in a channel, and how many of them it says it uses, where it says so."""
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(_BITS, (1,))
        stored = max(bits) if isinstance(bits, tuple) else int(bits)
        largest = picture.tag_v2.get(_LARGEST)
        largest = max(largest) if isinstance(largest, tuple) else largest
        if 8 < stored < 16:
            return 16, stored
        return stored, int(largest).bit_length() if stored == 16 and largest and largest < 0xFFFF else None
    if picture.format != "PNG":
        return 8, None
    place = raw.tell()
    try:
        raw.seek(0)
        head = raw.read(1 << 16)
    finally:
        raw.seek(place)
    depth = head[24] if len(head) > 24 else 8
    return depth, _significant_bits(io.BytesIO(head[8:])) if depth == 16 else None


def _significant_bits(chunks: BinaryIO) -> int | None:
    """What a PNG's sBIT chunk says; it stands before the palette and the pixels."""
    while len(start := chunks.read(8)) == 8 and start[4:] not in (b"IDAT", b"PLTE"):
        data = chunks.read(int.from_bytes(start[:4], "big"))
        chunks.read(4)
        if start[4:] == b"sBIT" and data and 1 <= max(data[:3]) <= 16:
            return max(data[:3])
    return None
