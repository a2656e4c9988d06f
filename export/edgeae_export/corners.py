"""What the torch model gives on the corners of its inputs, and how exactly that can be asked of another program.

Beside real images a bundle is proven on black, white, grey, noise and single bright pixels, and the decoder on the
latents of these, on zeros and on the observed extremes. Each corner has a limit of its own, so that an extreme one
loosens no other: the module's float64 outputs, and what a change of the input in its last bit does, tell how far
rounding alone may go there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from edgeae_runtime.bundle.golden_limits import GoldenCorners
from edgeae_runtime.parity import Check, compare_each, psnr_each
from numpy.typing import NDArray
from torch import nn

from edgeae_export.arrays import Float32Array, Run
from edgeae_export.graph.pixels import rounded_to_pixels
from edgeae_export.graph.probe import ROUNDING, in_last_bit, largest, observed_corners, picture_corners
from edgeae_export.graph.running import joined_runner, runner
from edgeae_export.modules.images import GOLDEN_IMAGES
from edgeae_export.modules.noise import NOISE_FACTOR, TruerRuns
from edgeae_export.modules.running import torch_outputs
from edgeae_export.parity import FEW_IMAGES_ALLOWANCE_DB, INT8_PSNR_DB
from edgeae_export.reference import Reference

GOLDEN_CORNERS = 5
"""Corners of images that travel with the bundle, beside `GOLDEN_LATENTS`."""
GOLDEN_LATENTS = 3
"""Latents that belong to no image: zeros, and the lowest and the highest of each number."""
INT8_PSNR_ON_CORNERS_DB = 0.0
"""Smallest PSNR of an int8 output on one corner at export: an error as large as the values' whole range. Ranges are
taken from real images, so that a corner may well be clipped; it must stay finite and in place."""

CORNER_NOISE_FACTOR = 10 * NOISE_FACTOR
"""How many noise floors a float32 output may differ by on one corner. Its floor is that of a single input, often far
from what the model was made for: an encoder with group norms came to 10.1 floors on black with one bright pixel.
What this is to find, a lost constant or a wrong operator, is off by thousands."""

Outputs = Callable[[Float32Array], tuple[Float32Array, ...]]
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Answers:
    """One output of the torch model on some corners."""

    names: tuple[str, ...]
    expected: Float32Array
    """[corners, …]"""
    noise: NDArray[np.float64]
    """[corners]: the noise floor on each."""

    def part(self, where: slice | Sequence[int]) -> Answers:
        """Some of the corners."""
        return Answers(tuple(np.array(self.names)[where]), self.expected[where], self.noise[where])


@dataclass(frozen=True)
class Corners:
    """The corners, and what torch gives on them."""

    images: Float32Array
    """[m, …], float32."""
    latents: Float32Array
    """[m + k, …]: the encoder's for `images`, then k that belong to no image."""
    outputs: dict[str, Answers]
    """`latent`, `log_variance` and `reconstruction` for `images`, `image` for `latents`."""
    left_out: tuple[str, ...]
    """Corners on which torch itself fails, or gives NaN or infinity."""

    def golden(self) -> Corners:
        """The few that travel with the bundle: the first images, and the first latents that belong to none."""
        count = len(self.images)
        few = [*range(min(GOLDEN_CORNERS, count))]
        latents = [*few, *range(count, min(count + GOLDEN_LATENTS, len(self.latents)))]
        outputs = {key: each.part(latents if key == "image" else few) for key, each in self.outputs.items()}
        return Corners(self.images[few], self.latents[latents], outputs, self.left_out)

    @property
    def notice(self) -> str:
        """What the user should know about corners that torch itself cannot take; usually empty."""
        if not self.left_out:
            return ""
        return (
            f"The model itself, in torch, fails or gives NaN or infinity for some inputs that no held-out image "
            f"shows: {', '.join(self.left_out)}. There is nothing to compare with there, so the bundle is not checked "
            "on them; a device may meet them all the same."
        )


