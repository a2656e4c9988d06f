"""A small part of Fashion-MNIST that ships inside this package, so that everything can be tried offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from edgeae_runtime.errors import InputError
from numpy.typing import NDArray

from edgeae.data.fashion_mnist import FILES
from edgeae.data.images import ImageSet, Labels

SAMPLE_FOLDER = Path(__file__).parent / "sample"
TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 100
SAMPLE_SEED = 0
SAMPLE_MD5: Mapping[str, str] = dict(
    zip(
        FILES,
        (
            "53e3611df94e806e55f800774906a256",
            "5952c8f56d55036ad7df1cd21c2d9e5e",
            "32d86cdeacf806dae50f0ea01d4f4655",
            "2a34ae02830f911324fd3bb64c757946",
        ),
        strict=True,
    )
)
"""Of the decompressed files; `python -m edgeae.data.make_sample` prints them."""


def sample_arrays(full: ImageSet) -> dict[str, NDArray[np.uint8]]:
    """Draw the sample from the full set.

    Returns:
        uint8 arrays by file name: images [n, height, width] and labels [n], in the full set's order.

    Raises:
        InputError: the set is not Fashion-MNIST in size.
    """
    if len(full.train_images) != 60_000 or len(full.test_images) != 10_000:
        raise InputError(
            f"Got {len(full.train_images)} + {len(full.test_images)} images, expected the full 60000 + 10000 of "
            "Fashion-MNIST to draw the sample from."
        )
    train = stratified(full.train_labels, TRAIN_PER_CLASS, SAMPLE_SEED)
    test = stratified(full.test_labels, TEST_PER_CLASS, SAMPLE_SEED)
    arrays = (
        full.train_images[train, 0],
        full.train_labels[train].astype(np.uint8),
        full.test_images[test, 0],
        full.test_labels[test].astype(np.uint8),
    )
    return dict(zip(FILES, arrays, strict=True))


def stratified(labels: Labels, per_class: int, seed: int) -> NDArray[np.int64]:
    """Indices of `per_class` images of every class, drawn at random, in ascending order."""
    random = np.random.RandomState(seed)  # its stream is frozen for ever, unlike default_rng's
    drawn = [random.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))
