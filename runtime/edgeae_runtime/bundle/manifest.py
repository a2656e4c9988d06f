"""The manifest of a bundle: what `manifest.json` says, checked once, as frozen dataclasses.

A bundle is a folder that holds `encoder.onnx` and `decoder.onnx` (either may be left out), `manifest.json`,
`golden.npz` and a model card, `README.md`. The manifest is the only file that is trusted by its place; every
other file is trusted by the SHA-256 that the manifest records for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgeae_runtime.errors import BundleError, shown

FORMAT_VERSION = 2
"""2 added latents that are feature maps, the encoder's log-variance, and images of any number of axes."""
READABLE_VERSIONS = (1, 2)
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_MODEL_BYTES = 1 << 30
"""Most bytes of a graph; what an edge device could still hold, and half of what one file of ONNX can."""
MAX_ELEMENTS = 1 << 26
"""Most numbers in one image or one latent: a picture of 4,700 x 4,700 in colour."""
MAX_NUMBER = 3.4e38  # float32 holds no larger one
PARTS = ("encoder", "decoder")
PRECISIONS = ("float32", "int8")
GOLDEN_OUTPUTS = ("latent", "log_variance", "image", "reconstruction")
GOLDEN_METRICS = ("max_abs", "psnr_db")
MAX_GOLDEN = 64
"""Most golden images, and most corners."""
FITS = ("crop", "pad", "stretch")

Document = dict[str, Any]  # one JSON object
_T = TypeVar("_T")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle as it was exported."""

    file: str
    """Name inside the bundle's folder, without any path."""
    sha256: str
    """64 lower-case hexadecimal digits."""
    bytes: int
    """Size of the file."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    dtype: str
    """A numpy dtype name: `float32`, or `uint8` for the pixels of a decoder that was exported to give them."""
    shape: tuple[int | None, ...]
    """`None` stands for the batch, which may be any size from 1."""
    range: tuple[float, float] | None
    """Closed interval of the values: enforced on inputs, observed on outputs; `None` for any finite value."""


@dataclass(frozen=True)
class Layer:
    """A layer that carries weights, and the precision it was exported in."""

    name: str
    op: str
    precision: str


@dataclass(frozen=True)
class Part:
    """The encoder or the decoder."""

    record: FileRecord
    precision: str
    """`float32`, or `int8` when at least one layer runs in 8 bits."""
    opset: int
    ir_version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]

    @property
    def input(self) -> TensorSpec:
        """The graph's only input."""
        return self.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The graph's first output."""
        return self.outputs[0]


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


@dataclass(frozen=True)
class GoldenCorners:
    """Golden vectors of inputs that no real image shows: black, white, noise, zeros as a latent, and the like."""

    names: tuple[str, ...]
    """What each corner is, those of images first; at most `MAX_GOLDEN`."""
    images: int
    """How many of them are images; the others are latents only."""
    limits: Mapping[str, Mapping[str, tuple[float, ...]]]
    """Per output: the metric's name and its limit on each corner."""


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime has to know about a bundle."""

    parts: Mapping[str, Part]
    golden: FileRecord
    preprocessing: Preprocessing
    latent: LatentSpace
    golden_limits: Mapping[str, Mapping[str, float]]
    """Per output (`latent`, `log_variance`, `image`, `reconstruction`): the metric's name and its limit on the golden
    vectors."""
    golden_corners: GoldenCorners | None
    """None in bundles of before corners were kept."""
    document: Document = field(repr=False)
    """The whole JSON document, for what only people read: parity figures, recipe, tool versions."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width; or channels and length of a signal, or the length of a row."""
        spec = self.parts["encoder"].input if "encoder" in self.parts else self.parts["decoder"].output
        return tuple(n for n in spec.shape[1:] if n is not None)

    @property
    def variational(self) -> bool:
        """Whether the encoder gives the log-variance beside the mean."""
        return "encoder" in self.parts and len(self.parts["encoder"].outputs) == 2


