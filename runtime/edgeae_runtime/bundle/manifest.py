"""The manifest of a bundle: what `manifest.json` says, checked once, as frozen dataclasses.

A bundle is a folder that holds `encoder.onnx` and `decoder.onnx` (either may be left out), `manifest.json`,
`golden.npz` and a model card, `README.md`. The manifest is the only file that is trusted by its place; every
other file is trusted by the SHA-256 that the manifest records for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeae_runtime.bundle.golden_limits import GoldenCorners, limits_of
from edgeae_runtime.bundle.parts import MAX_MODEL_BYTES, LatentSpace, Part
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.bundle.variants import Variant
from edgeae_runtime.errors import BundleError
from edgeae_runtime.files.documents import Document, Entries
from edgeae_runtime.files.file_record import FileRecord

FORMAT_VERSION = 3
"""2 added latents that are feature maps, the encoder's log-variance, and images of any number of axes; 3 variants, and
encoders that take uint8 pixels."""
PLAIN_VERSION = 2
"""What a bundle without these two is still written as, so that older runtimes read it."""
READABLE_VERSIONS = (1, 2, 3)
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
PARTS = ("encoder", "decoder")


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
        return (self.parts["encoder"].input if "encoder" in self.parts else self.parts["decoder"].output).image_shape

    @property
    def variational(self) -> bool:
        """Whether the encoder gives the log-variance beside the mean."""
        return "encoder" in self.parts and len(self.parts["encoder"].outputs) == 2

    @property
    def records(self) -> tuple[FileRecord, ...]:
        """Every file that the bundle consists of beside the manifest, those of variants last."""
        parts = self.parts.values()
        variants = (variant.record for part in parts for variant in part.variants)
        return (*(part.record for part in parts), self.golden, *variants)

    def entries(self, key: str) -> Entries:
        """What the document says under a key, each entry checked when it is taken; empty where it says nothing."""
        return Entries(self.document, _damaged).maybe_within(key)


def parse_manifest(raw: bytes) -> Manifest:
    """Read and validate `manifest.json`.

    Raises:
        BundleError: it is not JSON, is of another format version, or a field is missing or of a wrong kind.
    """
    root = Entries.parse(raw, _damaged)
    version = root.take("format_version", int)
    if version not in READABLE_VERSIONS:
        remedy = "update edgeae-runtime" if version > FORMAT_VERSION else "export the bundle again"
        raise BundleError(
            f"This bundle has format version {version}; this edgeae-runtime reads version {READABLE_VERSIONS[0]} "
            f"to {FORMAT_VERSION}. "
            f"To use it, {remedy}."
        )
    listed, golden = root.within("parts"), root.within("golden")
    parts = {name: Part.of(listed.within(name)) for name in listed.document if listed.one_of(name, PARTS, "parts")}
    if not parts:
        raise _damaged("names neither an encoder nor a decoder under 'parts'")
    manifest = Manifest(
        parts=parts,
        golden=FileRecord.of(golden, MAX_MODEL_BYTES - 1),
        preprocessing=Preprocessing.of(root.within("preprocessing")),
        latent=LatentSpace.of(root.within("latent")),
        golden_limits=limits_of(golden),
        golden_corners=GoldenCorners.of(golden.within("corners")) if "corners" in golden else None,
        document=root.document,
    )
    _check_agreement(manifest)
    return manifest


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
    if len(parts) == 2 and parts["encoder"].input.image_shape != parts["decoder"].output.image_shape:
        raise _damaged("gives the encoder and the decoder different image shapes")
    if not manifest.preprocessing.makes(manifest.image_shape):
        raise _damaged(
            f"pads pictures of {manifest.preprocessing.source_size} by {list(manifest.preprocessing.pad)}, which does "
            f"not make images of {list(manifest.image_shape)}"
        )
    for bound in (manifest.latent.low, manifest.latent.high):
        if bound is not None and len(bound) != dim:
            raise _damaged(f"bounds {len(bound)} latent coordinates, expected {dim}")
    expected = {"encoder": ["latent"], "decoder": ["image"]}
    expected["encoder"] += ["log_variance"] if manifest.variational else []
    wanted = [output for name in parts for output in expected[name]]
    missing = [output for output in wanted if output not in manifest.golden_limits]
    if missing:
        raise _damaged(f"has no golden.limits for {', '.join(missing)}")
    for name, part in parts.items():
        for variant in part.variants:
            _check_variant(manifest, variant, expected[name], f"parts.{name}.variants.{variant.name}")
    corners = manifest.golden_corners
    if corners is not None:
        unlimited = [output for output in wanted if output not in corners.limits]
        if any(output == "image" or corners.images for output in unlimited):
            raise _damaged(f"has no golden.corners.limits for {', '.join(unlimited)}")


def _check_variant(manifest: Manifest, variant: Variant, outputs: list[str], where: str) -> None:
    """A variant must be as verifiable as the part itself."""
    corners = manifest.golden_corners
    missing = [output for output in outputs if output not in variant.limits]
    if missing:
        raise _damaged(f"has no limits for {', '.join(missing)} in {where}")
    if corners is None:
        if variant.corners:
            raise _damaged(f"has limits for corners in {where}, but no golden.corners")
        return
    unlimited = [o for o in outputs if o not in variant.corners and (o == "image" or corners.images)]
    if unlimited:
        raise _damaged(f"has no corners.limits for {', '.join(unlimited)} in {where}")
    if wrong := corners.misfit(variant.corners):
        raise _damaged(f"{wrong} in {where}")


def _damaged(problem: str) -> BundleError:
    return BundleError(
        f"The bundle's {MANIFEST_FILE} {problem[:400]}. "
        "The bundle is damaged or was not made by edgeae: export it again."
    )
