"""A bundle against the torch model of the checkpoint that it came from."""

from __future__ import annotations

from pathlib import Path

from edgeae_export.graph.pixels import HALF_STEP
from edgeae_export.modules.images import choose_images
from edgeae_export.parity import Int8Limits, check_parity
from edgeae_export.reference import make_reference
from edgeae_runtime import Autoencoder
from edgeae_runtime.errors import InputError
from edgeae_runtime.parity import Check, unit_scale

from edgeae.checkpoint import Checkpoint, load_checkpoint
from edgeae.checkpoint_images import checkpoint_images


def verify_against_torch(bundle: str | Path, checkpoint_path: str | Path, provider: str = "cpu") -> list[Check]:
    """Compare a bundle with the torch model of a checkpoint, on its test images.

    Raises:
        InputError: the checkpoint or its images cannot be had, or the bundle lacks one part.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    _, test_images = checkpoint_images(checkpoint)
    autoencoder = Autoencoder.load(bundle, provider)
    check_same_shape(autoencoder, checkpoint)
    images = choose_images(checkpoint.image_shape, None, test_images)
    reference = make_reference(checkpoint.encoder, checkpoint.decoder, images.held_out)
    precision = {name: part.precision for name, part in autoencoder.manifest.parts.items()}
    in_bytes = autoencoder.manifest.parts["decoder"].output.dtype == "uint8"
    decode = lambda latents: unit_scale(autoencoder.decode(latents))  # noqa: E731
    second = (lambda images: autoencoder.encode_distribution(images)[1]) if autoencoder.manifest.variational else None
    limits = Int8Limits.of(autoencoder.manifest.entries("quantization").maybe_within("limits"))
    rounding = HALF_STEP if in_bytes else 0.0
    return check_parity(reference, autoencoder.encode, decode, precision, rounding, second, limits)


def check_same_shape(autoencoder: Autoencoder, checkpoint: Checkpoint) -> None:
    """Refuse to compare a bundle with a checkpoint of another shape.

    Raises:
        InputError: they differ, or the bundle lacks one part.
    """
    manifest = autoencoder.manifest
    found = (sorted(manifest.parts), manifest.image_shape, manifest.latent.dim)
    expected = (["decoder", "encoder"], checkpoint.image_shape, checkpoint.latent_dim)
    if found != expected:
        raise InputError(
            f"The bundle {autoencoder.path} (parts, image shape, latent size: {found}) was not exported from "
            f"{checkpoint.path} ({expected}). Give the checkpoint it came from, as --checkpoint."
        )
