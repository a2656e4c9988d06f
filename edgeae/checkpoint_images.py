"""The images that a checkpoint was made with."""

from __future__ import annotations

import warnings

import numpy as np
from edgeae_runtime.errors import shown
from numpy.typing import NDArray

from edgeae.checkpoint import Checkpoint
from edgeae.data import PictureOptions, load_images, prepare


def checkpoint_images(checkpoint: Checkpoint) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The training and test images a checkpoint was made with, prepared: uint8 [n, channels, height, width].

    Where other images lie there now, or they are split in another way, a warning tells: images that the model was
    trained on may be among those that it is measured on.
    """
    data = load_images(checkpoint.data_name, pictures=PictureOptions.of(checkpoint.preprocessing))
    if data.fingerprint != checkpoint.data_fingerprint:
        warnings.warn(
            f"The images of {shown(checkpoint.data_name)} are not those that {shown(checkpoint.path)} was trained on: "
            "some were added, changed or removed, or are split in another way. Figures measured on them may be of "
            "pictures seen in training. Bring the old ones back, or train again.",
            stacklevel=2,
        )
    size = checkpoint.config.image_size
    return prepare(data.train_images, size), prepare(data.test_images, size)
