"""Parity of exported graphs with the torch modules they came from.

For float32 the limit is measured, not chosen: the noise floor of a module is the largest difference between its own
float32 and float64 outputs on the same inputs, or what random rounding does where it has no float64 (`noise.py`).
Another float32 implementation sums in another order and may be off by as much on its own side, and its worst element
may lie elsewhere; hence the factor below. For int8 the limits are fidelity: PSNR against the float32 torch outputs, and
how much the reconstruction error against the real images may rise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from edgeae_runtime.parity import BATCH_SIZES, Check, compare, mse, psnr
from torch import nn

from edgeae_export.graph.running import Float32Array, Run
from edgeae_export.modules.noise import TruerRuns

NOISE_FACTOR = 10.0
"""How many noise floors a float32 output may differ by: two implementations, each one floor from the truth on these
inputs, with room for kernels (fused multiply-adds, other blockings, other processors) whose floor is a few times
torch's. A wrong operator differs by thousands."""

INT8_PSNR_DB = 30.0
"""Smallest PSNR of an int8 output against float32 torch over the held-out set."""

INT8_ERROR_RISE = 0.05
"""Largest relative rise of the mean squared reconstruction error by int8, over the held-out set."""

TRANSPARENT_PSNR_DB = 42.1
"""From this PSNR of the reconstructions against float32 on, a rise of their error does not count: the difference is two
steps of an 8-bit pixel, root mean square (20 log10(255 / 2) dB), which nobody sees; only a near-lossless model has an
own error so small that this adds to it."""

FEW_IMAGES_ALLOWANCE_DB = 6.0
"""A batch of one to seven images may have four times the mean squared error of the whole set (10 log10 4 = 6 dB)."""

BATCH_VALUES = 64 * 3 * 64 * 64
"""Most numbers of input or output per call when many images are run: 64 colour images of 64 x 64, 4 of 256 x 256."""

NOISE_IMAGES, NOISE_VALUES = (8, 256), 128 * 28 * 28
"""Fewest and most images the noise floor is measured on, and about how many numbers these hold: float64 is slow, and
fewer images can only make the limit stricter."""


@dataclass(frozen=True)
class Int8Limits:
    """What int8 may cost, over the held-out set."""

    part_psnr_db: float = INT8_PSNR_DB
    """Smallest PSNR of each part's outputs, on the same inputs, against float32 torch."""
    round_trip_psnr_db: float = INT8_PSNR_DB
    """The same of the reconstructions."""
    error_rise: float | None = INT8_ERROR_RISE
    """Largest relative rise of the reconstruction error; None for any."""


COMMON_LIMITS = Int8Limits()
"""What holds unless `--max-drop` says otherwise."""


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

    @property
    def latent_peak(self) -> float:
        """Width of the latents' range, the peak of their PSNR."""
        return float(np.ptp(self.latents))


def torch_runner(module: nn.Module, dtype: torch.dtype = torch.float32, batch: int = 256) -> Run:
    """A numpy-to-numpy function that runs a module in inference mode, in batches, to its first output."""
    run = torch_outputs(module, dtype, batch)
    return lambda inputs: run(inputs)[0]


def torch_outputs(
    module: nn.Module, dtype: torch.dtype = torch.float32, batch: int = 256
) -> Callable[[Float32Array], tuple[Float32Array, ...]]:
    """As `torch_runner`, to every output of a module that returns one tensor or a tuple of them."""
    module = copy.deepcopy(module).to(dtype).eval()

    def run(inputs: Float32Array) -> tuple[Float32Array, ...]:
        with torch.inference_mode():
            outputs = [module(chunk.to(dtype)) for chunk in torch.split(torch.from_numpy(inputs), batch)]
        rows = [each if isinstance(each, tuple) else (each,) for each in outputs]
        return tuple(np.concatenate([part.numpy() for part in parts]) for parts in zip(*rows, strict=True))

    return run


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