def torch_corners(
    encoder: nn.Module, decoder: nn.Module, reference: Reference, bounded: bool, of_pixels: bool = False
) -> Corners:
    """Run the torch modules on the corners of what they were made for.

    Args:
        encoder: to the latent, or to the latent and its log-variance.
        decoder: back.
        reference: what they give on real images.
        bounded: whether images lie in [0, 1].
        of_pixels: whether they are of 8-bit pixels.
    """
    names, images = (picture_corners if bounded else observed_corners)(reference.images)
    images = rounded_to_pixels(images) if of_pixels else images
    encode, decode = torch_outputs(encoder), torch_outputs(decoder)
    encodes, decodes = TruerRuns.of(encoder, reference.images), TruerRuns.of(decoder, reference.latents)
    sound = [_sound(lambda one: (*(made := encode(one)), *decode(made[0])), image[None]) for image in images]
    kept, kept_names = images[sound], [name for name, fine in zip(names, sound, strict=True) if fine]
    further_names, further = observed_corners(reference.latents)
    sound_latents = [_sound(decode, latent[None]) for latent in further]
    further_names = [f"latent of {name}" for name in further_names]
    latent_names = [name for name, fine in zip(further_names, sound_latents, strict=True) if fine]
    left_out = [name for name in names if name not in kept_names]
    left_out += [name for name in further_names if name not in latent_names]

    outputs: dict[str, Answers] = {}
    truths = (_or_none(encodes, kept) or []) if len(kept) else []
    encoded = _answers(encode, truths, kept) if len(kept) else []
    made = encoded[0][0] if encoded else reference.latents[:0]
    latents = np.concatenate([made, further[sound_latents]])
    real = reference.noise
    for key, (expected, noise) in zip(("latent", "log_variance"), encoded, strict=False):
        outputs[key] = Answers(tuple(kept_names), expected, np.maximum(noise, real[key]))
    if len(latents):
        expected, noise = _answers(decode, _or_none(decodes, latents) or [], latents)[0]
        outputs["image"] = Answers((*kept_names, *latent_names), expected, np.maximum(noise, real["image"]))
    if len(kept):
        chain: Outputs = lambda images: decode(encode(images)[0])  # noqa: E731
        truer = [run for made in truths for run in _or_none(decodes, made[0]) or []]
        expected, noise = _answers(chain, truer, kept)[0]
        outputs["reconstruction"] = Answers(tuple(kept_names), expected, np.maximum(noise, real["reconstruction"]))
    return Corners(kept, latents, outputs, tuple(left_out))


def output_runs(
    graphs: Mapping[str, onnx.ModelProto], precision: Mapping[str, str]
) -> tuple[dict[str, Run], dict[str, str]]:
    """The graphs of `encoder` and `decoder` as functions by output, and the precision of each output."""
    encode, decode = runner(graphs["encoder"]), runner(graphs["decoder"])
    runs: dict[str, Run] = {
        "latent": encode,
        "image": decode,
        "reconstruction": lambda images: decode(encode(images)),
    }
    both = "int8" if "int8" in precision.values() else "float32"
    kinds = {"latent": precision["encoder"], "image": precision["decoder"], "reconstruction": both}
    if len(graphs["encoder"].graph.output) > 1:
        runs["log_variance"] = runner(graphs["encoder"], output=1)
        kinds["log_variance"] = precision["encoder"]
    return runs, kinds


def output_peaks(reference: Reference, bounded: bool) -> dict[str, float]:
    """The largest value of each output on the golden images, which a device sees too; one for images in [0, 1]."""
    image = 1.0 if bounded else float(np.abs(reference.decoded[:GOLDEN_IMAGES]).max())
    peaks = {"latent": float(np.abs(reference.latents[:GOLDEN_IMAGES]).max()), "image": image, "reconstruction": image}
    if reference.log_variances is not None:
        peaks["log_variance"] = float(np.abs(reference.log_variances[:GOLDEN_IMAGES]).max())
    return peaks


def corner_checks(
    corners: Corners,
    runs: Mapping[str, Run],
    precision: Mapping[str, str],
    rounding: float,
    peaks: Mapping[str, float],
) -> list[Check]:
    """One check per output: the corner that comes nearest to its limit, or is furthest beyond.

    Args:
        corners: the torch side.
        runs: the graphs as functions, by output.
        precision: `float32` or `int8`, by output.
        rounding: most that the decoder's own rounding of its pixels changes them.
        peaks: the largest value of each output on real images, for int8; see `output_peaks`.
    """
    checks = []
    for key, answers in corners.outputs.items():
        inputs = corners.latents if key == "image" else corners.images
        found = runs[key](inputs)
        metric = "psnr_db" if precision[key] == "int8" else "max_abs"
        limits = _limits(key, answers, precision[key], rounding)
        what = f"{_TITLES[key]}, {len(inputs)} corners"
        checks.append(compare_each(what, answers.names, answers.expected, found, metric, limits, peaks[key]))
    return checks


