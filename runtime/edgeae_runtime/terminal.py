"""What people read: lines that any stream can take, wherever they come from and wherever they go.

A stream may have another encoding than UTF-8, be closed, or never have been there; a file's name or a stranger's
string may hold what no stream can print, or what would steer the terminal.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shlex
import sys
from typing import TextIO

from edgeae_runtime.errors import shown

STAND_INS = {
    "✓": "ok", "✗": "FAILED", "…": "...", "×": "x", "→": "->", "±": "+-", "–": "-", "—": "-", "·": "*", "µ": "u",
    "“": '"', "”": '"', "‘": "'", "’": "'", "│": "|", "─": "-", "•": "*",
}  # fmt: skip
"""What is written where a stream's encoding has no such character; any other character is escaped."""
MAX_PARAGRAPH = 1500
"""Characters of an error: its beginning says what is wrong, its end what to do, and the middle may be a stranger's."""
MAX_NAME = 80
_HANDLER = "edgeae-plain"


def prepare_streams() -> None:
    """Make standard output and error take any text: see `STAND_INS`; a closed one takes it and drops it."""
    codecs.register_error(_HANDLER, _stand_in)
    for descriptor in range(3):  # a file opened later must not become standard output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def say(text: str, stream: TextIO | None = None) -> None:
    """Write lines to standard output, at once.

    Raises:
        OSError: it cannot be written; BrokenPipeError when nobody reads it.
    """
    stream = stream or sys.stdout
    try:
        stream.write("".join(f"{shown(line)}\n" for line in text.split("\n")))
        stream.flush()
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def tell(text: str) -> None:
    """Write lines to standard error; where nobody takes them, nothing happens."""
    with contextlib.suppress(OSError, ValueError):
        say(text, sys.stderr)


def drop_output() -> None:
    """Send what is still to come on standard output nowhere, so that Python's own flush at the end is quiet."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def cut(text: str, most: int = MAX_PARAGRAPH) -> str:
    """A text with its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = 2 * (most - 3) // 3
    return f"{text[:head]} … {text[len(text) - (most - 3 - head) :]}"


def name_of(value: object) -> str:
    """A stranger's name as it may stand in a line: printable and short."""
    return cut(shown(cut(str(value), 4 * MAX_NAME)), MAX_NAME)


def command_line(*words: object) -> str:
    """A command as it can be typed into a shell; `None` is left out."""
    return shlex.join(str(word) for word in words if word is not None)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(STAND_INS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in wrong), error.end
