"""What a manifest says of the encoder, of the decoder, and of the latent space between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from edgeae_runtime.bundle.layers import PRECISIONS, Layer, Precision
from edgeae_runtime.bundle.preprocessing import MAX_NUMBER
from edgeae_runtime.bundle.variants import DEFAULT, Variant, psnr_of, variants_of
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.documents import is_whole
from edgeae_runtime.files.file_record import FileRecord

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

Layout = Literal["nchw", "nhwc"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Pixels = Literal["float32", "uint8"]
PIXELS: tuple[Pixels, ...] = get_args(Pixels)
PIXEL_RANGE = (0.0, 255.0)
MAX_MODEL_BYTES = 1 << 30
"""Most bytes of a graph; what an edge device could still hold, and half of what one file of ONNX can."""
MAX_ELEMENTS = 1 << 26
"""Most numbers in one image or one latent: a picture of 4,700 x 4,700 in colour."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    dtype: Pixels
    """A numpy dtype name: `float32`, or `uint8` for images of pixels, which an encoder takes or a decoder gives."""
    shape: tuple[int | None, ...]
    """`None` stands for the batch, which may be any size from 1."""
    range: tuple[float, float] | None
    """Closed interval of the values: enforced on inputs, observed on outputs; `None` for any finite value."""
    layout: Layout = "nchw"
    """Where an image has its channels: first, or last as cameras give them."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image, its channels first."""
        sizes = tuple(size for size in self.shape[1:] if size is not None)
        return sizes if self.layout == "nchw" else (sizes[-1], *sizes[:-1])

    @classmethod
    def of(cls, entries: Entries) -> TensorSpec:
        """What a document says of it; its own error where that cannot be."""
        name = entries.take("name", str)
        dtype, shape = entries.choice("dtype", PIXELS), entries.take("shape", list)
        place = f"{entries.place('shape')} of {name[:80]!r}"
        if len(shape) < 2 or shape[0] != "batch" or not all(is_whole(n) and n > 0 for n in shape[1:]):
            raise entries.error(f"has {place} = {shape!r}, expected ['batch', then whole numbers from 1]")
        if math.prod(shape[1:]) > MAX_ELEMENTS:
            raise entries.error(f"has {place} = {shape!r}, expected at most {MAX_ELEMENTS} numbers")
        limits = _interval(entries) if "range" in entries else None
        layout = entries.choice("layout", LAYOUTS) if "layout" in entries else "nchw"
        return cls(name, dtype, (None, *shape[1:]), limits, layout)

    def as_document(self) -> Document:
        """It as JSON."""
        document: Document = {
            "name": self.name,
            "dtype": self.dtype,
            "shape": ["batch", *self.shape[1:]],
            "range": None if self.range is None else list(self.range),
        }
        return document if self.layout == "nchw" else document | {"layout": self.layout}


