"""What a manifest says of a graph's layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

Precision = Literal["float32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Layer:
    """A layer that carries weights, and the precision it was exported in."""

    name: str
    op: str
    precision: Precision

    @classmethod
    def of(cls, entries: Entries) -> Layer:
        """What a document says of it; its own error where that cannot be."""
        return cls(entries.take("name", str), entries.take("op", str), entries.choice("precision", PRECISIONS))

    def as_document(self) -> Document:
        """It as JSON."""
        return asdict(self)
