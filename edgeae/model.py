"""The autoencoder of *Generative Deep Learning* (David Foster, 2nd edition, chapter 3), in PyTorch.

Images go through three strided convolutions to a point in a small latent space, and from any point of that space
transposed convolutions decode an image. Two things of the widely copied PyTorch version of that chapter are mended:

- Its decoder calls `Conv2d` with an `output_padding`, which `Conv2d` does not have. The text describes convolutional
  transpose layers that double the image, so `ConvTranspose2d` it is.
- It reshapes the decoder's first layer to (4, 4, 128). PyTorch's convolutions want channels first: (128, 4, 4).

With the default configuration the encoder has 96,770 parameters and the decoder 246,273.

The variational autoencoder of the same chapter (Kingma and Welling 2013, arXiv:1312.6114) differs in its encoder alone:
a second head gives the logarithm of the variance, so that an image becomes a normal distribution over latents. Only
training samples from it; the exported encoder gives the mean and the log-variance, and no graph holds a random number.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae.image_size import ImageSize, sides, simplest, size_in_words

RECONSTRUCTION_WEIGHT = 500.0
"""What a variational autoencoder's cross-entropy per pixel counts against its KL divergence: the book's weight."""
Kind = Literal["ae", "vae"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""A plain and a variational autoencoder."""
PRESETS = {
    "small": (32, 2, (32, 64, 128)),
    "medium": (64, 64, (32, 64, 128, 256)),
    "large": (128, 128, (32, 64, 128, 256, 256)),
}
"""Image size, latent dimensions and widths."""
_MAX_SIZE = 1 << 16  # keeps a configuration read from a stranger's checkpoint from asking for absurd tensors


