"""Opening files that a user or a stranger named: regular ones only, so that nothing hangs, is drained or triggered."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from edgeae_runtime.errors import InputError, shown

_NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | Path, expected: str) -> BinaryIO:
    """Open a file to read its bytes; what was opened is asked, not the name, which may lead elsewhere by then.

    Args:
        path: the file, or a link to it.
        expected: what it should be, for messages: `a picture`.

    Raises:
        InputError: there is no such file, it is a folder, FIFO, socket or device, or it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NOT_BLOCKING) if stat.S_ISREG(Path(path).stat().st_mode) else None
        if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        if descriptor is not None:
            os.close(descriptor)
    except FileNotFoundError:
        raise InputError(f"There is no file {shown(path)}. Expected {expected}.") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise InputError(f"{shown(path)} cannot be opened ({shown(error)}). Expected {expected}.") from error
    raise InputError(f"{shown(path)} is no regular file, but a folder, pipe or device. Expected {expected}.")
