"""Every error this project raises on purpose.

    EdgeAEError
    ├── InputError        an argument, array or file the caller gave cannot be used
    ├── BundleError       a bundle cannot be read
    │   └── IntegrityError    its bytes are not the ones that were exported
    │       └── SignatureError    or not the ones that the holder of a key signed
    ├── ProviderError     the execution provider asked for cannot run here
    ├── TimeLimitError    a run took longer than it was allowed
    └── ParityError       the outputs differ from the torch model by more than the limit

Each message is one paragraph that says what was given, what was expected, and what to do.
"""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 10_000  # what comes behind is not even looked at


class EdgeAEError(Exception):
    """Root of the tree; catch it to catch every error raised on purpose."""


class InputError(EdgeAEError, ValueError):
    """An argument, array or file given by the caller cannot be used."""


class BundleError(EdgeAEError):
    """A bundle cannot be read: it is missing, malformed, or from another format version."""


class IntegrityError(BundleError):
    """A file of the bundle does not have the bytes its manifest promises."""


class SignatureError(IntegrityError):
    """A bundle is not signed, not by the key that was asked for, or not as it is."""


class ProviderError(EdgeAEError):
    """The execution provider asked for cannot run on this machine."""


class TimeLimitError(EdgeAEError):
    """A run took longer than it was allowed, and was ended."""


class ParityError(EdgeAEError):
    """Outputs differ from the torch model's by more than the recorded limit."""


def shown(name: object) -> str:
    """A name or message that any stream can print on one line: what cannot be printed, as bytes that are not UTF-8 or
    a line's end, is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def gist(error: object, most: int = 200) -> str:
    """What an error of another library says, to stand in a sentence: on one line that any stream can print, without
    terminal colours and its full stop, at most so many characters; its type where it says nothing."""
    said = shown(" ".join(_COLOURS.sub("", str(error)[:_LONGEST]).split())).rstrip(".")
    return (said if len(said) <= most else f"{said[: most - 1]}…") or type(error).__name__