def finite_on_corners(corners: Corners, graphs: Mapping[str, onnx.ModelProto]) -> Check:
    """How many numbers the graphs of `encoder` and `decoder` give on the corners that are not finite; none may.

    The decoder is the one before its pixels are rounded: NaN as a byte is black.
    """
    inputs = {"encoder": corners.images, "decoder": corners.latents}
    found = [joined_runner(graphs[name])(given) for name, given in inputs.items() if len(given)]
    count = sum(int((~np.isfinite(each)).sum()) for each in found)
    return Check(f"numbers not finite, {len(corners.latents)} corners", "count", count, 0)


@dataclass(frozen=True)
class ShippedCorners:
    """The few corners that travel with the bundle."""

    corners: Corners
    record: GoldenCorners
    """What the manifest says of them."""

    def arrays(self) -> dict[str, Float32Array]:
        """For `golden.npz`; see the runtime's `bundle.CORNER_ARRAYS`."""
        outputs = self.corners.outputs
        arrays = {
            "corner_image": self.corners.images,
            "corner_latent": self.corners.latents,
            "corner_decoded": outputs["image"].expected,
        }
        if "log_variance" in outputs:
            arrays["corner_log_variance"] = outputs["log_variance"].expected
        return arrays


def golden_corners(
    corners: Corners,
    runs: Mapping[str, Run],
    precision: Mapping[str, str],
    rounding: float,
    peaks: Mapping[str, float],
) -> ShippedCorners | None:
    """Choose those that travel with the bundle; None where torch itself can take none.

    In int8 a corner must come as near on the device as it did at export, less what a few images are allowed, and no
    nearer than real ones must.
    """
    few = corners.golden()
    if "image" not in few.outputs:
        return None
    limits: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, answers in few.outputs.items():
        if precision[key] == "float32":
            limits[key] = {"max_abs": tuple(_limits(key, answers, "float32", rounding).tolist())}
            continue
        found = runs[key](few.latents if key == "image" else few.images)
        measured = psnr_each(answers.expected, found, peaks[key])
        least = np.minimum(measured, INT8_PSNR_DB) - FEW_IMAGES_ALLOWANCE_DB
        limits[key] = {"psnr_db": tuple(least.tolist())}
    return ShippedCorners(few, GoldenCorners(tuple(few.outputs["image"].names), len(few.images), limits))


_TITLES = {
    "latent": "encoder latent",
    "log_variance": "encoder log-variance",
    "image": "decoder image",
    "reconstruction": "round trip",
}


def _limits(key: str, answers: Answers, precision: str, rounding: float) -> NDArray[np.float64]:
    if precision == "int8":
        return np.full(len(answers.names), INT8_PSNR_ON_CORNERS_DB)
    return CORNER_NOISE_FACTOR * answers.noise + (rounding if key in ("image", "reconstruction") else 0.0)


def _answers(
    run: Outputs, truths: Sequence[tuple[Float32Array, ...]], inputs: Float32Array
) -> list[tuple[Float32Array, NDArray[np.float64]]]:
    """Each output, and the noise floor of each corner: never below the rounding of its largest value."""
    again = _or_none(run, in_last_bit(inputs))
    others = [*truths, *([] if again is None else [again])]
    found = []
    for index, expected in enumerate(run(inputs)):
        floor = ROUNDING * largest(expected)
        for other in others:
            with np.errstate(invalid="ignore", over="ignore"):
                difference = np.abs(other[index] - expected.astype(np.float64)).reshape(len(expected), -1)
            floor = np.maximum(floor, np.where(np.isfinite(difference), difference, 0.0).max(axis=1, initial=0.0))
        found.append((expected, floor))
    return found


def _sound(run: Outputs, inputs: Float32Array) -> bool:
    outputs = _or_none(run, inputs)
    return outputs is not None and all(bool(np.isfinite(each).all()) for each in outputs)


def _or_none(run: Callable[[Float32Array], _Made], inputs: Float32Array) -> _Made | None:
    """What is made of the inputs; None where the user's own code refuses them, or such a precision."""
    try:
        return run(inputs)
    except Exception:  # the user's own code may raise anything
        return None
