"""JSON from strangers: numbers that are numbers, and no depth without end."""

from __future__ import annotations

import json
import math
import sys
from typing import TypeGuard

MAX_FIGURE = 1e15
"""Larger than any figure that is measured: 30 years in microseconds."""


def parse_json(raw: bytes) -> object:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds NaN or Infinity, which JSON does not have.
    """
    try:
        value: object = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def is_number(value: object, most: float = sys.float_info.max) -> TypeGuard[float]:
    """Whether a value is a finite number, of at most this size; true and false are none, and 10**400 is no float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def figure(value: object) -> float:
    """A number of a size that something measured may have.

    Raises:
        ValueError: it is something else.
    """
    if not is_number(value, MAX_FIGURE):
        raise ValueError("a figure is no number")
    return float(value)


def finite(value: object) -> object:
    """A document for JSON, which has no NaN and no infinity: null stands for figures that there are not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")
