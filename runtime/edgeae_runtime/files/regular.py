"""Opening files that a user or a stranger named: regular ones only, so that nothing hangs, is drained or triggered."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from edgeae_runtime.errors import InputError, shown

if TYPE_CHECKING:
    from pathlib import Path

_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class NotRegularError(OSError):
    """A folder, FIFO, socket or device."""


def regular_file(path: str | Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file to read its bytes; a FIFO would wait for a writer, and a device need not end.

    What was opened is asked as well as the name, which may lead elsewhere by then.

    Args:
        path: the file.
        follow: whether it may be a link to one.

    Raises:
        NotRegularError: it is something else.
        OSError, ValueError: it cannot be opened, or its name holds a zero byte.
    """
    if stat.S_ISREG(os.stat(path, follow_symlinks=follow).st_mode):  # noqa: PTH116 importing pathlib takes 3 ms
        file = os.fdopen(os.open(path, _READING | (0 if follow else _NO_LINK)), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise NotRegularError("no regular file, but a folder, pipe or device")


def open_regular(path: str | Path, expected: str) -> BinaryIO:
    """As `regular_file`, for a file that the user named.

    Args:
        path: the file, or a link to it.
        expected: what it should be, for messages: `a picture`.

    Raises:
        InputError: there is no such file, it is a folder, FIFO, socket or device, or it cannot be opened.
    """
    try:
        return regular_file(path)
    except FileNotFoundError:
        raise InputError(f"There is no file {shown(path)}. Expected {expected}.") from None
    except NotRegularError as error:
        raise InputError(f"{shown(path)} is {error}. Expected {expected}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)} cannot be opened ({shown(error)}). Expected {expected}.") from error


def read_regular(path: str | Path, most: int, expected: str) -> bytes:
    """The bytes of a file that the user named, which has at most so many.

    Args:
        path: the file, or a link to it.
        most: bytes that such a file has at most.
        expected: what it should be, for messages.

    Raises:
        InputError: as `open_regular`, or it is larger.
    """
    with open_regular(path, expected) as file:
        try:
            raw = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
        except OSError as error:
            raise InputError(f"{shown(path)} cannot be read ({error.strerror}). Expected {expected}.") from error
    if raw is None or len(raw) > most:
        raise InputError(f"{shown(path)} is larger than {most:,} bytes. Expected {expected}.")
    return raw
