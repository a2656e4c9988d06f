"""Checking the plain arguments a caller gives: numbers of a kind, in a range, and nothing else that looks like them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeae_runtime.errors import InputError

if TYPE_CHECKING:
    from edgeae_runtime.bundle.parts import Part


def whole_number(value: object, what: str, least: int, most: int | None = None, why: str = "") -> int:
    """`value` as an int from `least` to `most`; also numpy's integers.

    Raises:
        InputError: it is another type, as True, "2" and 1.5 are, or outside.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"Got {_shown(value)} {what} (of type {type(value).__name__}), expected a whole number from {least}{why}."
        ) from None
    if number < least or (most is not None and number > most):
        upto = "" if most is None else f" to {most}"
        raise InputError(f"Got {number} {what}, expected a whole number from {least}{upto}{why}.")
    return number


def seed_of(value: object) -> int | None:
    """A seed of numpy's generators: None, or a whole number from 0.

    Raises:
        InputError: it is neither.
    """
    return None if value is None else whole_number(value, "as the seed", 0)


def seconds_or_none(value: object) -> float | None:
    """A time limit: None, or finite seconds above 0.

    Raises:
        InputError: it is neither.
    """
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, (bool, str, bytes)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= 1e6:
        raise InputError(f"Got timeout_s={_shown(value)}, expected seconds above 0, or None for no limit.")
    return seconds


def names_of_parts(value: object) -> list[str] | None:
    """Names of parts, of which one alone may be given as a string; None for all there are.

    Raises:
        InputError: anything else, or none at all.
    """
    if value is None:
        return None
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"Got parts={_shown(value)}, expected names such as ('encoder', 'decoder'), or None for all.")
    return list(dict.fromkeys(names))


def names_of_forms(value: object, parts: Mapping[str, Part]) -> dict[str, str]:
    """The form asked for of each part; none for None.

    Raises:
        InputError: anything but a mapping from parts that there are to forms that they have.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for each in value.items() for text in each):
        raise InputError(f"Got variants={_shown(value)}, expected parts and forms such as {{'decoder': 'default'}}.")
    for name, form in value.items():
        if name not in parts:
            raise InputError(f"Got a form of {name[:80]!r}, expected one of the bundle's parts: {', '.join(parts)}.")
        parts[name].variant(form)
    return dict(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
