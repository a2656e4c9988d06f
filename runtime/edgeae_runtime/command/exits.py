"""How a command ends, whatever happens: one paragraph and an exit status, never a traceback.

0    done
1    a check failed: parity, a signature, or, where checking is the command's purpose, a changed byte
2    bad usage, bad input, or what edgeae did not expect
130  interrupted
141  nobody reads the output any more, as for any program that ends a pipe's beginning
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from edgeae_runtime.errors import EdgeAEError, IntegrityError, ParityError, SignatureError, shown
from edgeae_runtime.terminal import cut, drop_output, prepare_streams, tell

OK, CHECK_FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
DEBUG = "EDGEAE_DEBUG"
"""The environment variable that asks for tracebacks."""
_E = TypeVar("_E", bound=BaseException)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FailedCheckError(EdgeAEError):
    """A check that the command is for has failed."""


@contextmanager
def checking() -> Iterator[None]:
    """Within, a changed byte is a check that failed; elsewhere it is bad input.

    Raises:
        FailedCheckError: in place of IntegrityError, with its words.
    """
    try:
        yield
    except IntegrityError as error:
        raise FailedCheckError(str(error)) from error


def exit_status(action: Callable[[], int]) -> int:
    """Run a command; whatever it raises becomes one paragraph on standard error and an exit status.

    What the action returns is the status of a command that ends well.
    """
    prepare_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: tell(f"warning: {cut(str(message))}")
            status = _exit_code(action)
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        status = _failed(error)
    # CPython marks a process whose interrupt passed through an `exec` of text, as dataclasses do while they are
    # imported, and, run by -m, ends it by SIGINT whatever is returned; another `exec` takes the mark away.
    exec("")
    return status


def _exit_code(action: Callable[[], int]) -> int:
    """The action's status, where it leaves by `sys.exit` as well, as argparse and typer do."""
    try:
        return action()
    except SystemExit as leaving:
        swallowed = behind(leaving, BrokenPipeError, EOFError, KeyboardInterrupt)
        if swallowed and leaving.code in (None, 0, CHECK_FAILED):
            raise swallowed from None
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or OK
        tell(str(leaving.code))
        return BAD_INPUT


def behind(error: BaseException | None, *kinds: type[_E]) -> _E | None:
    """What led to an error: rich and typer leave with 1, "a check failed", when a pipe is closed or nobody answers a
    question; what is interrupted while it is imported says that it cannot be, or, of a class, RuntimeError."""
    seen: list[BaseException] = []  # raised again behind what it led to, an error stands in its own chain
    while error is not None and all(error is not other for other in seen):
        if isinstance(error, kinds):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that an error is about, unless somebody said what it means: an error of edgeae's, or a file's."""
    return None if isinstance(error, EdgeAEError | OSError) else behind(error, KeyboardInterrupt)


def _failed(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        drop_output()
        return PIPE_CLOSED
    if isinstance(error, OSError) and error.filename in (None, "standard output"):
        drop_output()
    if interrupt_behind(error):
        tell("interrupted")
        status = INTERRUPTED
    else:
        tell(f"error: {cut(shown(describe(error)))}")
        failed = isinstance(error, ParityError | SignatureError | FailedCheckError)
        status = CHECK_FAILED if failed else BAD_INPUT
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        import traceback  # which takes a while

        tell("".join(traceback.format_exception(error)).rstrip())
    return status


def describe(error: BaseException) -> str:
    """An error as a paragraph: what happened, and what to do."""
    if isinstance(error, EdgeAEError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    said = f" ({error})" if str(error) else ""
    if isinstance(error, MemoryError):
        return (
            f"This takes more memory than this process can have{said}. Nothing half-written was left. Use fewer or "
            "smaller images at a time, or a machine with more memory."
        )
    if isinstance(error, ImportError):
        return (
            f"A library cannot be imported{said}. Install what is missing, as with pip install 'edgeae-runtime[cpu]'; "
            f"{DEBUG}=1 shows where it is asked for."
        )
    return (
        f"edgeae met what it did not expect, {type(error).__name__}{said}, and stopped. That is a fault of edgeae's, "
        f"not yours, even where the input is damaged. To see where, set {DEBUG}=1 in the environment and run the same "
        "command again; please report what it shows."
    )


def describe_os_error(error: OSError) -> str:
    """An operating system's error as a sentence with a remedy."""
    place, said = error.filename or error.filename2, error.strerror or error
    if place == "standard output":
        return f"Standard output cannot be written: {said}. Send it where there is room, or write to a file."
    remedy = "the disk has room" if error.errno in _NO_ROOM else "the folder is writable and the disk has room"
    place = place or "A file, or standard output,"
    return (
        f"{place} cannot be used: {said}. Nothing half-written was left there. Check that {remedy}, or "
        "choose another place."
    )
