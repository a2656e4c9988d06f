"""Small halves of autoencoders for 16 x 16 pictures, that several tests put together."""

from __future__ import annotations

import torch
from torch import nn

SIZE = 16


def encoder_net(out: int = 6, channels: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, out),
    )


def decoder_net(latent: int = 6, channels: int = 1, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent, 128),
        nn.Unflatten(1, (8, 4, 4)),
        nn.ConvTranspose2d(8, 8, 3, 2, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, channels, 3, 2, 1, 1),
        last or nn.Sigmoid(),
    )


class Base(nn.Module):
    """Two heads over shared features; what `encode` returns is up to the subclass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.decoder = encoder_net(32), decoder_net()
        self.first, self.second = nn.Linear(32, 6), nn.Linear(32, 6)

    def heads(self, x):
        h = self.features(x)
        return self.first(h), 0.1 * self.second(h) - 1

    def decode(self, z):
        return self.decoder(z)


def torch_of(function, images):
    with torch.inference_mode():
        return function(torch.from_numpy(images))
