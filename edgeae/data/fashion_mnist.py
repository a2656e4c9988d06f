"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747) and other sets in the same four files.

Any of the four files may be plain or gzipped, and may lie in the folder itself, in its `raw`, or in its
`FashionMNIST/raw`, which is where torchvision puts them. Debian's package and torchvision compress the files
differently, so the digests are those of the decompressed files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from edgeae_runtime.errors import InputError
from numpy.typing import NDArray

from edgeae.data.idx import idx_md5, read_idx
from edgeae.data.images import ImageSet

Digests = Mapping[str, str]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""Training images, training labels, test images, test labels; with or without `.gz`."""
MD5: Digests = dict(
    zip(
        FILES,
        (
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        strict=True,
    )
)
"""Of the decompressed files."""
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_LAYOUTS = (".", "FashionMNIST/raw", "raw")


def find_files(folder: Path) -> dict[str, Path]:
    """The files of the set that lie in a folder, by name; those of the most complete layout, so all four or fewer."""
    found = [_in_layout(folder / layout) for layout in _LAYOUTS]
    return max(found, key=len)


def require_files(folder: Path) -> dict[str, Path]:
    """All four files of a set.

    Raises:
        InputError: there is no such folder, or files are missing from it.
    """
    found = find_files(folder)
    missing = [name for name in FILES if name not in found]
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}, expected one that holds {_expected()}.")
    if missing:
        raise InputError(
            f"The folder {folder} lacks {', '.join(missing)}, expected {_expected()}. Copy the missing files there."
        )
    return found


def read_fashion_mnist(folder: Path, name: str, digests: Digests = MD5) -> ImageSet:
    """Read the set from a folder and check that it is the published one, byte for byte.

    Args:
        folder: where the files lie.
        name: the set's name, see `ImageSet.name`.
        digests: MD5 of the four decompressed files.

    Raises:
        InputError: a file is missing, damaged, or not the published one.
    """
    files = require_files(folder)
    arrays = {file: read_idx(path) for file, path in files.items()}
    for file, array in arrays.items():
        _check_digest(files[file], array, digests[file])
    return _image_set(arrays, files, name, CLASS_NAMES)


def read_folder(folder: Path, name: str) -> ImageSet:
    """Read Fashion-MNIST, or another set in the same four files, such as MNIST itself.

    As soon as one file is Fashion-MNIST's, the others must be too: then a difference is damage.

    Raises:
        InputError: a file is missing or damaged, or the four do not make a set.
    """
    files = require_files(folder)
    arrays = {file: read_idx(path) for file, path in files.items()}
    if any(idx_md5(array) in MD5.values() for array in arrays.values()):
        for file, array in arrays.items():
            _check_digest(files[file], array, MD5[file])
        return _image_set(arrays, files, name, CLASS_NAMES)
    classes = 1 + max(int(arrays[file].max()) for file in FILES[1::2])
    return _image_set(arrays, files, name, tuple(str(index) for index in range(classes)))


def _in_layout(folder: Path) -> dict[str, Path]:
    candidates = [(name, folder / f"{name}{suffix}") for name in FILES for suffix in (".gz", "")]
    return {name: path for name, path in candidates if path.is_file()}  # plain beats gzipped: it is read faster


def _expected() -> str:
    places = " or ".join(layout for layout in _LAYOUTS if layout != ".")
    return f"{', '.join(FILES)} (each plain or with .gz), in the folder itself or in its {places}"


def _check_digest(path: Path, array: NDArray[np.uint8], md5: str) -> None:
    found = idx_md5(array)
    if found != md5:
        raise InputError(
            f"{path} is not the published file: its decompressed MD5 is {found}, expected {md5}. "
            "Delete it and download it again."
        )


def _image_set(
    arrays: Mapping[str, NDArray[np.uint8]], files: Mapping[str, Path], name: str, class_names: tuple[str, ...]
) -> ImageSet:
    for file, array in arrays.items():
        axes = 3 if "images" in file else 1
        if array.ndim != axes:
            raise InputError(
                f"{files[file]} has {array.ndim} dimensions, expected {axes}. Look whether the files were swapped."
            )
    train_images, train_labels, test_images, test_labels = (arrays[file] for file in FILES)
    return ImageSet(
        name=name,
        source=str(files[FILES[0]].parent),
        train_images=train_images[:, None],
        train_labels=train_labels.astype(np.int64),
        test_images=test_images[:, None],
        test_labels=test_labels.astype(np.int64),
        class_names=class_names,
    )
