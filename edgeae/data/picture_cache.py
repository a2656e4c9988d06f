"""Prepared pictures on disk: made once, one picture at a time, and taken again only if they are whole.

The pixels lie in the cache as .npy files that are mapped, not read: a set may be larger than the memory. They are made
by the function with which the runtime prepares pictures on a device, so that both see the same pixels.

A set is made in a folder `.partial-…` beside its place and renamed when all of it is on the disk. Its maker holds a
lock on a file in that folder; the system lets go of it when the process ends, however it ends, so a leftover is a
folder whose lock can be had. Two processes that make the same set both make it, and the first one's stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from edgeae_runtime.bundle.preprocessing import FITS, Fit, Preprocessing
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.array_files import find_array
from edgeae_runtime.files.regular import open_regular
from edgeae_runtime.pictures.decoding import Notices, load_picture, notices_in_words
from edgeae_runtime.pictures.loading import skipped_in_words
from numpy.typing import NDArray

from edgeae.data.images import Images, Labels
from edgeae.data.places import cache_folder
from edgeae.image_size import ImageSize, sides, simplest

try:
    import fcntl
except ImportError:  # not on Windows: there leftovers stay
    fcntl = None  # type: ignore[assignment]

RULES = 2
"""Of preparing pictures: another number makes every set anew."""
PARTS = ("train", "test")
_REPORT_EVERY = 1000
_MAX_DOCUMENT = 1 << 30
_PARTIAL = ".partial-"
_UNLOCKED_SECONDS = 3600.0
"""Age at which a folder that has files and no lock is a leftover: makers of other versions had none."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PictureOptions:
    """How pictures become images.

    Raises:
        InputError: a field is out of range.
    """

    size: ImageSize = 64
    """Height and width of the images in pixels, one number for a square."""
    channels: int = 3
    """1 for grey, 3 for colour; pictures are converted."""
    fit: Fit = "crop"
    """`crop` the middle of that shape, `pad` with black to it, or `stretch`."""
    test_share: float = 0.1
    """Share of the pictures that is kept for testing."""
    seed: int = 0
    """Decides which."""

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> PictureOptions | None:
        """Those that pictures were prepared with; None where nobody brought them to a size."""
        size, channels, fit = preprocessing.size, preprocessing.channels, preprocessing.fit
        return cls(size, channels, fit) if size and channels and fit else None

    @property
    def preprocessing(self) -> Preprocessing:
        """How they prepare pictures."""
        return Preprocessing(fit=self.fit, size=sides(self.size), channels=self.channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.channels, *sides(self.size)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", simplest(self.size))
        size_fits = all(1 <= side <= 4096 for side in sides(self.size))
        if not size_fits or self.channels not in (1, 3) or self.fit not in FITS:
            raise InputError(
                f"Got size {self.size}, channels {self.channels}, fit {self.fit!r}, expected a size from 1 to 4096, "
                f"1 or 3 channels, and one of {', '.join(FITS)}."
            )
        if not 0 < self.test_share < 1:
            raise InputError(f"Got a test share of {self.test_share}, expected a number between 0 and 1, such as 0.1.")


@dataclass(frozen=True)
class Prepared:
    """A set as it lies in the cache."""

    images: dict[str, Images]
    """uint8 [n, channels, height, width] of `PARTS`, mapped from the disk."""
    labels: dict[str, Labels]
    class_names: tuple[str, ...]
    notices: list[str]
    """What was skipped, and what was done to some pictures."""


def prepared_pictures(folder: Path, files: list[Path], options: PictureOptions, tell: Tell) -> Prepared:
    """Pictures as training takes them, from the cache where it holds these, else prepared into it.

    Args:
        folder: the names of its subfolders are the classes.
        files: its pictures.
        options: how they become images.
        tell: told what is being done, what was skipped, and where the cache is.

    Raises:
        InputError: fewer than two can be read.
        OSError: the cache cannot be written, or the disk is full; nothing is left there then.
    """
    place = cache_folder() / "pictures"
    entry = place / _key(folder, files, options)
    _sweep(place)
    prepared = _read(entry, options.shape)
    if prepared is None:
        if os.path.lexists(entry):
            tell(f"the prepared pictures in {shown(entry)} are damaged: preparing them again")
        with _disk_errors_told(place, len(files) * math.prod(options.shape)):
            place.mkdir(parents=True, exist_ok=True)
            prepared = _prepare(folder, files, options, entry, tell)
    for notice in prepared.notices:
        tell(notice)
    size = _bytes_below(place)
    tell(f"prepared pictures take {size / 1e6:,.1f} MB in {shown(place)}; delete that folder to clear them")
    return prepared


def split(count: int, options: PictureOptions) -> dict[str, NDArray[np.int64]]:
    """Indices of the training and of the test pictures, each in order; at least one of each."""
    order = np.random.default_rng(options.seed).permutation(count)
    kept = min(max(round(count * options.test_share), 1), count - 1)
    return {"train": np.sort(order[kept:]), "test": np.sort(order[:kept])}


def _read(entry: Path, shape: tuple[int, ...]) -> Prepared | None:
    """The set in the cache; None where there is none, or where anything of it is not as it was written."""
    try:
        if entry.is_symlink():
            return None
        with open_regular(entry / "set.json", "the list of a prepared set") as file:
            document = json.loads(file.read(_MAX_DOCUMENT))
        if document["rules"] != RULES or document["shape"] != list(shape):
            return None
        names, notices = document["class_names"], document["notices"]
        if not all(isinstance(word, str) for word in (*names, *notices)):
            return None
        images, labels = {}, {}
        for part in PARTS:
            labels[part] = np.array(document["labels"][part])
            array = find_array(entry / f"{part}.npy").array
            if labels[part].dtype != np.int64 or labels[part].ndim != 1 or not len(labels[part]) > 0:
                return None
            if labels[part].min() < 0 or labels[part].max() >= len(names):
                return None
            if array.dtype != np.uint8 or array.shape != (len(labels[part]), *shape):
                return None
            if (entry / f"{part}.npy").stat().st_size != document["bytes"][part]:
                return None
            images[part] = np.load(entry / f"{part}.npy", mmap_mode="c")
    except (InputError, OSError, ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return None
    return Prepared(images, labels, tuple(names), notices)


def _prepare(folder: Path, files: list[Path], options: PictureOptions, entry: Path, tell: Tell) -> Prepared:
    """Write the arrays and their labels into a folder beside the entry, then put it in its place."""
    shape = options.shape
    with _work_folder(entry.parent) as work:
        good, notices = _write_all(work / "all", folder, files, options, tell)
        class_names = sorted({_class_of(folder, path) for path in good})
        everything = np.memmap(work / "all", np.uint8, "r", 0, (len(good), *shape))
        labels, sizes = {}, {}
        for name, chosen in split(len(good), options).items():
            with (work / f"{name}.npy").open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(chosen), *shape)}
                np.lib.format.write_array_header_1_0(file, header)
                for source in chosen:
                    file.write(everything[source].tobytes())
                sizes[name] = file.tell()
                _sync(file)
            labels[name] = [class_names.index(_class_of(folder, good[source])) for source in chosen]
        del everything
        (work / "all").unlink()
        document: dict[str, Any] = {"rules": RULES, "shape": shape, "class_names": class_names, "labels": labels}
        document |= {"bytes": sizes, "notices": notices}
        with (work / "set.json").open("wb") as file:
            file.write(json.dumps(document).encode())
            _sync(file)
        return _put(work, entry, shape)


