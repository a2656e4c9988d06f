"""A folder of pictures of any size as a set of images: prepared once, one picture at a time, into a file on disk.

The prepared pixels lie in the cache as .npy files that are mapped, not read: a set may be larger than the memory. They
are made by the function with which the runtime prepares pictures on a device, so that both see the same pixels.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgeae_runtime.axes import as_batch, guess_shape
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.manifest import FITS
from edgeae_runtime.pictures import PICTURE_SUFFIXES, load_picture, skipped_in_words
from edgeae_runtime.pictures import find_pictures as pictures_below
from numpy.typing import NDArray

from edgeae.data.download import cache_folder
from edgeae.data.images import Images, ImageSet

_REPORT_EVERY = 1000
PICTURE_AXES = 2
"""Height and width."""


@dataclass(frozen=True)
class PictureOptions:
    """How pictures become images.

    Raises:
        InputError: a field is out of range.
    """

    size: int = 64
    """Height and width of the images in pixels."""
    channels: int = 3
    """1 for grey, 3 for colour; pictures are converted."""
    fit: str = "crop"
    """`crop` the middle square, `pad` with black to a square, or `stretch`."""
    test_share: float = 0.1
    """Share of the pictures that is kept for testing."""
    seed: int = 0
    """Decides which."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096 or self.channels not in (1, 3) or self.fit not in FITS:
            raise InputError(
                f"Got size {self.size}, channels {self.channels}, fit {self.fit!r}, expected a size from 1 to 4096, "
                f"1 or 3 channels, and one of {', '.join(FITS)}."
            )
        if not 0 < self.test_share < 1:
            raise InputError(f"Got a test share of {self.test_share}, expected a number between 0 and 1, such as 0.1.")


def find_pictures(folder: Path, tell: Callable[[str], None] = lambda notice: None) -> list[Path]:
    """All pictures below a folder, in the plain order of their names, which decides the split of a set.

    See `edgeae_runtime.pictures.find_pictures`.
    """
    return pictures_below(folder, order=str, tell=tell)


def read_pictures(
    folder: Path, options: PictureOptions | None = None, on_progress: Callable[[str], None] | None = None
) -> ImageSet:
    """Prepare a folder of pictures; the names of its subfolders are the classes.

    Broken files are skipped, with a count and a list of the first of them.

    Args:
        folder: it may have subfolders.
        options: how the pictures become images.
        on_progress: told in words what is being done.

    Raises:
        InputError: fewer than two readable pictures.
        OSError: the cache cannot be written.
    """
    options, tell = options or PictureOptions(), on_progress or (lambda step: None)
    files = find_pictures(folder, tell)
    if len(files) < 2:
        raise InputError(
            f"The folder {folder} holds {len(files)} pictures, expected at least two, and better some thousands. "
            f"Expected files ending in {', '.join(PICTURE_SUFFIXES)}, or Fashion-MNIST's four files."
        )
    cache = cache_folder() / "pictures" / _key(folder, files, options)
    if not (cache / "set.json").exists():
        _prepare(folder, files, options, cache, tell)
    document = json.loads((cache / "set.json").read_text(encoding="utf-8"))
    skipped, names = document["skipped"], document["class_names"]
    if skipped:
        tell(skipped_in_words(skipped, len(files)))
    arrays = {name: np.load(cache / f"{name}.npy", mmap_mode="c") for name in ("train", "test")}
    labels = {name: np.array(document["labels"][name], np.int64) for name in ("train", "test")}
    return ImageSet(
        name=str(folder.resolve()),
        source=f"{len(files) - len(skipped):,} pictures below {folder}",
        train_images=arrays["train"],
        train_labels=labels["train"],
        test_images=arrays["test"],
        test_labels=labels["test"],
        class_names=tuple(names),
        resize={"size": [options.size, options.size], "fit": options.fit, "channels": options.channels},
    )


