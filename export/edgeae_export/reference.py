"""The torch side of every comparison: what the modules give on the parity inputs, and their noise floors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from edgeae_runtime.parity import BATCH_SIZES
from torch import nn

from edgeae_export.arrays import Float32Array
from edgeae_export.modules.noise import NOISE_FACTOR, TruerRuns
from edgeae_export.modules.running import torch_outputs, torch_runner

NOISE_IMAGES, NOISE_VALUES = (8, 256), 128 * 28 * 28
"""Fewest and most images the noise floor is measured on, and about how many numbers these hold: float64 is slow, and
fewer images can only make the limit stricter."""


@dataclass(frozen=True)
class Reference:
    """The torch model's outputs on the parity inputs, and their noise floors."""

    images: Float32Array
    """[n, channels, height, width] in [0, 1]."""
    latents: Float32Array
    """The encoder's outputs for `images`; the decoder's inputs."""
    decoded: Float32Array
    """The decoder's outputs for `latents`, which is also the round trip's."""
    noise: dict[str, float]
    """Noise floor per output: `latent`, `image`, `reconstruction`, and `log_variance` where there is one."""
    log_variances: Float32Array | None = None
    """The second output of a variational encoder for `images`."""
    image_peak: float = 1.0
    """Width of the images' range, the peak of their PSNR."""
    noise_by: Mapping[str, str] = field(default_factory=dict)
    """How each part's floor was measured; see `noise.TruerRuns.by`."""

    @property
    def notices(self) -> list[str]:
        """What the user should know of how the limits were measured."""
        return [
            f"The {name} has a precision written into its forward and does not run in float64: the noise that its "
            "float32 outputs are allowed was measured by random rounding instead."
            for name, by in self.noise_by.items()
            if by == "rounding"
        ]

    @property
    def encoded(self) -> tuple[Float32Array, ...]:
        """All outputs of the encoder."""
        return (self.latents,) if self.log_variances is None else (self.latents, self.log_variances)


@dataclass(frozen=True)
class PartSource:
    """One part as it goes down the way: the torch module, and what it gave."""

    name: str
    """`encoder` or `decoder`."""
    module: nn.Module
    """Eval mode, float32: what the graph must compute."""
    input_name: str
    output_names: tuple[str, ...]
    inputs: Float32Array
    """The parity inputs [n, …]: real images, or their latents."""
    outputs: tuple[Float32Array, ...]
    """What the module makes of `inputs`, in the order of `output_names`."""
    noise: float
    """The largest noise floor of its outputs."""
    corners: Float32Array
    """Extreme inputs [m, …], on which two forms of the graph are compared too; none before they were found."""

    @property
    def allowed(self) -> float:
        """How far an output of a float32 graph may lie from the module's."""
        return NOISE_FACTOR * self.noise

    @property
    def example(self) -> Float32Array:
        """A few inputs to trace the module with: real ones and corners."""
        return np.concatenate([self.inputs[: BATCH_SIZES[-1]], self.corners])


def part_sources(encoder: nn.Module, decoder: nn.Module, reference: Reference) -> dict[str, PartSource]:
    """The record of each part, by its name; `reference` is what `make_reference` made of the same modules."""
    outputs = ("latent",) if reference.log_variances is None else ("latent", "log_variance")
    images, latents, noise = reference.images, reference.latents, reference.noise
    encoder_noise = max(noise[name] for name in outputs)
    return {
        "encoder": PartSource(
            "encoder", encoder, "image", outputs, images, reference.encoded, encoder_noise, images[:0]
        ),
        "decoder": PartSource(
            "decoder", decoder, "latent", ("image",), latents, (reference.decoded,), noise["image"], latents[:0]
        ),
    }


def make_reference(
    encoder: nn.Module, decoder: nn.Module, images: Float32Array, image_peak: float | None = 1.0
) -> Reference:
    """Run the torch modules in float32 on real images, and measure their noise floors.

    Args:
        encoder: to the latent, or to the latent and its log-variance.
        decoder: back.
        images: float32 [n, …].
        image_peak: width of the images' range; None takes that of the decoder's outputs.
    """
    decode = torch_runner(decoder)
    latents, *further = torch_outputs(encoder)(images)
    decoded = decode(latents)
    few = slice(int(np.clip(NOISE_VALUES // math.prod(images.shape[1:]), *NOISE_IMAGES)))
    encodes, decodes = TruerRuns.of(encoder, images), TruerRuns.of(decoder, latents)
    encoded = encodes(images[few])
    truer = [latent for latent, *_ in encoded]
    noise = {
        "latent": encodes.floor(truer, latents[few]),
        "image": decodes.floor([image for image, *_ in decodes(latents[few])], decoded[few]),
        "reconstruction": decodes.floor([run[0] for latent in truer for run in decodes(latent)], decoded[few]),
    }
    if further:
        noise["log_variance"] = encodes.floor([run[1] for run in encoded], further[0][few])
    return Reference(
        images=images,
        latents=latents,
        decoded=decoded,
        noise=noise,
        log_variances=further[0] if further else None,
        image_peak=image_peak if image_peak is not None else max(float(np.ptp(decoded)), 1e-12),
        noise_by={"encoder": encodes.by, "decoder": decodes.by},
    )