def parse_manifest(raw: bytes) -> Manifest:
    """Read and validate `manifest.json`.

    Raises:
        BundleError: it is not JSON, is of another format version, or a field is missing or of a wrong kind.
    """
    import json  # here: it takes a millisecond that only reading a manifest needs

    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"is not valid JSON ({error})") from error
    root = _typed(document, dict, "the document")
    version = _entry(root, "format_version", int, "the document")
    if version not in READABLE_VERSIONS:
        remedy = "update edgeae-runtime" if version > FORMAT_VERSION else "export the bundle again"
        raise BundleError(
            f"This bundle has format version {version}; this edgeae-runtime reads version {READABLE_VERSIONS[0]} "
            f"to {FORMAT_VERSION}. "
            f"To use it, {remedy}."
        )
    parts = {
        name: _part(_typed(value, dict, f"parts.{name}"), f"parts.{name}")
        for name, value in _entry(root, "parts", dict, "the document").items()
        if _one_of(name, PARTS, "parts")
    }
    if not parts:
        raise _damaged("names neither an encoder nor a decoder under 'parts'")
    manifest = Manifest(
        parts=parts,
        golden=_file_record(_entry(root, "golden", dict, "the document"), "golden"),
        preprocessing=_preprocessing(_entry(root, "preprocessing", dict, "the document")),
        latent=_latent(_entry(root, "latent", dict, "the document")),
        golden_limits=_golden_limits(_entry(root, "golden", dict, "the document")),
        golden_corners=_golden_corners(root["golden"]),
        document=root,
    )
    _check_agreement(manifest)
    return manifest


def _part(value: Document, where: str) -> Part:
    layers = tuple(
        Layer(
            name=_entry(layer, "name", str, f"{where}.layers"),
            op=_entry(layer, "op", str, f"{where}.layers"),
            precision=_one_of(_entry(layer, "precision", str, f"{where}.layers"), PRECISIONS, f"{where}.layers"),
        )
        for layer in _objects(value, "layers", where)
    )
    inputs = tuple(_tensor(spec, f"{where}.inputs") for spec in _objects(value, "inputs", where))
    outputs = tuple(_tensor(spec, f"{where}.outputs") for spec in _objects(value, "outputs", where))
    if any(spec.dtype != "float32" for spec in inputs):
        raise _damaged(f"gives {where} an input that is not float32")
    if len(inputs) != 1 or not outputs:
        raise _damaged(f"gives {where} {len(inputs)} inputs and {len(outputs)} outputs, expected one and at least one")
    return Part(
        record=_file_record(value, where),
        precision=_one_of(_entry(value, "precision", str, where), PRECISIONS, f"{where}.precision"),
        opset=_entry(value, "opset", int, where),
        ir_version=_entry(value, "ir_version", int, where),
        inputs=inputs,
        outputs=outputs,
        layers=layers,
    )


def _file_record(value: Document, where: str) -> FileRecord:
    record = FileRecord(
        file=_entry(value, "file", str, where),
        sha256=_entry(value, "sha256", str, where),
        bytes=_entry(value, "bytes", int, where),
    )
    if not _FILE_NAME.fullmatch(record.file):
        raise _damaged(f"has {where}.file = {record.file!r}, expected a plain file name inside the bundle")
    if not _SHA256.fullmatch(record.sha256):
        raise _damaged(f"has {where}.sha256 = {record.sha256!r}, expected 64 hexadecimal digits")
    if not 0 < record.bytes < MAX_MODEL_BYTES:
        raise _damaged(f"has {where}.bytes = {record.bytes}, expected 1 to {MAX_MODEL_BYTES - 1}")
    return record


def _tensor(value: Document, where: str) -> TensorSpec:
    name = _entry(value, "name", str, where)
    where = f"{where} {name!r}"
    dtype = _one_of(_entry(value, "dtype", str, where), ("float32", "uint8"), f"{where}.dtype")
    shape = _entry(value, "shape", list, where)
    if len(shape) < 2 or shape[0] != "batch" or not all(_is_int(n) and n > 0 for n in shape[1:]):
        raise _damaged(f"has {where}.shape = {shape!r}, expected ['batch', then whole numbers from 1]")
    if math.prod(shape[1:]) > MAX_ELEMENTS:
        raise _damaged(f"has {where}.shape = {shape!r}, expected at most {MAX_ELEMENTS} numbers")
    limits = value.get("range")
    return TensorSpec(name, dtype, (None, *shape[1:]), None if limits is None else _interval(limits, f"{where}.range"))


