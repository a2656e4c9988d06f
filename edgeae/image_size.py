"""The size of an image, height before width: one number for a square, or two, on the command line as `96x128`."""

from __future__ import annotations

import re

from edgeae_runtime.errors import InputError, shown

ImageSize = int | tuple[int, int]
"""Pixels: of both sides of a square, or height and width."""

_TYPED = re.compile(r"\s*(\d{1,9})\s*(?:[xX×]\s*(\d{1,9})\s*)?", re.ASCII)


def sides(size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def simplest(size: object) -> object:
    """Two equal numbers as one, a list as a pair: the form in which equal sizes are equal. Anything else as it is."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        return size
    height, width = size
    return height if type(height) is type(width) and height == width else (height, width)


def size_in_words(size: ImageSize) -> str:
    """`96x128`, as it is typed."""
    return "x".join(map(str, sides(size)))


def parse_image_size(option: str, text: str | None) -> ImageSize | None:
    """`96x128` as (96, 128), height before width, and `64` as 64; None for nothing.

    Raises:
        InputError: it is something else.
    """
    if text is None:
        return None
    found = _TYPED.fullmatch(text)
    if not found:
        raise InputError(
            f"Got {option} {shown(text)}, expected a height and a width in pixels, such as 96x128, or one number for a "
            "square, such as 64."
        )
    height = int(found[1])
    width = int(found[2]) if found[2] else height
    return height if height == width else (height, width)