def _prepare(
    folder: Path, files: list[Path], options: PictureOptions, cache: Path, tell: Callable[[str], None]
) -> None:
    """Write the arrays and their labels into a folder beside the cache, then put it in its place."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache.parent))
    try:
        shape = (options.channels, options.size, options.size)
        good: list[Path] = []
        skipped: list[str] = []
        everything = np.lib.format.open_memmap(work / "all.npy", "w+", np.uint8, (len(files), *shape))
        for index, (path, pixels) in enumerate(_loaded(files, options), start=1):
            if pixels is None:
                skipped.append(shown(path.relative_to(folder)))
            else:
                everything[len(good)] = pixels
                good.append(path)
            if index % _REPORT_EVERY == 0 or index == len(files):
                tell(f"prepared {index:,} of {len(files):,} pictures")
        if len(good) < 2:
            raise InputError(
                f"Of {len(files)} pictures in {folder} only {len(good)} can be read, expected at least two. The first "
                f"broken one: {skipped[0]}."
            )
        parts = _split(len(good), options)
        class_names = sorted({_class_of(folder, path) for path in good})
        labels = {}
        for name, chosen in parts.items():
            part = np.lib.format.open_memmap(work / f"{name}.npy", "w+", np.uint8, (len(chosen), *shape))
            for target, source in enumerate(chosen):
                part[target] = everything[source]
            part.flush()
            labels[name] = [class_names.index(_class_of(folder, good[source])) for source in chosen]
        del everything
        (work / "all.npy").unlink()
        document = {"class_names": class_names, "labels": labels, "skipped": skipped}
        (work / "set.json").write_text(json.dumps(document), encoding="utf-8")
        if not cache.exists():
            work.rename(cache)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _loaded(files: list[Path], options: PictureOptions) -> Iterator[tuple[Path, NDArray[np.uint8] | None]]:
    """Each file with its pixels, or None where it is broken."""
    shape = (options.channels, options.size, options.size)
    for path in files:
        try:
            yield path, load_picture(path, shape, options.fit)
        except InputError:
            yield path, None


def _split(count: int, options: PictureOptions) -> dict[str, NDArray[np.int64]]:
    """Indices of the training and of the test pictures, each in order; at least one of each."""
    order = np.random.default_rng(options.seed).permutation(count)
    kept = min(max(round(count * options.test_share), 1), count - 1)
    return {"train": np.sort(order[kept:]), "test": np.sort(order[:kept])}


def _class_of(folder: Path, path: Path) -> str:
    """The first folder below the set's own."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else "pictures"


def _key(folder: Path, files: list[Path], options: PictureOptions) -> str:
    """Changes with any file and any option."""
    digest = hashlib.sha256(repr((str(folder.resolve()), options)).encode())
    for path in files:
        status = path.stat()
        digest.update(repr((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:32]


def as_pixels(array: NDArray[np.generic], name: str) -> Images:
    """An array of images from a file as uint8 [n, channels, height, width].

    Args:
        array: uint8, or floating point in [0, 1]; [n, height, width], [n, channels, height, width] or
            [n, height, width, channels].
        name: for messages.

    Raises:
        InputError: another shape, dtype or range.
    """
    if array.dtype.kind not in "uif":
        raise InputError(f"{name} holds {array.dtype}, expected uint8, or floating point in [0, 1]. Convert it first.")
    shape = (
        guess_shape(array.shape, name, PICTURE_AXES, "Save it as [n, channels, height, width].")
        if array.ndim > 2
        else ()
    )
    if len(shape) != 3 or shape[0] not in (1, 3) or len(array) < 2:
        raise InputError(
            f"{name} holds an array of shape {list(array.shape)}, expected at least two images: [n, height, width], "
            "[n, channels, height, width] or [n, height, width, channels], with 1 or 3 channels."
        )
    array, _ = as_batch(array, shape, name)
    low, high = array.min(), array.max()
    if array.dtype == np.uint8 and high != 1:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise InputError(
            f"{name} holds {array.dtype} from {low:g} to {high:g}, expected uint8 in 0..255, or floating point in "
            "[0, 1]. Convert it first."
        )
    pixels: Images = np.rint(array * 255).astype(np.uint8)
    return pixels


def split_array(array: NDArray[np.generic], name: str, source: str, options: PictureOptions | None = None) -> ImageSet:
    """A set of images from one array: a seeded tenth is kept for testing.

    Raises:
        InputError: as `as_pixels`.
    """
    images = as_pixels(array, source)
    parts = {key: images[chosen] for key, chosen in _split(len(images), options or PictureOptions()).items()}
    return ImageSet(
        name=name,
        source=f"{len(images):,} images from {source}",
        train_images=parts["train"],
        train_labels=np.zeros(len(parts["train"]), np.int64),
        test_images=parts["test"],
        test_labels=np.zeros(len(parts["test"]), np.int64),
        class_names=("images",),
    )