def _preprocessing(value: Document) -> Preprocessing:
    where = "preprocessing"
    size, pad = value.get("source_size"), _entry(value, "pad", list, where)
    if len(pad) != 4 or not all(_is_int(n) and n >= 0 for n in pad):
        raise _damaged(f"has {where}.pad = {pad!r}, expected four whole numbers from 0")
    if size is not None and (
        not isinstance(size, list) or len(size) != 2 or not all(_is_int(n) and n > 0 for n in size)
    ):
        raise _damaged(f"has {where}.source_size = {size!r}, expected [height, width] or null")
    resize = value.get("resize")
    fit = None if resize is None else _entry(_typed(resize, dict, f"{where}.resize"), "fit", str, f"{where}.resize")
    return Preprocessing(
        fit=None if fit is None else _one_of(fit, FITS, f"{where}.resize.fit"),
        source_size=None if size is None else (size[0], size[1]),
        pad=(pad[0], pad[1], pad[2], pad[3]),
        scale=float(_number(value.get("scale"), f"{where}.scale")),
    )


def _latent(value: Document) -> LatentSpace:
    prior = value.get("prior")
    dim = _entry(value, "dim", int, "latent")
    shape = value.get("shape", [dim])  # version 1 has vectors only
    if not isinstance(shape, list) or not shape or not all(_is_int(n) and n > 0 for n in shape):
        raise _damaged(f"has latent.shape = {shape!r}, expected whole numbers from 1")
    if math.prod(shape) != dim or dim > MAX_ELEMENTS:
        raise _damaged(f"has latent.shape = {shape!r}, which is not {dim} numbers, or more than {MAX_ELEMENTS}")
    low, high = _numbers(value.get("low"), "latent.low"), _numbers(value.get("high"), "latent.high")
    if (low is None) != (high is None) or any(a > b for a, b in zip(low or (), high or (), strict=False)):
        raise _damaged("has a latent.low without a latent.high, or above it")
    return LatentSpace(
        shape=tuple(shape),
        prior=None if prior is None else _one_of(_typed(prior, str, "latent.prior"), ("normal",), "latent.prior"),
        low=low,
        high=high,
    )


def _golden_limits(value: Document) -> dict[str, dict[str, float]]:
    limits: dict[str, dict[str, float]] = {}
    for output, metrics in _entry(value, "limits", dict, "golden").items():
        where = f"golden.limits.{output}"
        _one_of(output, GOLDEN_OUTPUTS, "golden.limits")
        limits[output] = {
            _one_of(metric, GOLDEN_METRICS, where): float(_number(limit, f"{where}.{metric}"))
            for metric, limit in _typed(metrics, dict, where).items()
        }
        if not limits[output]:
            raise _damaged(f"gives {where} no limit, so nothing could be verified")
    return limits


def _golden_corners(golden: Document) -> GoldenCorners | None:
    if golden.get("corners") is None:
        return None
    where = "golden.corners"
    value = _entry(golden, "corners", dict, "golden")
    names = tuple(_typed(name, str, f"{where}.names") for name in _entry(value, "names", list, where))
    images = _entry(value, "images", int, where)
    if not 0 <= images <= len(names) <= MAX_GOLDEN or not names:
        raise _damaged(f"has {images} images among {len(names)} names in {where}, expected 1 to {MAX_GOLDEN} names")
    limits: dict[str, dict[str, tuple[float, ...]]] = {}
    for output, metrics in _entry(value, "limits", dict, where).items():
        _one_of(output, GOLDEN_OUTPUTS, f"{where}.limits")
        place, count = f"{where}.limits.{output}", len(names) if output == "image" else images
        limits[output] = {}
        for metric, each in _typed(metrics, dict, place).items():
            numbers = _numbers(each, f"{place}.{metric}") or ()
            if len(numbers) != count:
                raise _damaged(f"has {len(numbers)} numbers for {place}.{metric}, expected {count}")
            limits[output][_one_of(metric, GOLDEN_METRICS, place)] = numbers
        if not limits[output]:
            raise _damaged(f"gives {place} no limit, so nothing could be verified")
    return GoldenCorners(names, images, limits)


