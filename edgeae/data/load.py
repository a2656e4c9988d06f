"""From a name to a set of images."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from edgeae_runtime.errors import InputError
from edgeae_runtime.files.array_files import find_array, is_array_file
from edgeae_runtime.files.axes import fits_any
from edgeae_runtime.pictures.loading import find_pictures

from edgeae.data.download import download_fashion_mnist
from edgeae.data.fashion_mnist import FILES, find_files, read_fashion_mnist, read_folder
from edgeae.data.images import ImageSet
from edgeae.data.picture_cache import PictureOptions
from edgeae.data.pictures import PICTURE_AXES, read_pictures, split_array
from edgeae.data.places import cache_folder, user_path
from edgeae.data.sampled import SAMPLE_FOLDER, SAMPLE_MD5
from edgeae.data.vision import TORCHVISION, read_torchvision

DATA_SETS = ("fashion-mnist", "sample", *TORCHVISION)
"""What `load_images` knows by name."""


def load_images(
    name: str = "fashion-mnist",
    *,
    folder: Path | None = None,
    download: bool = True,
    pictures: PictureOptions | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> ImageSet:
    """Load a set of labelled images.

    Args:
        name: `"fashion-mnist"`, `"sample"` (5,000 + 1,000 of its images, part of this package), one of torchvision's
            (`"mnist"`, `"kmnist"`, `"cifar10"`, `"cifar100"`), or a path: of a folder that holds Fashion-MNIST's files
            or another set in the same four files, of a folder of pictures, or of a .npy or .npz file of images,
            where `file.npz:name` names one of several arrays.
        folder: where to look for Fashion-MNIST first; then come the cache, the Debian package's folder, the network.
        download: whether the network may be used.
        pictures: how pictures become images, and how many are kept for testing.
        on_progress: told in words what is being done.

    Raises:
        InputError: the set is not to be found, or a file of it is damaged or wrong.
    """
    tell = on_progress or (lambda step: None)
    if name == "sample":
        return dataclasses.replace(
            read_fashion_mnist(SAMPLE_FOLDER, name, SAMPLE_MD5),
            source="the part of Fashion-MNIST that comes with edgeae",
        )
    if name == "fashion-mnist":
        return _fashion_mnist(folder, download, tell)
    if name in TORCHVISION:
        return read_torchvision(name, download=download, tell=tell)
    path = user_path(name)
    if is_array_file(path):
        found = find_array(path, fits_any(PICTURE_AXES), prefer="train")
        if found.notice:
            tell(found.notice)
        return split_array(found.array, found.path, path.name, pictures)
    if not path.is_dir():
        raise InputError(
            f"Got data {name!r}, expected {' or '.join(DATA_SETS)}, the path of a folder of pictures or of IDX "
            "files, or of a .npy or .npz file."
        )
    tell(f"reading {path}")
    if holds_pictures(name):
        return read_pictures(path, pictures, tell)
    if not find_files(path):
        raise InputError(
            f"The folder {path} holds neither pictures, anywhere below it, nor {', '.join(FILES)} (each plain "
            "or with .gz). Give a folder that holds one of these."
        )
    return read_folder(path, str(path.resolve()))


def holds_pictures(name: str) -> bool:
    """Whether a name is the path of a folder of pictures, and not of one of IDX files."""
    path = user_path(name)
    return name not in DATA_SETS and path.is_dir() and not find_files(path) and bool(find_pictures(path))


def _fashion_mnist(folder: Path | None, download: bool, tell: Callable[[str], None]) -> ImageSet:
    if folder is not None:
        tell(f"reading Fashion-MNIST from {folder}")
        return read_fashion_mnist(folder, str(user_path(folder).resolve()))
    cache = cache_folder()
    places = (cache, *_package_folders())
    place = next((place for place in places if len(find_files(place)) == len(FILES)), None)
    if place is None:
        if not download:
            raise InputError(
                f"Fashion-MNIST was found in none of {', '.join(map(str, places))}, and downloading was not allowed. "
                "Install it with `apt-get install dataset-fashion-mnist`, give a folder that holds its files with "
                "`--data FOLDER`, allow the download, or use the small built-in set with `--data sample`."
            )
        download_fashion_mnist(cache, tell)
        place = cache
    tell(f"reading Fashion-MNIST from {place}")
    try:
        return read_fashion_mnist(place, "fashion-mnist")
    except InputError as error:
        if place != cache or not download:
            raise InputError(f"{error} Delete the damaged file, and it is downloaded or found elsewhere.") from error
        tell(f"the downloaded Fashion-MNIST in {place} is damaged, and is downloaded again")
        download_fashion_mnist(cache, tell)
        return read_fashion_mnist(cache, "fashion-mnist")


def _package_folders() -> tuple[Path, ...]:
    """Where the package dataset-fashion-mnist puts its files: Debian's prefix, and that of the interpreter."""
    prefixes = (Path("/usr"), Path(sys.prefix))
    return tuple(dict.fromkeys(prefix / "share/datasets/fashion-mnist" for prefix in prefixes))
