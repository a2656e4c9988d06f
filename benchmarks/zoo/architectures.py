"""Architectures of other people, with seeded weights, trained for a moment so that they do something.

Packages that can be installed bring some of them; those of `keyed_nets.py` are written after papers, those of
`small_nets.py` after patterns met elsewhere. Each entry of `OTHER_MODELS` gives the model, the options of `export`, and
inputs as the model takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from edgeae_export import ValueRange
from torch import nn

from benchmarks.zoo.keyed_nets import convolutional, dense, residual
from benchmarks.zoo.small_nets import Ai85, Cropped, Patches, VanillaVAE, Volume

STEPS = 30


@dataclass(frozen=True)
class OtherModel:
    """One architecture of somebody else's."""

    name: str
    build: Callable[[], Any]
    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    value_range: ValueRange | None = None


def pictures(shape: tuple[int, ...], count: int = 160) -> np.ndarray:
    """Smooth random pictures or volumes in [0, 1], or rows of correlated numbers."""
    rng = np.random.default_rng(0)
    if len(shape) == 1:
        factors = rng.standard_normal((count, 3)) @ rng.standard_normal((3, shape[0]))
        return (factors + 0.1 * rng.standard_normal((count, shape[0]))).astype(np.float32)
    channels, *size = shape
    coarse = torch.from_numpy(rng.random((count, channels, *(5 for _ in size)), dtype=np.float32))
    mode = "bicubic" if len(size) == 2 else "trilinear"
    return F.interpolate(coarse, size, mode=mode).clamp(0, 1).numpy()


def tiny_autoencoder() -> nn.Module:
    """diffusers' AutoencoderTiny (TAESD's architecture)."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16), decoder_block_out_channels=(16, 16, 16, 16), latent_channels=4
    )


def kl_autoencoder() -> nn.Module:
    """diffusers' AutoencoderKL (Stable Diffusion's architecture), small."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )


def monai_autoencoder() -> nn.Module:
    """MONAI's AutoEncoder: transposed convolutions, batch norm and PReLU."""
    from monai.networks.nets import AutoEncoder

    return AutoEncoder(spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 32, 32), strides=(2, 2, 2))


def pyod_dense() -> nn.Module:
    """PyOD's dense autoencoder for rows of a table."""
    from pyod.models.auto_encoder import AutoEncoderModel

    return AutoEncoderModel(feature_size=40, hidden_neuron_list=[64, 32])


OTHER_MODELS = (
    OtherModel("diffusers AutoencoderTiny", tiny_autoencoder, (3, 64, 64)),
    OtherModel("diffusers AutoencoderKL", kl_autoencoder, (3, 32, 32), value_range=ValueRange.between(-1, 1)),
    OtherModel("AE, dense", partial(dense, variational=False), (1, 28, 28)),
    OtherModel("VAE, dense", partial(dense, variational=True), (1, 28, 28)),
    OtherModel("VAE, convolutional", convolutional, (1, 28, 28)),
    OtherModel("AE, residual", residual, (3, 32, 32)),
    OtherModel("MONAI AutoEncoder", monai_autoencoder, (1, 32, 32)),
    OtherModel("PyOD AutoEncoder, dense", pyod_dense, (40,)),
    OtherModel("ai85 autoencoder", Ai85, (1, 28, 28)),
    OtherModel("PyTorch-VAE VanillaVAE", VanillaVAE, (3, 32, 32), value_range=ValueRange.between(-1, 1)),
    OtherModel("volumes, Conv3d", Volume, (1, 16, 16, 16)),
    OtherModel("30x50, cropping decoder", Cropped, (1, 30, 50)),
    OtherModel("ViT-like patches", Patches, (3, 32, 32)),
)


def build(other: OtherModel, steps: int = STEPS) -> nn.Module:
    """The model after a few steps of training on its inputs, in eval mode."""
    torch.manual_seed(0)
    model = other.build()
    inputs = torch.from_numpy(pictures(other.shape))
    target = other.value_range.to_model(inputs) if other.value_range else inputs
    encode, decode = (next(getattr(model, n) for n in names if hasattr(model, n)) for names in NAMES)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(steps):
        batch = target[step * 16 % 144 :][:16]
        loss = F.mse_loss(tensor(decode(tensor(encode(batch)))), batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model.eval().requires_grad_(False)


NAMES = (("encode", "encoder"), ("decode", "decoder"))


def tensor(output: Any) -> torch.Tensor:  # noqa: ANN401 whatever a model returns
    """The latent's mean, or the image, of whatever a model returns."""
    if isinstance(output, torch.Tensor):
        return output
    if hasattr(output, "mean") and hasattr(output, "logvar"):
        return output.mean
    values = list(output.values()) if hasattr(output, "values") else list(output)
    return tensor(values[0])
