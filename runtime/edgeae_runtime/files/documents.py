"""JSON from strangers: no depth without end, and entries that are checked as they are taken.

Who reads a document says which error is raised, as a function from the problem to the error: a bundle's manifest is
another's fault than a checkpoint is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from edgeae_runtime.errors import shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_FIGURE = 1e15
"""Larger than any figure that is measured: 30 years in microseconds."""
_MAX_PROBLEM = 400
Document = dict[str, Any]  # one JSON object
Wrong = Callable[[str], Exception]
"""The error for a document with this problem, which begins with a verb: "lacks 'parts'"."""
_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=str)


class Entries:
    """One JSON object: each entry is checked when it is taken, and named when it is wrong.

    Every method raises the reader's own error where an entry is missing or is not what is asked for.
    """

    __slots__ = ("document", "where", "wrong")

    def __init__(self, document: object, wrong: Wrong, where: str | None = "") -> None:
        """Begin with a document.

        Args:
            document: what should be an object.
            wrong: makes the error to raise.
            where: its place in the whole document, with dots; None names entries by their key alone.
        """
        self.where = where
        self.wrong = wrong
        self.document: Document = self.typed(document, dict, where or "the document")

    @classmethod
    def parse(cls, raw: bytes, wrong: Wrong, where: str | None = "") -> Entries:
        """The object that a JSON text stands for."""
        try:
            document = parse_json(raw)
        except ValueError as error:
            raise wrong(f"is not valid JSON ({_short(str(error))})") from error
        return cls(document, wrong, where)

    def __contains__(self, key: str) -> bool:
        """Whether there is something other than null under a key."""
        return self.document.get(key) is not None

    def place(self, key: str) -> str:
        """How an entry is named to people."""
        return repr(key) if self.where is None else f"{self.where}.{key}" if self.where else key

    def error(self, problem: str) -> Exception:
        """The reader's error, for a problem that may quote the document: what it quotes is cut and made printable."""
        return self.wrong(_short(problem))

    def take(self, key: str, kind: type[_T]) -> _T:
        """The value under a key, of the given kind."""
        if key not in self.document:
            raise self.error(f"lacks {key!r}" + ("" if self.where is None else f" in {self.where or 'the document'}"))
        return self.typed(self.document[key], kind, self.place(key))

    def within(self, key: str) -> Entries:
        """The object under a key."""
        return Entries(self.take(key, dict), self.wrong, None if self.where is None else self.place(key))

    def maybe_within(self, key: str) -> Entries:
        """The same; an empty object where there is nothing, or null."""
        return self.within(key) if key in self else Entries({}, self.wrong, self.where)

    def each(self, key: str) -> list[Entries]:
        """The objects in the list under a key."""
        where = None if self.where is None else self.place(key)
        return [Entries(self.typed(item, dict, self.place(key)), self.wrong, where) for item in self.take(key, list)]

    def each_of(self, key: str, kind: type[_T]) -> list[_T]:
        """The values of the given kind in the list under a key."""
        return [self.typed(item, kind, self.place(key)) for item in self.take(key, list)]

    def choice(self, key: str, choices: tuple[_Word, ...]) -> _Word:
        """The word under a key, one of the choices."""
        return self.one_of(self.take(key, str), choices, self.place(key))

    def number(self, key: str, most: float = sys.float_info.max, missing: float | None = None) -> float:
        """The finite number under a key, of at most this size; or the given one where nothing is there."""
        value = self.document.get(key, missing)
        return self._number(value, most, self.place(key))

    def numbers(self, key: str, most: float = sys.float_info.max) -> tuple[float, ...]:
        """The finite numbers in the list under a key."""
        return tuple(self._number(value, most, self.place(key)) for value in self.take(key, list))

    def whole_numbers(self, key: str, least: int, count: int | None = None) -> tuple[int, ...]:
        """The whole numbers in the list under a key: so many, or at least one."""
        values = self.take(key, list)
        good = len(values) == count if count else len(values) > 0
        if not good or not all(is_whole(value) and value >= least for value in values):
            expected = f"{count} whole numbers" if count else "whole numbers"
            raise self.error(f"has {_told(values)} for {self.place(key)}, expected {expected} from {least}")
        return tuple(values)

    def one_of(self, value: str, choices: tuple[_Word, ...], where: str) -> _Word:
        """The value, one of the choices."""
        for choice in choices:
            if choice == value:
                return choice
        raise self.error(f"has {_told(value)} in {where}, expected {' or '.join(choices)}")

    def typed(self, value: object, kind: type[_T], where: str) -> _T:
        """The value, of the given kind; a truth value is no whole number."""
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"has {type(value).__name__} for {where}, expected {kind.__name__}")
        return value

    def _number(self, value: object, most: float, where: str) -> float:
        if not is_number(value, most):
            bound = "" if most == sys.float_info.max else f" of at most {most:g}"
            raise self.error(f"has {_told(value)} for {where}, expected a finite number{bound}")
        return float(value)


def parse_json(raw: bytes) -> object:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds NaN or Infinity, which JSON does not have.
    """
    import json  # here: it takes a millisecond that only reading a document needs

    try:
        text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")  # some editors begin a file with such a mark
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def is_number(value: object, most: float = sys.float_info.max) -> TypeGuard[float]:
    """Whether a value is a finite number, of at most this size; true and false are none, and 10**400 is no float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def finite(value: object) -> object:
    """A document for JSON, which has no NaN and no infinity: null stands for figures that there are not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """A document as every file of ours has it; ValueError where it holds NaN or infinity."""
    import json

    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, report: dict[str, Any]) -> None:
    """Write a report, atomically; to standard output for `-`. What is not a number becomes null."""
    from edgeae_runtime.files.writing import write_atomically  # here: a runtime that only reads does without it

    raw = json_bytes({key: finite(entry) for key, entry in report.items()})
    write_atomically(path, lambda file: file.write(raw))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")


def _short(problem: str) -> str:
    from edgeae_runtime.terminal import cut  # here: only an error needs it

    return cut(shown(cut(problem, 4 * _MAX_PROBLEM)), _MAX_PROBLEM)


def _told(value: object) -> str:
    from edgeae_runtime.terminal import name_of

    return name_of(repr(value))
