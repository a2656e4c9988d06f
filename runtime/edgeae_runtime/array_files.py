"""Arrays in .npy and .npz files: the one that is meant.

Headers are read first, so that a file that lies about its size takes no memory; .npy files are mapped, not read: an
array may be larger than the memory.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import InputError, shown

ARRAY_SUFFIXES = (".npy", ".npz")
_NUMBERS = "buif"  # kinds of dtype: truth, whole and floating-point numbers

Array = NDArray[Any]
Shape = tuple[int, ...]
Fits = Callable[[Shape], bool]


@dataclass(frozen=True)
class ArrayFile:
    """One array of a file."""

    array: Array
    file: Path
    name: str | None
    """Its name, where the file holds several."""
    notice: str
    """Which array was taken of which; empty where there was no choice."""

    @property
    def path(self) -> str:
        """What finds this array again, from any folder."""
        return f"{self.file.resolve()}{self._suffix}"

    @property
    def where(self) -> str:
        """The same as the user gave it, for messages."""
        return f"{shown(self.file)}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "" if self.name is None else f":{self.name}"


def split_name(path: str | Path) -> tuple[Path, str | None]:
    """`file.npz:x_train` as the file and the array's name; any other path as it is, without a name."""
    text = str(path)
    file, colon, name = text.rpartition(":")
    if colon and name and file.lower().endswith(".npz") and not Path(text).exists():
        return Path(file), name
    return Path(text), None


def is_array_file(path: str | Path) -> bool:
    """Whether a path names a .npy or .npz file, perhaps with an array's name behind it; it need not exist."""
    return split_name(path)[0].suffix.lower() in ARRAY_SUFFIXES


def read_array(path: str | Path, fits: Fits | None = None) -> Array:
    """One numeric array from a .npy file, or from a .npz: see `find_array`."""
    return find_array(path, fits).array


def find_array(path: str | Path, fits: Fits | None = None, prefer: str = "") -> ArrayFile:
    """The array that is meant in a .npy or .npz file.

    Args:
        path: the file; `file.npz:name` names one of several arrays.
        fits: whether an array of a shape can be meant: the only one of several that fits is taken.
        prefer: a word in the name, as `train`, that decides where several fit.

    Returns:
        The array; where the file is a .npy, mapped from the disk, read-only.

    Raises:
        InputError: no such file, another format, a damaged or lying one, pickled objects or no numbers, or several
            arrays of which none or more than one can be meant.
    """
    file, name = split_name(path)
    if not file.is_file():
        raise InputError(f"There is no file {shown(file)}. Expected a .npy or .npz file of numbers.")
    try:
        with file.open("rb") as start:
            zipped = start.read(2) == b"PK"
        if zipped:
            return _from_zip(file, name, fits, prefer)
        array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except InputError:
        raise
    except Exception as error:  # a file from anywhere: numpy's readers and zipfile raise anything
        raise InputError(
            f"{shown(file)} is not a readable .npy or .npz file ({shown(error)}). Save it again, with numpy.save."
        ) from error
    _require_numbers(array.dtype, shown(file))
    return ArrayFile(array, file, None, "")


def _from_zip(file: Path, name: str | None, fits: Fits | None, prefer: str) -> ArrayFile:
    with zipfile.ZipFile(file) as archive:
        members = {member.removesuffix(".npy"): member for member in archive.namelist()}
        headers = {key: _header(archive, member, f"{shown(file)}:{key}") for key, member in members.items()}
        if name is None:
            name, notice = _meant(file, headers, fits, prefer)
        elif name in headers:
            notice = ""
        else:
            raise InputError(f"{shown(file)} holds no array {name!r}, but {_in_words(headers)}. Name one of these.")
        _require_numbers(headers[name][1], f"{shown(file)}:{name}")
        with archive.open(members[name]) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    return ArrayFile(array, file, name if len(headers) > 1 else None, notice)


Headers = Mapping[str, tuple[Shape, np.dtype[Any]]]


def _header(archive: zipfile.ZipFile, member: str, where: str) -> tuple[Shape, np.dtype[Any]]:
    """Shape and dtype as an array's header tells them; they must be those of the bytes that follow."""
    with archive.open(member) as stream:
        shape, dtype = _read_header(stream)
    expected, held = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size
    if expected > held and not dtype.hasobject:
        raise InputError(
            f"{where} says that it holds an array of shape {list(shape)}, {expected:,} bytes, but has {held:,}. Save "
            "it again, with numpy.savez."
        )
    return shape, dtype


def _read_header(stream: IO[bytes]) -> tuple[Shape, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _meant(file: Path, headers: Headers, fits: Fits | None, prefer: str) -> tuple[str, str]:
    """The name of the array that is meant, and what to tell."""
    if not headers:
        raise InputError(f"{shown(file)} is not a readable .npz file: it holds no arrays. Save it with numpy.savez.")
    if len(headers) == 1:
        return next(iter(headers)), ""
    numbers = [name for name, (_, dtype) in headers.items() if dtype.kind in _NUMBERS]
    fitting = [name for name in numbers if fits is None or fits(headers[name][0])]
    preferred = [name for name in fitting if prefer and prefer in name.lower()]
    chosen = fitting if len(fitting) == 1 else preferred
    if len(chosen) == 1:
        return chosen[0], f"Took {chosen[0]} from {shown(file)}, which holds {_in_words(headers)}."
    named = (fitting or numbers or list(headers))[0]
    some = f"{len(fitting)} of them can be meant" if fitting else "none of them has a shape that fits"
    raise InputError(
        f"{shown(file)} holds {_in_words(headers)}: {some}. Expected one array, or its name behind the file's: "
        f"{shown(file)}:{named}."
    )


def _in_words(headers: Headers) -> str:
    words = [f"{name} {list(shape)}" for name, (shape, _) in headers.items()]
    return f"{len(words)} arrays: " + ", ".join(words)


def _require_numbers(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind not in _NUMBERS:
        raise InputError(
            f"{where} is not a readable array of numbers: its dtype is {dtype}. Save numbers, with numpy.save."
        )
