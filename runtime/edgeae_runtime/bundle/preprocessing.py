"""How pictures become a model's images: what a manifest says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

MAX_NUMBER = 3.4e38  # float32 holds no larger one
Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the encoder's input: brought to a size, padded, scaled. By default only scaled."""

    source_size: tuple[int, int] | None = None
    """Height and width of the training pictures before padding; `None` when they were not padded."""
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Zero pixels added at the top, bottom, left and right."""
    scale: float = 1 / 255
    """Factor from 8-bit pixels to the input's range."""
    fit: Fit | None = None
    """How pictures of any size are brought to the model's: `crop`, `pad` or `stretch`; None where they are not."""
    size: tuple[int, int] | None = None
    """Height and width that they were brought to; None where they were not, or where nobody wrote it down."""
    channels: int | None = None
    """What they were converted to, 1 or 3; None as for `size`."""

    @classmethod
    def of(cls, entries: Entries) -> Preprocessing:
        """What a document says of it; its own error where that cannot be."""
        top, bottom, left, right = entries.whole_numbers("pad", 0, 4)
        resize = entries.maybe_within("resize")
        return cls(
            source_size=_size(entries, "source_size"),
            pad=(top, bottom, left, right),
            scale=entries.number("scale", MAX_NUMBER),
            fit=resize.choice("fit", FITS) if "resize" in entries else None,
            size=_size(resize, "size"),
            channels=resize.take("channels", int) if "channels" in resize else None,
        )

    def as_document(self) -> Document:
        """It as JSON."""
        resize = {"size": self.size and list(self.size), "fit": self.fit, "channels": self.channels}
        document: Document = {"source_size": self.source_size and list(self.source_size)}
        if self.fit or self.source_size:  # of pictures that were only scaled nobody said what became of their size
            document["resize"] = {key: value for key, value in resize.items() if value} if self.fit else None
        return document | {"pad": list(self.pad), "scale": self.scale}

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


def _size(entries: Entries, key: str) -> tuple[int, int] | None:
    if key not in entries:
        return None
    height, width = entries.whole_numbers(key, 1, 2)
    return height, width
