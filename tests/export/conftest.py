"""Small models with random weights: everything the exporter does, in seconds."""

import numpy as np
import pytest
import torch
from torch import nn


class SmallModel:
    """16 x 16 grey images, latents of 3 numbers."""

    image_shape = (1, 16, 16)
    latent_dim = 3

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        ).eval()
        self.decoder = nn.Sequential(
            nn.Linear(3, 128),
            nn.Unflatten(1, (8, 4, 4)),
            nn.ConvTranspose2d(8, 8, 3, 2, 1, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
            nn.ReLU(),
            nn.Conv2d(4, 1, 3, 1, 1),
            nn.Sigmoid(),
        ).eval()


@pytest.fixture
def model() -> SmallModel:
    return SmallModel()


@pytest.fixture(scope="session")
def new_model() -> type[SmallModel]:
    """Makes the same, for fixtures that several tests share."""
    return SmallModel


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """120 uint8 images with some structure: blurred noise."""
    noise = np.random.default_rng(0).random((120, 1, 20, 20))
    smooth = sum(noise[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)) / 25
    return np.rint((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """150 float32 images in [0, 1], blurred noise too."""
    noise = np.random.default_rng(0).random((150, 1, 20, 20))
    smooth = sum(noise[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)) / 25
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