def _check_agreement(manifest: Manifest) -> None:
    """The parts, the latent space and the limits must describe one autoencoder."""
    dim, shape, parts = manifest.latent.dim, (None, *manifest.latent.shape), manifest.parts
    latents = {
        "encoder": lambda part: part.output,
        "decoder": lambda part: part.input,
    }
    for name, part in parts.items():
        latent, image = latents[name](part), part.input if name == "encoder" else part.output
        if latent.shape != shape or len(image.shape) > 5:
            raise _damaged(
                f"gives the {name} shapes {part.input.shape} -> {part.output.shape}, expected latents of {shape} and "
                "images of two to five axes"
            )
        most = 2 if name == "encoder" else 1
        if len(part.outputs) > most or any(spec.shape != shape for spec in part.outputs[1:]):
            raise _damaged(f"gives the {name} outputs other than a latent and its log-variance, or an image")
    if len(parts) == 2 and parts["encoder"].input.shape != parts["decoder"].output.shape:
        raise _damaged("gives the encoder and the decoder different image shapes")
    _check_padding(manifest)
    for bound in (manifest.latent.low, manifest.latent.high):
        if bound is not None and len(bound) != dim:
            raise _damaged(f"bounds {len(bound)} latent coordinates, expected {dim}")
    expected = {"encoder": ["latent"], "decoder": ["image"]}
    expected["encoder"] += ["log_variance"] if manifest.variational else []
    wanted = [output for name in parts for output in expected[name]]
    missing = [output for output in wanted if output not in manifest.golden_limits]
    if missing:
        raise _damaged(f"has no golden.limits for {', '.join(missing)}")
    corners = manifest.golden_corners
    if corners is not None:
        unlimited = [output for output in wanted if output not in corners.limits]
        if any(output == "image" or corners.images for output in unlimited):
            raise _damaged(f"has no golden.corners.limits for {', '.join(unlimited)}")


def _check_padding(manifest: Manifest) -> None:
    """What is added to a picture must make the model's size of it: `encode` would allocate whatever a stranger says."""
    preprocessing = manifest.preprocessing
    top, bottom, left, right = preprocessing.pad
    size = preprocessing.source_size
    if size is None and not any(preprocessing.pad):
        return
    if size is None and preprocessing.fit is not None and len(manifest.image_shape) == 3:
        _, height, width = manifest.image_shape
        size = (height - top - bottom, width - left - right)  # to which every picture is brought first
    if size is None or min(size) < 1 or (size[0] + top + bottom, size[1] + left + right) != manifest.image_shape[1:]:
        raise _damaged(
            f"pads pictures of {size} by {list(preprocessing.pad)}, which does not make images of "
            f"{list(manifest.image_shape)}"
        )


# Small typed getters: each names the place and what was expected there.


def _damaged(problem: str) -> BundleError:
    return BundleError(
        f"The bundle's {MANIFEST_FILE} {shown(problem)[:400]}. "
        "The bundle is damaged or was not made by edgeae: export it again."
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON knows")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _typed(value: object, kind: type[_T], where: str) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _damaged(f"has {type(value).__name__} for {where}, expected {kind.__name__}")
    return value


def _entry(value: Document, key: str, kind: type[_T], where: str) -> _T:
    if key not in value:
        raise _damaged(f"lacks {key!r} in {where}")
    return _typed(value[key], kind, f"{where}.{key}")


def _objects(value: Document, key: str, where: str) -> list[Document]:
    return [_typed(item, dict, f"{where}.{key}") for item in _entry(value, key, list, where)]


def _one_of(value: str, choices: tuple[str, ...], where: str) -> str:
    if value not in choices:
        raise _damaged(f"has {value!r} in {where}, expected {' or '.join(choices)}")
    return value


def _number(value: object, where: str) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if abs(number) <= MAX_NUMBER:
            return number
    raise _damaged(f"has {value!r} for {where}, expected a finite number that float32 can hold")


def _numbers(value: object, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    return tuple(float(_number(item, where)) for item in _typed(value, list, where))


def _interval(value: object, where: str) -> tuple[float, float]:
    numbers = _numbers(value, where) or ()
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise _damaged(f"has {value!r} for {where}, expected [low, high]")
    return numbers[0], numbers[1]
