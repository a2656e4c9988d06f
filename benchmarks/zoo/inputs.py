"""Inputs for the zoo, the same every time and without the network: real ones, except for the chairs.

Calibration and held-out inputs have nothing in common: other digits, other regions of a photograph, other rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from edgeae_export.arrays import Float32Array
from torch import nn

CALIBRATION, HELD_OUT = 256, 64
"""How many samples or patches of 32x32; a patch of 64x64 costs taef2 four times as much, so of these there are half."""
DIGIT_SIZE, DIGIT_CONTRAST = 22, 1.6
CALIBRATION_DIGITS = 1440
"""Of 1,797; the digits that follow are of other hands."""
GREATEST_STEP = 3
"""A patch shows each pixel of a photograph, every second or every third: small things and large."""
HELD_OUT_SIDE = 0.25
"""The right quarter of each photograph is held out."""
HELD_OUT_ROWS = 16
"""Of the 40 rows of log-mel features: as many as the golden vectors want."""


@dataclass(frozen=True)
class Inputs:
    """What one model is calibrated and judged on, float32 as the model takes it."""

    calibration: Float32Array
    held_out: Float32Array
    what: str
    """In a few words, for tables."""

    @property
    def mean(self) -> Float32Array:
        """The mean calibration input in the place of each held-out one: what a model that knows nothing would give."""
        mean = self.calibration.mean(0, dtype=np.float64).astype(np.float32)
        return np.broadcast_to(mean, self.held_out.shape)


def digits() -> Inputs:
    """scikit-learn's 1,797 handwritten digits of 8x8, enlarged onto the black ground of 32x32, [n, 1, 32, 32].

    As large, and nearly as dark, as the digits of MNIST: of the sizes from 20 to 28 and contrasts from 1 to 2.5 these
    are the ones that the trained weights reconstruct best, at 0.39 of the mean image's squared error; Fashion-MNIST,
    which they do not know, comes to 1.15 of it.
    """
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images.astype(np.float32) / 16)[:, None]
    large = F.interpolate(small, (DIGIT_SIZE, DIGIT_SIZE), mode="bicubic")
    images = F.pad(((large - 0.5) * DIGIT_CONTRAST + 0.5).clamp(0, 1), ((32 - DIGIT_SIZE) // 2,) * 4)
    return _split(images.numpy(), CALIBRATION_DIGITS, "scikit-learn's handwritten digits")


def patches(size: int) -> Inputs:
    """Square patches of the photographs that come with scikit-image and scikit-learn, [n, 3, size, size] in [0, 1]."""
    rng = np.random.default_rng(0)
    fewer = size // 32
    photographs = [(each, int(each.shape[1] * (1 - HELD_OUT_SIDE))) for each in _photographs()]
    left, right = [each[:, :middle] for each, middle in photographs], [each[:, middle:] for each, middle in photographs]
    calibration, held_out = (
        np.stack([_patch(regions[index % len(regions)], size, rng) for index in range(count // fewer)])
        for regions, count in ((left, CALIBRATION), (right, HELD_OUT))
    )
    return Inputs(calibration, held_out, "patches of photographs")


def _photographs() -> Iterator[np.ndarray]:
    """uint8 [height, width, 3]; they lie in the packages themselves."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    yield from (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    yield from (load_sample_image("china.jpg"), load_sample_image("flower.jpg"))


def _patch(region: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    step = min(int(rng.integers(1, GREATEST_STEP + 1)), min(region.shape[:2]) // size)
    region = region[::step, ::step]
    y, x = (int(rng.integers(0, side - size + 1)) for side in region.shape[:2])
    patch = region[y : y + size, x : x + size].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(patch.transpose(2, 0, 1))


def chairs_samples(model: nn.Module) -> Inputs:
    """The model's own samples: the chairs it was trained on are not free, so latents from N(0, 1) are decoded."""
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((CALIBRATION + HELD_OUT, 10), dtype=np.float32))
    with torch.inference_mode():
        images = model.decode(latents).numpy()  # type: ignore[operator]
    return _split(images, CALIBRATION, "its own samples")


def toycar_rows(path: Path) -> Inputs:
    """Rows of 640 log-mel features of a running toy car: five frames of 128."""
    rows = np.load(path, allow_pickle=False)
    return _split(rows, len(rows) - HELD_OUT_ROWS, f"{len(rows)} rows of log-mel features")


def _split(inputs: Float32Array, calibration: int, what: str) -> Inputs:
    inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    return Inputs(inputs[:calibration], inputs[calibration:], what)