@dataclass(frozen=True)
class AutoencoderConfig:
    """The shape of the network; validated once, here.

    Raises:
        InputError: a field is out of range.
    """

    image_size: ImageSize = 32
    """Height and width of the images, one number for a square; multiples of 2 per layer of `widths`: 8 by default."""
    channels: int = 1
    """1 for grey images, 3 for colour."""
    latent_dim: int = 2
    """Numbers in a latent."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of the encoder's convolutions, each of which halves the image."""
    kind: Kind = "ae"
    """A plain or a variational autoencoder."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Got kind = {self.kind!r}, expected {' or '.join(KINDS)}.")
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "image_size", simplest(self.image_size))
        numbers = [("channels", self.channels), ("latent_dim", self.latent_dim)]
        size = self.image_size
        pair = size if isinstance(size, tuple) and len(size) == 2 else [size]
        numbers += [*(("image_size", side) for side in pair), *(("widths", width) for width in self.widths)]
        for name, value in numbers:
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIZE:
                raise InputError(f"Got {name} = {value!r}, expected a whole number from 1 to {_MAX_SIZE}.")
        if not 1 <= len(self.widths) <= 16:
            raise InputError(f"Got {len(self.widths)} widths, expected 1 to 16: each is a convolution.")
        self._check_size()

    def _check_size(self) -> None:
        height, width = sides(self.image_size)
        step = self.reduction
        if height % step == 0 and width % step == 0:
            return
        below, above = (
            size_in_words((max(height // step, 1) * step, max(width // step, 1) * step)),
            size_in_words((-(-height // step) * step, -(-width // step) * step)),
        )
        nearest = above if below == above else f"{below} and {above}"
        raise InputError(
            f"Got an image size of {height}x{width}, expected height and width to be a multiple of {step}: each of the "
            f"{len(self.widths)} convolutions halves the image. The nearest that fit: {nearest}."
        )

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        channels: int = 1,
        kind: Kind = "ae",
        image_size: ImageSize | None = None,
        latent_dim: int | None = None,
    ) -> AutoencoderConfig:
        """A network for images of some size.

        Args:
            name: `small` for 32 x 32 (the book's), `medium` for 64 x 64, `large` for 128 x 128.
            channels, kind: as the fields.
            image_size, latent_dim: as the fields, where they should be others; None leaves the preset's.

        Raises:
            InputError: the name is unknown, or a field is out of range.
        """
        if name not in PRESETS:
            raise InputError(f"Got preset {name!r}, expected one of {', '.join(PRESETS)}.")
        size, dim, widths = PRESETS[name]
        return cls(
            image_size=size if image_size is None else image_size,
            latent_dim=dim if latent_dim is None else latent_dim,
            widths=widths,
            channels=channels,
            kind=kind,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.channels, *sides(self.image_size)

    @property
    def reduction(self) -> int:
        """How many times smaller than the image the last feature map is, per side."""
        return int(2 ** len(self.widths))

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the last feature map."""
        height, width = sides(self.image_size)
        return self.widths[-1], height // self.reduction, width // self.reduction


class Encoder(nn.Module):
    """Image to latent: float32 [batch, channels, height, width] in [0, 1] -> [batch, latent_dim], unbounded.

    A variational one gives a pair of these: the mean and the logarithm of the variance of each coordinate.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = (config.channels, *config.widths)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            # In place: a second copy of each feature map costs a fifth of the training time on a CPU.
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        features = math.prod(config.feature_shape)
        self.to_latent = nn.Linear(features, config.latent_dim)
        self.to_log_variance = nn.Linear(features, config.latent_dim) if config.kind == "vae" else None
        _initialise(self)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode a batch of images."""
        features = self.convolutions(image).flatten(1)
        latent: Tensor = self.to_latent(features)
        if self.to_log_variance is None:
            return latent
        return latent, self.to_log_variance(features)


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's layer, with the bias added apart while training.

    The same function. On the CPU the kernel's own bias gradient takes twice as long as the rest of its backward pass
    (10.0 of 11.4 ms in bfloat16 for 128 x 64 x 16 x 16, against 4.8 ms for input and weight gradients together).
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002 PyTorch's name
        """Upsample a batch of feature maps."""
        if not self.training or self.bias is None or output_size is not None:
            return super().forward(input, output_size)
        assert not isinstance(self.padding, str)  # transposed convolutions take numbers only
        output = F.conv_transpose2d(
            input, self.weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
        return output.add_(self.bias.to(output.dtype)[:, None, None])


class Decoder(nn.Module):
    """Latent to image: float32 [batch, latent_dim] -> [batch, channels, height, width] in [0, 1]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.feature_shape = config.feature_shape
        self.from_latent = nn.Linear(config.latent_dim, math.prod(config.feature_shape))
        widths = (config.widths[-1], *reversed(config.widths))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [
                ConvTranspose2d(before, after, kernel_size=3, stride=2, padding=1, output_padding=1),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], config.channels, kernel_size=3, padding=1))
        self.transposed_convolutions = nn.Sequential(*layers)
        _initialise(self)

    def logits(self, latent: Tensor) -> Tensor:
        """The image before its sigmoid, which the training loss wants for its numerical stability."""
        features = self.from_latent(latent).unflatten(1, self.feature_shape)
        logits: Tensor = self.transposed_convolutions(features)
        return logits

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a batch of latents; any point of the latent space gives an image."""
        return torch.sigmoid(self.logits(latent))


class Autoencoder(nn.Module):
    """Encoder and decoder, trained together."""

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruct a batch of images, as training does, also when it is wrapped for several processes.

        Args:
            image: float32 [batch, channels, height, width] in [0, 1].
            noise: standard normal [batch, latent_dim], for a variational one to sample with; None for the mean.

        Returns:
            The logits of the reconstruction, whose sigmoid is the image; and per image, in nats, how far its
            distribution is from the prior: zeros for a plain autoencoder.
        """
        encoded = self.encoder(image)
        if isinstance(encoded, Tensor):
            return self.decoder.logits(encoded), encoded.new_zeros(len(encoded))
        mean, log_variance = (part.float() for part in encoded)
        latent = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return self.decoder.logits(latent), kl_divergence(mean, log_variance)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence from N(0, 1), in nats, summed over the latent's coordinates: [batch].

    Kingma and Welling 2013 (arXiv:1312.6114), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


def _initialise(module: nn.Module) -> None:
    """He initialisation (He et al. 2015) of the convolutions, whose inputs or outputs are rectified.

    The fan-in is the number of weights that reach one output: for a transposed convolution with stride s only one
    tap in s*s does, which PyTorch's own formula does not consider.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            taps = math.prod(layer.kernel_size)
            stride = math.prod(layer.stride) if isinstance(layer, nn.ConvTranspose2d) else 1
            bound = math.sqrt(6.0 * stride / (layer.in_channels * taps))
            nn.init.uniform_(layer.weight, -bound, bound)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
