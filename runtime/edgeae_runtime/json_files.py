"""JSON from strangers: a bounded read of a regular file, and numbers that are numbers."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import TypeGuard

from edgeae_runtime.errors import InputError, shown

MAX_FIGURE = 1e15
"""Larger than any figure that is measured: 30 years in microseconds."""


def read_regular(path: str | Path, most: int, expected: str) -> bytes:
    """The bytes of a regular file; devices and pipes, which may never end, are not opened for reading.

    Args:
        path: the file.
        most: bytes that such a file has at most.
        expected: what the file should be, for the message.

    Raises:
        InputError: it is missing, no regular file, larger, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{shown(path)} is no regular file, expected {expected}.")
            raw = file.read(most + 1) if found.st_size <= most else b""
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror}), expected {expected}.") from error
    except ValueError as error:  # a null byte in the name
        raise InputError(f"{shown(path)} cannot be read ({error}), expected {expected}.") from error
    if found.st_size > most or len(raw) > most:
        raise InputError(f"{shown(path)} is larger than {most:,} bytes, expected {expected}.")
    return raw


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
