"""Train autoencoders and put them on a device.

The names are imported when they are first used: `edgeae sample` should not wait two seconds for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeae.checkpoint import Checkpoint, EpochRecord, load_checkpoint
    from edgeae.data import ImageSet, PictureOptions, load_images
    from edgeae.model import Autoencoder, AutoencoderConfig, Decoder, Encoder
    from edgeae.training.loop import TrainingConfig, TrainingDivergedError, TrainingProgress, train

_MODULES = {
    "edgeae.checkpoint": ("Checkpoint", "EpochRecord", "load_checkpoint"),
    "edgeae.data": ("ImageSet", "PictureOptions", "load_images"),
    "edgeae.model": ("Autoencoder", "AutoencoderConfig", "Decoder", "Encoder"),
    "edgeae.training.loop": ("TrainingConfig", "TrainingDivergedError", "TrainingProgress", "train"),
}

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "Checkpoint",
    "Decoder",
    "Encoder",
    "EpochRecord",
    "ImageSet",
    "PictureOptions",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingProgress",
    "load_checkpoint",
    "load_images",
    "train",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'edgeae' has no attribute {name!r}")