def check_parity(
    reference: Reference,
    encode: Run,
    decode: Run,
    precision: Mapping[str, str],
    rounding: float = 0.0,
    encode_log_variance: Run | None = None,
    limits: Int8Limits = COMMON_LIMITS,
) -> list[Check]:
    """Check the encoder, the decoder and the round trip in batches of 1, 2, 3 and 7, and int8 on the whole set too.

    Args:
        reference: the torch side.
        encode: the encoder's graph as a function.
        decode: the decoder's graph as a function.
        precision: `float32` or `int8` of `encoder` and `decoder`.
        rounding: most that the decoder's own rounding of its pixels changes them.
        encode_log_variance: the encoder's graph as a function to its second output, where there is one.
        limits: of int8.

    Returns:
        The checks, in the order to print them.
    """
    both = "int8" if "int8" in precision.values() else "float32"
    outputs = [
        ("encoder latent", "latent", reference.images, encode, reference.latents, precision["encoder"]),
        ("decoder image", "image", reference.latents, decode, reference.decoded, precision["decoder"]),
        ("round trip", "reconstruction", reference.images, _chain(encode, decode), reference.decoded, both),
    ]
    if encode_log_variance is not None and reference.log_variances is not None:
        title, expected = "encoder log-variance", reference.log_variances
        outputs.append((title, "log_variance", reference.images, encode_log_variance, expected, precision["encoder"]))
    checks = []
    for title, key, inputs, run, expected, kind in outputs:
        encoded = key in ("latent", "log_variance")
        metric, limit = limit_on_few(kind, reference.noise[key], 0.0 if encoded else rounding, limits)
        peak = float(np.ptp(expected)) if encoded else reference.image_peak
        start = 0
        for size in BATCH_SIZES:
            rows_now = slice(start, start + size)
            name = f"{title}, batch {size}"
            checks.append(compare(name, expected[rows_now], run(inputs[rows_now]), metric, limit, peak))
            start += size
        if kind == "int8":
            name = f"{title}, {len(inputs)} held out"
            least = limits.round_trip_psnr_db if key == "reconstruction" else limits.part_psnr_db
            checks.append(compare(name, expected, in_large_batches(run, inputs), "psnr_db", least, peak))
    if both == "int8" and limits.error_rise is not None:
        measured = in_large_batches(_chain(encode, decode), reference.images)
        checks.append(_error_rise(reference, measured, limits.error_rise))
    return checks


def limit_on_few(
    precision: str, noise: float, rounding: float = 0.0, limits: Int8Limits = COMMON_LIMITS
) -> tuple[str, float]:
    """The metric and its limit for a handful of images: of a part or the round trip that are quite wrong, so that a
    limit stricter than the common one makes no difference."""
    if precision == "int8":
        return "psnr_db", min(limits.part_psnr_db, INT8_PSNR_DB) - FEW_IMAGES_ALLOWANCE_DB
    return "max_abs", NOISE_FACTOR * noise + rounding


def reconstruction_rise(images: Float32Array, reference: Float32Array, measured: Float32Array) -> float:
    """How much larger the mean squared error against the real images is than the torch model's, relatively."""
    before = mse(images, reference)
    return mse(images, measured) / before - 1 if before > 0 else math.inf


def in_large_batches(run: Run, inputs: Float32Array, batch: int = 64) -> Float32Array:
    """Run inputs in batches that bound the memory: one first, to see how large its output is."""
    made = [run(inputs[:1])]
    largest = max(inputs[:1].size, made[0].size, 1)
    batch = max(1, min(batch, BATCH_VALUES // largest))
    return np.concatenate(made + [run(inputs[start : start + batch]) for start in range(1, len(inputs), batch)])


def _error_rise(reference: Reference, measured: Float32Array, limit: float) -> Check:
    """The rise of the error, or where that is too large but cannot be seen, the PSNR that says so."""
    rise = reconstruction_rise(reference.images, reference.decoded, measured)
    fidelity = psnr(reference.decoded, measured, reference.image_peak)
    what = f"reconstruction error, {len(measured)} held out"
    if rise > limit and fidelity >= TRANSPARENT_PSNR_DB:
        why = f"error {100 * rise:+.1f} %, but less than two steps of an 8-bit pixel"
        return Check(what, "psnr_db", fidelity, TRANSPARENT_PSNR_DB, why)
    where = f"at {fidelity:.1f} dB against float32; from {TRANSPARENT_PSNR_DB} dB on any rise may be"
    return Check(what, "error_rise", rise, limit, where if rise > limit else "")


def _chain(encode: Run, decode: Run) -> Run:
    return lambda images: decode(encode(images))