@dataclass(frozen=True)
class Part:
    """The encoder or the decoder."""

    record: FileRecord
    precision: Precision
    """`float32`, or `int8` when at least one layer runs in 8 bits."""
    opset: int
    ir_version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]
    variants: tuple[Variant, ...] = ()
    """Further forms of it, with the same inputs and outputs."""
    psnr_db: float | None = None
    """Of the first output against torch, over held-out inputs; None where it was not measured."""

    @property
    def input(self) -> TensorSpec:
        """The graph's only input."""
        return self.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The graph's first output."""
        return self.outputs[0]

    @property
    def forms(self) -> tuple[str, ...]:
        """The names of all its forms, itself first."""
        return (DEFAULT, *(variant.name for variant in self.variants))

    def variant(self, name: str) -> Variant | None:
        """The variant of a name; None for the part itself.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.forms:
            raise InputError(
                f"Got the form {str(name)[:80]!r}, expected one of those there are: {', '.join(self.forms)}."
            )
        return next((variant for variant in self.variants if variant.name == name), None)

    def form(self, name: str) -> Part:
        """The part in one of its forms: another file, precision and layers, the same inputs and outputs.

        Raises:
            InputError: there is none of that name.
        """
        variant = self.variant(name)
        if variant is None:
            return self
        return replace(
            self,
            record=variant.record,
            precision=variant.precision,
            opset=variant.opset,
            ir_version=variant.ir_version,
            layers=variant.layers,
            psnr_db=variant.psnr_db,
        )

    @classmethod
    def of(cls, entries: Entries) -> Part:
        """What a document says of it; its own error where that cannot be."""
        where = entries.where
        layers = tuple(Layer.of(layer) for layer in entries.each("layers"))
        inputs = tuple(TensorSpec.of(spec) for spec in entries.each("inputs"))
        outputs = tuple(TensorSpec.of(spec) for spec in entries.each("outputs"))
        if any(spec.dtype != "float32" and (spec.name, spec.range) != ("image", PIXEL_RANGE) for spec in inputs):
            raise entries.error(f"gives {where} an input that is neither float32 nor an image of uint8 in [0, 255]")
        if len(inputs) != 1 or not outputs:
            raise entries.error(
                f"gives {where} {len(inputs)} inputs and {len(outputs)} outputs, expected one and at least one"
            )
        return cls(
            record=FileRecord.of(entries, MAX_MODEL_BYTES - 1),
            precision=entries.choice("precision", PRECISIONS),
            opset=entries.take("opset", int),
            ir_version=entries.take("ir_version", int),
            inputs=inputs,
            outputs=outputs,
            layers=layers,
            variants=variants_of(entries, MAX_MODEL_BYTES - 1),
            psnr_db=psnr_of(entries),
        )

    def as_document(self) -> Document:
        """It as JSON."""
        return {
            **self.record.as_document(),
            "precision": self.precision,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "inputs": [spec.as_document() for spec in self.inputs],
            "outputs": [spec.as_document() for spec in self.outputs],
            "layers": [layer.as_document() for layer in self.layers],
            **({"variants": [variant.as_document() for variant in self.variants]} if self.variants else {}),
            **({} if self.psnr_db is None else {"psnr_db": self.psnr_db}),
        }


@dataclass(frozen=True)
class LatentSpace:
    """Where the training images lie in the latent space."""

    shape: tuple[int, ...]
    """Of one latent: [dim] for a vector, [channels, height, width] for a feature map."""
    prior: str | None
    """`"normal"` for a variational autoencoder, `None` for a plain one, which has no prior."""
    low: tuple[float, ...] | None
    """Per coordinate in the order of memory, the 1st percentile over real images; `None` when none were seen."""
    high: tuple[float, ...] | None
    """Per coordinate, the 99th percentile."""

    @property
    def dim(self) -> int:
        """Numbers in a latent."""
        return math.prod(self.shape)

    @classmethod
    def of(cls, entries: Entries) -> LatentSpace:
        """What a document says of it; its own error where that cannot be."""
        dim = entries.take("dim", int)
        shape = entries.whole_numbers("shape", 1) if "shape" in entries.document else (dim,)  # version 1: vectors only
        if min(shape) < 1 or math.prod(shape) != dim or dim > MAX_ELEMENTS:
            raise entries.error(
                f"has latent.shape = {list(shape)!r}, which is not {dim} numbers, or more than {MAX_ELEMENTS}"
            )
        low, high = (entries.numbers(key, MAX_NUMBER) if key in entries else None for key in ("low", "high"))
        if (low is None) != (high is None) or any(a > b for a, b in zip(low or (), high or (), strict=False)):
            raise entries.error("has a latent.low without a latent.high, or above it")
        return cls(shape, entries.choice("prior", ("normal",)) if "prior" in entries else None, low, high)

    def as_document(self) -> Document:
        """It as JSON."""
        return {
            "shape": list(self.shape),
            "dim": self.dim,
            "prior": self.prior,
            "low": None if self.low is None else list(self.low),
            "high": None if self.high is None else list(self.high),
        }


def _interval(entries: Entries) -> tuple[float, float]:
    numbers = entries.numbers("range", MAX_NUMBER)
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise entries.error(f"has {list(numbers)[:4]!r} for {entries.place('range')}, expected [low, high]")
    return numbers[0], numbers[1]