def _write_all(
    path: Path, folder: Path, files: list[Path], options: PictureOptions, tell: Tell
) -> tuple[list[Path], list[str]]:
    """Write the pixels of all pictures that can be read, one after another: those, and what to tell.

    They are written, not put into a mapped file: on a full disk that would end the process without a word.
    """
    good: list[Path] = []
    skipped: list[str] = []
    why = ""
    notices: Notices = Counter()
    with path.open("wb") as file:
        for index, picture in enumerate(files, start=1):
            try:
                pixels = load_picture(picture, options.shape, options.fit, notices)
            except InputError as error:
                skipped.append(shown(picture.relative_to(folder)))
                why = why or str(error)
            else:
                file.write(pixels.tobytes())
                good.append(picture)
            if index % _REPORT_EVERY == 0 or index == len(files):
                tell(f"prepared {index:,} of {len(files):,} pictures")
    if len(good) < 2:
        raise InputError(
            f"Of {len(files)} pictures in {shown(folder)} only {len(good)} can be read, expected at least two. The "
            f"first broken one, {skipped[0]}: {why}"
        )
    told = [f"{skipped_in_words(skipped, len(files))}. The first: {why}"] if skipped else []
    return good, [*told, *notices_in_words(notices)]


def _put(work: Path, entry: Path, shape: tuple[int, ...]) -> Prepared:
    """Rename a finished set to its place; where another process was faster, take its, and set a damaged one aside."""
    _sync_folder(work)
    for _ in range(100):
        with contextlib.suppress(OSError):
            if not os.path.lexists(entry):
                work.rename(entry)
                (entry / "lock").unlink(missing_ok=True)
                _sync_folder(entry.parent)
        found = _read(entry, shape)
        if found is not None:
            return found
        _set_aside(entry)
    raise OSError(f"{entry} cannot be replaced by the pictures prepared now. Delete it.")


