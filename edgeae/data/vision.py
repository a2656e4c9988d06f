"""The small sets that torchvision knows by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from edgeae_runtime.errors import InputError, gist

from edgeae.data.idx import read_idx
from edgeae.data.images import Images, ImageSet, Labels
from edgeae.data.pictures import as_pixels
from edgeae.data.places import cache_folder

TORCHVISION = {"mnist": "MNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
"""Our names, and torchvision's classes."""


def read_torchvision(name: str, *, download: bool, tell: Callable[[str], None]) -> ImageSet:
    """Load one of `TORCHVISION`, from the cache or the network.

    Raises:
        InputError: it is not in the cache and cannot be downloaded.
    """
    import torchvision

    dataset = getattr(torchvision.datasets, TORCHVISION[name])
    folder = cache_folder() / "torchvision"
    tell(f"reading {TORCHVISION[name]} by torchvision from {folder}")
    _remove_damaged(folder / TORCHVISION[name] / "raw", download, tell)
    try:
        train, test = (dataset(str(folder), train=part, download=download) for part in (True, False))
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError and more
        raise InputError(
            f"{TORCHVISION[name]} is not in {folder} and cannot be had ({gist(error)}). Put its "
            "files there as torchvision does, or train on a folder of pictures: --data FOLDER."
        ) from error
    return ImageSet(
        name, f"torchvision's {TORCHVISION[name]}", *_part(train), *_part(test), tuple(map(str, train.classes))
    )


def _remove_damaged(raw: Path, download: bool, tell: Callable[[str], None]) -> None:
    """Remove IDX files that are not what their headers say, as after a download was killed: torchvision, which asks
    only whether they exist, takes them again.

    Raises:
        InputError: there are such files, and nothing may be downloaded.
    """
    for path in sorted(raw.glob("*-ubyte")):
        try:
            read_idx(path)
        except InputError as error:
            if not download:
                raise InputError(f"{error} Delete it, and allow the download.") from error
            tell(f"{path} is damaged, and is taken again")
            path.unlink(missing_ok=True)


def _part(dataset: Any) -> tuple[Images, Labels]:  # noqa: ANN401 torchvision ships no types
    return as_pixels(np.asarray(dataset.data), "the data set"), np.asarray(dataset.targets).astype(np.int64)
