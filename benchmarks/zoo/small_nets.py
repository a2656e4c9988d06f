"""Small networks after patterns met in other people's repositories that no package brings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ai85(nn.Module):
    """[1, 28, 28] to [32] and back, as Analog Devices' ai8x-training builds for the MAX78000.

    Rectifiers clipped at six, a dense layer whose output becomes a feature map, kernels of 3 at stride 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU6()),
            *(nn.Flatten(), nn.Linear(16 * 7 * 7, 32)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(32, 16 * 7 * 7), nn.Hardtanh(0, 6), nn.Unflatten(1, (16, 7, 7))),
            *(nn.ConvTranspose2d(16, 16, 3, 2, 1, 1), nn.ReLU6(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1), nn.Sigmoid()),
        )


class VanillaVAE(nn.Module):
    """[3, 32, 32] in [-1, 1] to [32] and back, after AntixK's PyTorch-VAE, with fewer and narrower stages.

    Batch norms and leaky rectifiers, and kernels of 4 at stride 2 with a padding of 1 on the way up.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), latent: int = 32) -> None:
        super().__init__()
        down: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            down += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU()]
        up: list[nn.Module] = []
        for before, after in zip(widths[::-1], widths[-2::-1], strict=False):
            up += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU()]
        self.features = nn.Sequential(*down, nn.Flatten())
        self.fc_mu, self.fc_var = (nn.Linear(widths[-1] * 16, latent) for _ in range(2))
        self.decoder_input = nn.Sequential(nn.Linear(latent, widths[-1] * 16), nn.Unflatten(1, (widths[-1], 4, 4)))
        self.up = nn.Sequential(*up, nn.ConvTranspose2d(widths[0], 3, 4, 2, 1), nn.Tanh())

    def encode(self, image: Tensor) -> list[Tensor]:
        """Mean and log-variance, in a list."""
        features = self.features(image)
        return [self.fc_mu(features), self.fc_var(features)]

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        return self.up(self.decoder_input(latent))


class Volume(nn.Module):
    """[1, 16, 16, 16] to [32] and back: convolutions in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv3d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv3d(8, 16, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16 * 64, 32)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(32, 16 * 64), nn.ReLU(), nn.Unflatten(1, (16, 4, 4, 4))),
            *(nn.ConvTranspose3d(16, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose3d(8, 1, 4, 2, 1), nn.Sigmoid()),
        )


class Cropped(nn.Module):
    """[1, 30, 50] to [24] and back: the decoder makes 32 x 52 and cuts the rest off."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16 * 8 * 13, 24)),
        )
        self.dense = nn.Sequential(nn.Linear(24, 16 * 8 * 13), nn.ReLU(), nn.Unflatten(1, (16, 8, 13)))
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))

    def encode(self, image: Tensor) -> Tensor:
        """The latent."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        return torch.sigmoid(self.up(self.dense(latent))[:, :, :30, :50])


class Patches(nn.Module):
    """[3, 32, 32] to [64 patches, 8] and back, in the manner of vision transformers.

    A convolution that cuts patches of 4, places that are learned, a layer of attention at each end, and a transposed
    convolution that lays the patches out again.
    """

    def __init__(self, width: int = 32, latent: int = 8) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.first, self.last = (
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True)
            for _ in range(2)
        )
        self.narrow, self.widen = nn.Linear(width, latent), nn.Linear(latent, width)
        self.lay_out = nn.ConvTranspose2d(width, 3, 4, 4)

    def encode(self, image: Tensor) -> Tensor:
        """One short vector per patch."""
        return self.narrow(self.first(self.cut(image).flatten(2).transpose(1, 2) + self.places))

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        tokens = self.last(self.widen(latent) + self.places)
        return torch.sigmoid(self.lay_out(tokens.transpose(1, 2).unflatten(2, (8, 8))))
