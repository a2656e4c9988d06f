"""How pictures become a model's images: what a manifest says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

MAX_NUMBER = 3.4e38  # float32 holds no larger one
FITS = ("crop", "pad", "stretch")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the encoder's input; applied in the order of the fields."""

    source_size: tuple[int, int] | None
    """Height and width of the training pictures before padding; `None` when they were not padded."""
    pad: tuple[int, int, int, int]
    """Zero pixels added at the top, bottom, left and right."""
    scale: float
    """Factor from 8-bit pixels to the input's range, 1/255."""
    fit: str | None = None
    """How pictures of any size are brought to the model's: `crop`, `pad` or `stretch`; None where they are not."""

    @classmethod
    def of(cls, entries: Entries) -> Preprocessing:
        """What a document says of it; its own error where that cannot be."""
        top, bottom, left, right = entries.whole_numbers("pad", 0, 4)
        source_size = None
        if "source_size" in entries:
            height, width = entries.whole_numbers("source_size", 1, 2)
            source_size = (height, width)
        return cls(
            source_size=source_size,
            pad=(top, bottom, left, right),
            scale=entries.number("scale", MAX_NUMBER),
            fit=entries.within("resize").choice("fit", FITS) if "resize" in entries else None,
        )

    def as_document(self) -> Document:
        """It as JSON."""
        return {
            "source_size": None if self.source_size is None else list(self.source_size),
            "resize": None if self.fit is None else {"fit": self.fit},
            "pad": list(self.pad),
            "scale": self.scale,
        }

    def makes(self, image_shape: tuple[int, ...]) -> bool:
        """Whether what is added to a picture makes an image of this shape of it: `encode` would allocate the rest."""
        top, bottom, left, right = self.pad
        size = self.source_size
        if size is None and not any(self.pad):
            return True
        if size is None and self.fit is not None and len(image_shape) == 3:
            _, height, width = image_shape
            size = (height - top - bottom, width - left - right)  # to which every picture is brought first
        return (
            size is not None and min(size) >= 1 and (size[0] + top + bottom, size[1] + left + right) == image_shape[1:]
        )
