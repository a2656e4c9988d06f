"""The way of the data, from torch modules to a bundle, in one readable function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from edgeae_runtime.errors import InputError
from edgeae_runtime.manifest import PARTS, Manifest
from edgeae_runtime.parity import Check, mse, require
from numpy.typing import NDArray
from torch import nn

from edgeae_export.bundle import BundleContents, check_target, write_bundle
from edgeae_export.graph import Float32Array, operator_counts, runner
from edgeae_export.images import ExportImages, choose_images
from edgeae_export.parity import (
    Reference,
    check_parity,
    in_large_batches,
    make_reference,
    reconstruction_rise,
)
from edgeae_export.quantize import QuantizationRecipe
from edgeae_export.quantize import quantize as quantize_graph
from edgeae_export.simplify import SimplifyReport, simplify
from edgeae_export.trace import trace

QUANTIZE = ("none", "int8")
_NAMES = {"encoder": ("image", "latent"), "decoder": ("latent", "image")}


class ExportableAutoencoder(Protocol):
    """What the exporter needs to know of a trained autoencoder; `edgeae.load_checkpoint` returns one."""

    @property
    def encoder(self) -> nn.Module:
        """Eval mode; float32 [batch, channels, height, width] in [0, 1] -> [batch, latent_dim]."""

    @property
    def decoder(self) -> nn.Module:
        """Eval mode; float32 [batch, latent_dim] -> [batch, channels, height, width] in [0, 1]."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent."""

    @property
    def preprocessing(self) -> Mapping[str, object]:
        """How a picture becomes an image: `source_size`, `pad` and `scale`, as in the manifest."""


@dataclass(frozen=True)
class PartReport:
    """What the export did to one part."""

    simplification: SimplifyReport
    model: onnx.ModelProto

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(self.model.ByteSize())

    @property
    def operators(self) -> dict[str, int]:
        """How many nodes of each operator the exported graph has."""
        return operator_counts(self.model)


@dataclass(frozen=True)
class ExportReport:
    """A finished export."""

    path: Path
    parts: dict[str, PartReport]
    checks: list[Check]
    manifest: Manifest


def export(
    model: ExportableAutoencoder,
    out: str | Path,
    *,
    quantize: str = "none",
    calibration: NDArray[np.uint8] | Float32Array | None = None,
    held_out: NDArray[np.uint8] | Float32Array | None = None,
    overwrite: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export an autoencoder as a bundle; it is written only if it computes what torch does.

    Args:
        model: encoder, decoder and the shapes between them.
        out: the bundle's folder.
        quantize: `"none"` or `"int8"`.
        calibration: real training images, uint8 or float in [0, 1], [n, channels, height, width]; required for int8.
        held_out: real images that training did not see, to measure parity on.
        overwrite: whether an existing bundle at `out` may be replaced.
        on_stage: told the name of each stage when it begins.

    Raises:
        InputError: an argument cannot be used, or torch cannot trace a module.
        ParityError: an exported graph does not compute what torch does; nothing was written.
    """
    tell = on_stage or (lambda stage: None)
    _check_arguments(quantize, calibration)
    check_target(out, overwrite=overwrite)
    images = choose_images(model.image_shape, calibration, held_out)

    tell("measure torch's own noise floor")
    modules = {"encoder": model.encoder, "decoder": model.decoder}
    reference = make_reference(modules["encoder"], modules["decoder"], images.held_out)
    inputs = {"encoder": reference.images, "decoder": reference.latents}
    noise = {"encoder": reference.noise["latent"], "decoder": reference.noise["image"]}

    parts: dict[str, PartReport] = {}
    for name in PARTS:
        tell(f"trace and simplify the {name}")
        traced = trace(modules[name], torch.from_numpy(inputs[name][:2]), *_NAMES[name])
        simplified, simplification = simplify(traced, inputs[name][:13], noise[name])
        parts[name] = PartReport(simplification, simplified)

    recipe = None
    if quantize == "int8":
        recipe = QuantizationRecipe()
        parts = _quantized(parts, images, recipe, tell)

    tell("check parity with torch")
    graphs = {name: part.model for name, part in parts.items()}
    checks, quality = _checked(reference, graphs, quantize)
    require(checks, "Nothing was written. Look at the layer that differs, or export without --quantize.")

    tell("write the bundle")
    contents = BundleContents(
        graphs=graphs,
        precision=dict.fromkeys(PARTS, "int8" if recipe else "float32"),
        reference=reference,
        checks=checks,
        quality=quality,
        recipe=_recipe_document(recipe, images),
        preprocessing=model.preprocessing,
        real_images=images.real,
    )
    manifest = write_bundle(contents, out, overwrite=overwrite)
    return ExportReport(Path(out), parts, checks, manifest)


def _quantized(
    parts: dict[str, PartReport], images: ExportImages, recipe: QuantizationRecipe, tell: Callable[[str], None]
) -> dict[str, PartReport]:
    """Both parts in int8; the decoder is calibrated on the latents the encoder gives for the same images."""
    encode = runner(parts["encoder"].model)
    inputs = {"encoder": images.calibration, "decoder": in_large_batches(encode, images.calibration)}
    done = {}
    for name, part in parts.items():
        tell(f"quantise the {name} to int8, calibrated on {len(inputs[name])} images")
        done[name] = PartReport(part.simplification, quantize_graph(part.model, inputs[name], recipe))
    return done


def _checked(
    reference: Reference, graphs: Mapping[str, onnx.ModelProto], precision: str
) -> tuple[list[Check], dict[str, float]]:
    """The checks, and the figures of quality that the bundle quotes."""
    encode, decode = runner(graphs["encoder"]), runner(graphs["decoder"])
    kind = "int8" if precision == "int8" else "float32"
    checks = check_parity(reference, encode, decode, dict.fromkeys(PARTS, kind))
    decoded = in_large_batches(lambda images: decode(encode(images)), reference.images)
    return checks, {
        "reconstruction_mse_torch": mse(reference.images, reference.decoded),
        "reconstruction_mse": mse(reference.images, decoded),
        "reconstruction_error_rise": reconstruction_rise(reference.images, reference.decoded, decoded),
    }


def _check_arguments(quantize: str, calibration: object) -> None:
    if quantize not in QUANTIZE:
        raise InputError(f"Got quantize={quantize!r}, expected one of {', '.join(QUANTIZE)}.")
    if quantize == "int8" and calibration is None:
        raise InputError(
            "int8 needs calibration images and got none. Give real images, as calibration=images in Python or "
            "--calibration on the command line: ranges calibrated on noise would be wrong."
        )


def _recipe_document(recipe: QuantizationRecipe | None, images: ExportImages) -> dict[str, Any] | None:
    return None if recipe is None else {**recipe.as_document(), "calibration_images": len(images.calibration)}
