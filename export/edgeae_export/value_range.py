"""What numbers a model's images hold: the exported graphs take and give [0, 1], whatever the model was trained on.

The conversion is one multiplication and one addition at the ends of the graphs. So every runtime undoes it, also one
that is not this project's; the manifest records it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor


@dataclass(frozen=True)
class ValueRange:
    """The model sees (x - mean) / std of an image x in [0, 1], per channel."""

    bounded: bool = True
    """Whether the bundle's images lie in [0, 1]; False for signals and rows of any finite numbers."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def default(cls, image_shape: Sequence[int]) -> ValueRange:
        """[0, 1] for pictures, anything for signals and rows."""
        return cls(bounded=len(image_shape) == 3)

    @classmethod
    def between(cls, low: float, high: float) -> ValueRange:
        """A model whose images lie in [low, high], as [-1, 1].

        Raises:
            InputError: it is no interval.
        """
        if not (-1e6 < low < high < 1e6):
            raise InputError(f"Got the value range {low:g},{high:g}, expected two numbers, the smaller first, as -1,1.")
        return cls(mean=(-low / (high - low),), std=(1 / (high - low),))

    @classmethod
    def normalized(cls, mean: Sequence[float], std: Sequence[float]) -> ValueRange:
        """A model whose images have had a mean taken off and were divided by a standard deviation, per channel.

        Raises:
            InputError: the two have different lengths, or a deviation is not above zero.
        """
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise InputError(
                f"Got a normalisation by {list(mean)} and {list(std)}, expected as many means as deviations above 0."
            )
        return cls(mean=tuple(map(float, mean)), std=tuple(map(float, std)))

    @property
    def identity(self) -> bool:
        """Whether nothing is converted."""
        return all(m == 0 for m in self.mean) and all(s == 1 for s in self.std)

    def to_model(self, image: Tensor) -> Tensor:
        """An image in [0, 1] as the model wants it."""
        if self.identity:
            return image
        mean, std = self._constants(image)
        return (image - mean) / std

    def from_model(self, image: Tensor) -> Tensor:
        """The model's image back in [0, 1]."""
        if self.identity:
            return image
        mean, std = self._constants(image)
        return image * std + mean

    def as_document(self) -> dict[str, Any]:
        """For the manifest."""
        return {"bounded": self.bounded, "mean": list(self.mean), "std": list(self.std)}

    def _constants(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shaped to stretch over everything behind the channels."""
        shape = (1, len(self.mean), *(1 for _ in image.shape[2:]))
        if len(self.mean) not in (1, image.shape[1]):
            raise InputError(f"Got a normalisation of {len(self.mean)} channels for images of {image.shape[1]}.")
        mean, std = (torch.tensor(values, dtype=image.dtype).reshape(shape) for values in (self.mean, self.std))
        return mean, std
