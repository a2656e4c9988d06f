"""Autoencoders whose parts return their results under keys, and whose `forward` takes a batch under a key as well.

The three families of nets that Chadebec, Vincent and Allassonnière compare generative autoencoders with (A Benchmarking
Use Case, NeurIPS 2022, arXiv:2206.08309), written here after their layers' shapes:

- dense: Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, Science 2006;
- convolutional for MNIST, kernels of 4 at stride 2 with batch norms: Tolstikhin et al., Wasserstein Auto-Encoders,
  ICLR 2018, arXiv:1711.01558;
- residual for CIFAR: van den Oord et al., Neural Discrete Representation Learning, NeurIPS 2017, arXiv:1711.00937.

The variational ones: Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 512
"""Units of the dense nets' only hidden layer."""


class ModelOutput(OrderedDict[str, Tensor]):
    """Tensors by key, by attribute, or by their place: `output["embedding"]`, `output.embedding`, `output[0]`."""

    def __getitem__(self, key: str | int) -> Tensor:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Tensor:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(name) from None


class Encoder(nn.Module):
    """Images [batch, …] to `embedding` [batch, latent], and for a variational one `log_covariance` of that shape."""

    def __init__(
        self, layers: Sequence[nn.Module], features: int, latent: int, variational: bool, row: int | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.embedding = nn.Linear(features, latent)
        self.log_var = nn.Linear(features, latent) if variational else None
        self.row = row
        """How many numbers of an image the first layer takes as a row; None if it takes the image."""

    def forward(self, image: Tensor) -> ModelOutput:
        """The latent's mean, and where there is one its log-variance."""
        out = image if self.row is None else image.reshape(-1, self.row)
        for layer in self.layers:
            out = layer(out)
        out = out.reshape(image.shape[0], -1)
        found = ModelOutput(embedding=self.embedding(out))
        if self.log_var is not None:
            found["log_covariance"] = self.log_var(out)
        return found


class Decoder(nn.Module):
    """Latents [batch, latent] to `reconstruction`; what the layer `after` gives is laid out as `shape`."""

    def __init__(self, layers: Sequence[nn.Module], after: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.after, self.shape = after, shape

    def forward(self, latent: Tensor) -> ModelOutput:
        """The image in [0, 1]."""
        out = latent
        for index, layer in enumerate(self.layers):
            out = layer(out)
            if index == self.after:
                out = out.reshape(latent.shape[0], *self.shape)
        return ModelOutput(reconstruction=out)


class KeyedAutoencoder(nn.Module):
    """Both parts, and a loss; variational if its encoder gives a log-variance."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder

    def forward(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        """Loss, reconstruction and latent of the batch under `data`; a variational one's latent is drawn."""
        image = inputs["data"]
        found = self.encoder(image)
        mean, log_variance = found.embedding, found.get("log_covariance")
        latent = mean if log_variance is None else mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        image_again = self.decoder(latent).reconstruction
        squares = F.mse_loss(image_again, image, reduction="sum") / len(image)
        if log_variance is None:
            return ModelOutput(loss=squares, recon_x=image_again, z=latent)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum() / (2 * len(image))
        halved = squares / 2
        return ModelOutput(
            recon_loss=halved, reg_loss=divergence, loss=halved + divergence, recon_x=image_again, z=latent
        )


def dense(variational: bool, shape: tuple[int, ...] = (1, 28, 28), latent: int = 10) -> KeyedAutoencoder:
    """One hidden layer in each part."""
    numbers = math.prod(shape)
    up = (nn.Linear(latent, HIDDEN), nn.ReLU()), (nn.Linear(HIDDEN, numbers), nn.Sigmoid())
    decoder = Decoder([nn.Sequential(*stage) for stage in up], 1, shape)
    down = nn.Sequential(nn.Linear(numbers, HIDDEN), nn.ReLU())
    return KeyedAutoencoder(Encoder([down], HIDDEN, latent, variational, row=numbers), decoder)


def convolutional(latent: int = 16) -> KeyedAutoencoder:
    """[1, 28, 28], variational: four halvings to [1024, 1, 1], and from [1024, 4, 4] three doublings back."""

    def stage(layer: nn.Module) -> nn.Module:
        return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU())

    down = [
        stage(nn.Conv2d(before, after, 4, 2, 1)) for before, after in ((1, 128), (128, 256), (256, 512), (512, 1024))
    ]
    encoder = Encoder(down, 1024, latent, variational=True)
    up = (
        nn.Linear(latent, 1024 * 4 * 4),
        stage(nn.ConvTranspose2d(1024, 512, 3, 2, 1)),  # to 7 x 7, so without an output padding
        stage(nn.ConvTranspose2d(512, 256, 3, 2, 1, 1)),
        nn.Sequential(nn.ConvTranspose2d(256, 1, 3, 2, 1, 1), nn.Sigmoid()),
    )
    return KeyedAutoencoder(encoder, Decoder(up, 0, (1024, 4, 4)))


class Residual(nn.Module):
    """[batch, width, …] and what two convolutions, each after a rectifier, add to it."""

    def __init__(self, width: int = 128, narrow: int = 32) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(width, narrow, 3, 1, 1), nn.ReLU(), nn.Conv2d(narrow, width, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return x + self.conv_block(x)


def residual(latent: int = 16) -> KeyedAutoencoder:
    """[3, 32, 32] to [128, 8, 8] and back, with two residual blocks in each part."""
    down = (
        *(nn.Sequential(nn.Conv2d(3, 64, 4, 2, 1)), nn.Sequential(nn.Conv2d(64, 128, 4, 2, 1))),
        *(nn.Sequential(nn.Conv2d(128, 128, 3, 1, 1)), nn.Sequential(Residual(), Residual())),
    )
    encoder = Encoder(down, 128 * 8 * 8, latent, variational=False)
    up = (
        *(nn.Linear(latent, 128 * 8 * 8), nn.Sequential(Residual(), Residual())),
        nn.Sequential(nn.ConvTranspose2d(128, 64, 4, 2, 1)),
        nn.Sequential(nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Sigmoid()),
    )
    return KeyedAutoencoder(encoder, Decoder(up, 0, (128, 8, 8)))