def _set_aside(entry: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process did it
        if entry.is_dir() and not entry.is_symlink():
            with _work_folder(entry.parent) as aside:
                entry.rename(aside / "damaged")
        else:
            entry.unlink()


@contextlib.contextmanager
def _work_folder(place: Path) -> Iterator[Path]:
    """A new folder of this process, locked until it ends; removed at the end, unless it was renamed."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=place))
        try:
            lock = (work / "lock").open("xb")
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock.fileno()), (work / "lock").stat()):
                break
        except FileNotFoundError:  # swept in the instant before it was locked
            continue
    try:
        yield work
    finally:
        _remove(work)
        lock.close()


def _remove(work: Path) -> None:
    """Remove a work folder, its lock last: one that is cut short is known for a leftover by its lock, or is empty."""
    with contextlib.suppress(OSError):
        for path in work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()
        (work / "lock").unlink(missing_ok=True)
        work.rmdir()


def _sweep(place: Path) -> None:
    """Remove the folders of processes that ended before they had renamed or removed them."""
    if fcntl is None:
        return
    for leftover in place.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):  # a living process holds the lock, or another one sweeps
            try:
                descriptor = os.open(leftover / "lock", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            except FileNotFoundError:
                if time.time() - leftover.stat().st_mtime > _UNLOCKED_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.rmdir()  # an empty one: a living maker that has no lock yet takes another
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(leftover)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _disk_errors_told(place: Path, needed: int) -> Iterator[None]:
    """An error of the disk says what it was for, and what helps."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror or error}, while preparing pictures there, which takes up to {2 * needed / 1e6:,.1f} MB "
            "(set EDGEAE_CACHE to keep them elsewhere)",
            str(place),
        ) from error


def _bytes_below(place: Path) -> int:
    total = 0
    for path in place.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _class_of(folder: Path, path: Path) -> str:
    """The first folder below the set's own."""
    parts = path.relative_to(folder).parts
    return shown(parts[0]) if len(parts) > 1 else "pictures"


def _key(folder: Path, files: list[Path], options: PictureOptions) -> str:
    """Changes with any file and any option: a file of the same size and time that was replaced has another inode, one
    that was written over another time of change, which no program can set."""
    digest = hashlib.sha256(repr((RULES, str(folder.resolve()), options)).encode())
    for path in files:
        try:
            status = path.stat()
            found = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        except OSError:
            found = (0, 0, 0, 0)
        digest.update(repr((os.fsencode(path.relative_to(folder)), *found)).encode())
    return digest.hexdigest()[:32]


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
