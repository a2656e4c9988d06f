"""The modules of the zoo, written from their descriptions; the names of their tensors are those of the weight files.

Each has `encode` and `decode`. Shapes are those of one image; a batch goes in front.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

LATENT = 10
"""Dimensions of the latent of both disentangling VAEs."""


class BurgessEncoder(nn.Module):
    """[1, 32, 32] or [1, 64, 64] in [0, 1] to mean and log-variance [10] (Burgess et al. 2018, arXiv:1804.03599)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 4, 2, 1)
        self.conv2 = nn.Conv2d(32, 32, 4, 2, 1)
        self.conv3 = nn.Conv2d(32, 32, 4, 2, 1)
        self.conv_64 = nn.Conv2d(32, 32, 4, 2, 1) if size == 64 else None
        self.lin1 = nn.Linear(512, 256)
        self.lin2 = nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 2 * LATENT)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance: the last layer gives them by turns."""
        x = image
        for layer in (self.conv1, self.conv2, self.conv3, self.conv_64):
            x = x if layer is None else torch.relu(layer(x))
        x = torch.relu(self.lin1(x.flatten(1)))
        x = torch.relu(self.lin2(x))
        mean, log_variance = self.mu_logvar_gen(x).reshape(-1, LATENT, 2).unbind(-1)
        return mean, log_variance


class BurgessDecoder(nn.Module):
    """The latent [10] to [1, 32, 32] or [1, 64, 64] in [0, 1]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(LATENT, 256)
        self.lin2 = nn.Linear(256, 256)
        self.lin3 = nn.Linear(256, 512)
        self.convT_64 = nn.ConvTranspose2d(32, 32, 4, 2, 1) if size == 64 else None
        self.convT1 = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.convT2 = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.convT3 = nn.ConvTranspose2d(32, 1, 4, 2, 1)

    def forward(self, latent: Tensor) -> Tensor:
        """The image."""
        x = latent
        for dense in (self.lin1, self.lin2, self.lin3):
            x = torch.relu(dense(x))
        x = x.reshape(-1, 32, 4, 4)
        for layer in (self.convT_64, self.convT1, self.convT2):
            x = x if layer is None else torch.relu(layer(x))
        return torch.sigmoid(self.convT3(x))


class BurgessVAE(nn.Module):
    """A disentangling variational autoencoder for square grey images of 32 or 64."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoder, self.decoder = BurgessEncoder(size), BurgessDecoder(size)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        mean, log_variance = self.encoder(image)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        return self.decoder(latent)


class Clamp(nn.Module):
    """Softly to [-3, 3], as the tiny autoencoder's latents were trained."""

    def forward(self, x: Tensor) -> Tensor:
        """tanh, stretched."""
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """A residual block of three convolutions; a pooled one first adds what a grouped normalisation sees."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(64, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 64))
        self.pool = None
        if pooled:
            wide, narrow = nn.Conv2d(64, 256, 1, bias=False), nn.Conv2d(256, 64, 1, bias=False)
            self.pool = nn.Sequential(wide, nn.GroupNorm(4, 256), nn.ReLU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        """As many channels as it was given."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def conv(before: int, after: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, or halves it."""
    return nn.Conv2d(before, after, 3, stride, 1, bias=bias)


def blocks(pooled: bool = False) -> list[nn.Module]:
    """Three of them."""
    return [Block(pooled) for _ in range(3)]


class Taef2(nn.Module):
    """The tiny autoencoder for FLUX.2: [3, h, w] in [0, 1] to [32, h/8, w/8] and back."""

    def __init__(self) -> None:
        super().__init__()
        down = [conv(64, 64, stride=2, bias=False) for _ in range(3)]
        self.encoder = nn.Sequential(
            conv(3, 64), Block(), down[0], *blocks(), down[1], *blocks(), down[2], *blocks(pooled=True), conv(64, 32)
        )
        up = [[nn.Upsample(scale_factor=2), conv(64, 64, bias=False)] for _ in range(3)]
        self.decoder = nn.Sequential(
            *(Clamp(), conv(32, 64), nn.ReLU()),
            *(*blocks(pooled=True), *up[0], *blocks(), *up[1], *blocks(), *up[2]),
            *(Block(), conv(64, 3)),
        )

    def encode(self, image: Tensor) -> Tensor:
        """The feature map."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """The image; a little outside [0, 1] in places, as it was trained."""
        return self.decoder(latent)


class CifarAutoencoder(nn.Module):
    """[3, 32, 32] in [0, 1] to [48, 4, 4] and back: strides that do not divide what they are padded to."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.ReLU(), nn.Conv2d(32, 48, 3, 3, 2), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(48, 32, 3, 3, 2), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 4), nn.Sigmoid()
        )

    def encode(self, image: Tensor) -> Tensor:
        """The feature map."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        return self.decoder(latent)


class ToyCar(nn.Module):
    """MLPerf Tiny's anomaly detector: rows of 640 log-mel features to [8] and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*dense(640, 128, 128, 128, 128, 8))
        self.decoder = nn.Sequential(*dense(8, 128, 128, 128, 128), nn.Linear(128, 640))

    def encode(self, row: Tensor) -> Tensor:
        """The bottleneck."""
        return self.encoder(row)

    def decode(self, latent: Tensor) -> Tensor:
        """The row; how far it is from the given one is the anomaly score."""
        return self.decoder(latent)


def dense(*widths: int) -> list[nn.Module]:
    """Hidden layers from width to width; the epsilon is that of Keras, where the weights were trained."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after, eps=1e-3), nn.ReLU()]
    return layers
