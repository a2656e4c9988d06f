"""Further forms of a part: the same function as another graph, which may be the fastest one on another processor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeae_runtime.bundle.golden_limits import CornerLimits, corner_limits_of, limits_of
from edgeae_runtime.bundle.layers import PRECISIONS, Layer, Precision
from edgeae_runtime.files.documents import MAX_FIGURE
from edgeae_runtime.files.file_record import FileRecord

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

VARIANTS_FOLDER = "variants"
DEFAULT = "default"
"""What the part itself is called among its forms."""
MAX_VARIANTS = 16
"""Most further forms of one part."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")


@dataclass(frozen=True)
class Variant:
    """One further form of a part, with the part's inputs and outputs, and limits of its own."""

    name: str
    """Lower-case letters, digits and dashes, as `int8-sub-pixel`."""
    record: FileRecord
    """Of a file in `VARIANTS_FOLDER`."""
    precision: Precision
    opset: int
    ir_version: int
    layers: tuple[Layer, ...]
    limits: Mapping[str, Mapping[str, float]]
    """Per output of the part, and for the round trip with the other part as it is, the metric's name and its limit on
    the golden vectors."""
    corners: CornerLimits
    """The same on each golden corner; empty where the bundle holds none."""
    psnr_db: float | None
    """Of the first output against torch, over held-out inputs; None where it was not measured."""

    @classmethod
    def of(cls, entries: Entries, most_bytes: int) -> Variant:
        """What a document says of it; its own error where that cannot be."""
        name = entries.take("name", str)
        if not _NAME.fullmatch(name) or name == DEFAULT:
            raise entries.error(f"has the name {name[:80]!r} in {entries.where}, expected one such as 'int8-sub-pixel'")
        return cls(
            name=name,
            record=FileRecord.of(entries, most_bytes, VARIANTS_FOLDER),
            precision=entries.choice("precision", PRECISIONS),
            opset=entries.take("opset", int),
            ir_version=entries.take("ir_version", int),
            layers=tuple(Layer.of(layer) for layer in entries.each("layers")),
            limits=limits_of(entries),
            corners=corner_limits_of(entries.within("corners")) if "corners" in entries else {},
            psnr_db=psnr_of(entries),
        )

    def as_document(self) -> Document:
        """It as JSON."""
        return {
            "name": self.name,
            **self.record.as_document(),
            "precision": self.precision,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "layers": [layer.as_document() for layer in self.layers],
            "limits": self.limits,
            "corners": {"limits": self.corners} if self.corners else None,
            "psnr_db": self.psnr_db,
        }


def variants_of(entries: Entries, most_bytes: int) -> tuple[Variant, ...]:
    """Those of a part; the document's own error where they cannot be."""
    found = tuple(Variant.of(each, most_bytes) for each in entries.each("variants")) if "variants" in entries else ()
    names, files = {each.name for each in found}, {each.record.file for each in found}
    if len(found) > MAX_VARIANTS or len(names) != len(found) or len(files) != len(found):
        raise entries.error(
            f"has {len(found)} variants with {len(names)} names and {len(files)} files in {entries.where}, expected at "
            f"most {MAX_VARIANTS}, each with its own"
        )
    return found


def psnr_of(entries: Entries) -> float | None:
    """The recorded PSNR of a form, where there is one."""
    return entries.number("psnr_db", MAX_FIGURE) if "psnr_db" in entries else None
