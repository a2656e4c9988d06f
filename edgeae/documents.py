"""JSON documents from strangers: bounded, checked entry by entry, and the files they vouch for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.documents import is_number, parse_json
from edgeae_runtime.files.regular import read_regular
from edgeae_runtime.terminal import name_of

Document = dict[str, Any]  # one JSON object

MAX_DOCUMENT_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 32
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class FileRecord:
    """A file that a document vouches for."""

    file: str
    """Name in the document's folder, without any path."""
    sha256: str
    """64 lower-case hexadecimal digits."""
    bytes: int
    """Size of the file."""


def record_of(file: str, content: bytes) -> FileRecord:
    """The record of a file with this content."""
    return FileRecord(file, hashlib.sha256(content).hexdigest(), len(content))


def read_document(path: Path) -> Document:
    """Read a JSON object.

    Raises:
        InputError: the file cannot be read, is no regular file, is too large, or is not a JSON object.
    """
    raw = read_regular(path, MAX_DOCUMENT_BYTES, "a document that edgeae wrote")
    try:
        document = parse_json(raw)
    except ValueError as error:
        raise damaged(path, f"is not valid JSON ({name_of(error)})") from error
    return typed(document, dict, "the document", path)


def read_vouched(path: Path, record: FileRecord) -> bytes:
    """The content of a file beside the document at `path`, once it is known to be the recorded one.

    Raises:
        InputError: the file is missing, is a link, has another size or another SHA-256.
    """
    file = path.parent / record.file
    if file.is_symlink() or not file.is_file():
        raise damaged(path, f"names {record.file}, which is no file in the folder")
    try:
        size = file.stat().st_size
        if size != record.bytes:
            raise damaged(path, f"gives {record.file} {record.bytes} bytes, but it has {size}")
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {file} ({error.strerror}). Check its permissions.") from error
    if record_of(record.file, content) != record:
        raise damaged(path, f"gives {record.file} the SHA-256 {record.sha256}, but its bytes have another")
    return content


def file_record(document: Document, key: str, path: Path) -> FileRecord:
    """The file record under a key.

    Raises:
        InputError: it is missing, its name leaves the folder, or its digest or size cannot be one.
    """
    value = entry(document, key, dict, path)
    record = FileRecord(
        entry(value, "file", str, path), entry(value, "sha256", str, path), entry(value, "bytes", int, path)
    )
    if not _FILE_NAME.fullmatch(record.file):
        raise damaged(path, f"names the file {name_of(record.file)!r}, expected a plain name inside the folder")
    if not _SHA256.fullmatch(record.sha256):
        raise damaged(path, f"gives the SHA-256 {name_of(record.sha256)!r}, expected 64 hexadecimal digits")
    if not 0 < record.bytes <= MAX_FILE_BYTES:
        raise damaged(path, f"gives {record.file} {record.bytes} bytes, expected 1 to {MAX_FILE_BYTES}")
    return record


def entry(document: Document, key: str, kind: type[_T], path: Path) -> _T:
    """The value under a key, of the given kind.

    Raises:
        InputError: it is missing or of another kind.
    """
    if key not in document:
        raise damaged(path, f"lacks {key!r}")
    return typed(document[key], kind, repr(key), path)


def number(document: Document, key: str, path: Path) -> float:
    """The finite number under a key.

    Raises:
        InputError: it is missing or no finite number.
    """
    value = document.get(key)
    if not is_number(value):
        raise damaged(path, f"has {name_of(value)} for {key!r}, expected a finite number")
    return float(value)


def typed(value: object, kind: type[_T], what: str, path: Path) -> _T:
    """The value, which must be of the given kind; a truth value is no whole number.

    Raises:
        InputError: it is of another kind.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise damaged(path, f"has {type(value).__name__} for {what}, expected {kind.__name__}")
    return value


def damaged(path: Path, problem: str) -> InputError:
    """The error for a document that is not what this project writes."""
    return InputError(f"{shown(path)} {problem}. It is damaged or was not made by edgeae: train again.")
