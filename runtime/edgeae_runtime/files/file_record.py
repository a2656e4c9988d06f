"""Files that a document vouches for."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """A file beside a document, as it was written."""

    file: str
    """Name inside the document's folder, without any path, or behind the one folder that was asked for."""
    sha256: str
    """64 lower-case hexadecimal digits."""
    bytes: int
    """Size of the file."""

    @classmethod
    def of(cls, entries: Entries, most: int, folder: str = "") -> FileRecord:
        """What a document says of a file of at most so many bytes; its own error where that cannot be.

        Args:
            entries: the document.
            most: bytes.
            folder: the one folder beside the document in which the file lies; by default it lies beside the document.
        """
        inside = f"{folder}/" if folder else ""
        record = cls(entries.take("file", str), entries.take("sha256", str), entries.take("bytes", int))
        if not record.file.startswith(inside) or not _FILE_NAME.fullmatch(record.file.removeprefix(inside)):
            raise entries.error(
                f"names the file {record.file[:80]!r}, which is no plain file name: expected a plain name inside the "
                f"folder{' ' + folder if folder else ''}"
            )
        if not _SHA256.fullmatch(record.sha256):
            raise entries.error(
                f"has {record.sha256[:80]!r} for {entries.place('sha256')}, expected 64 hexadecimal digits"
            )
        if not 0 < record.bytes <= most:
            raise entries.error(f"gives {entries.place('bytes')} {record.bytes} bytes, expected 1 to {most}")
        return record

    def as_document(self) -> Document:
        """The record as JSON."""
        return asdict(self)


def record_of(file: str, content: bytes) -> FileRecord:
    """The record of a file with this content."""
    import hashlib  # here: most readers of a manifest hash nothing

    return FileRecord(file, hashlib.sha256(content).hexdigest(), len(content))
