"""Arrays in .npy and .npz files: the one that is meant.

Headers are read first, so that a file that lies about its size takes no memory; .npy files are mapped, not read: an
array may be larger than the memory.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.regular import open_regular

ARRAY_SUFFIXES = (".npy", ".npz")
MAX_ARRAYS = 1000
"""In one .npz file."""
MAX_NAMED = 10
MAX_RATIO = 200
"""How many times as many bytes as it takes in its .npz file an array may have, if it is larger than `MAX_UNPACKED`."""
MAX_UNPACKED = 1 << 28
_MAX_HEADER = 10_000 + 12  # what numpy accepts, and what stands before it
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
    with open_regular(file, "a .npy or .npz file of numbers") as stream:
        try:
            if stream.read(2) == b"PK":
                return _from_zip(stream, file, name, fits, prefer)
            return ArrayFile(_mapped(stream, shown(file)), file, None, "")
        except InputError:
            raise
        except Exception as error:  # a file from anywhere: numpy's readers and zipfile raise anything
            raise InputError(
                f"{shown(file)} is not a readable .npy or .npz file ({shown(error)[:200]}). Save it again, with "
                "numpy.save."
            ) from error


def _mapped(stream: BinaryIO, where: str) -> Array:
    """The array of a .npy file, mapped, after its header was found to tell its size."""
    stream.seek(0)
    head = _read_header(stream)
    _require_numbers(head.dtype, where)
    size = head.bytes
    held = os.fstat(stream.fileno()).st_size - head.start
    if size > held:
        raise InputError(
            f"{where} is not a readable .npy file: it says that it holds an array of shape {list(head.shape)}, "
            f"{size:,} bytes, but has {held:,}. Save it again, with numpy.save."
        )
    if size == 0:
        return np.empty(head.shape, head.dtype)
    order: Literal["F", "C"] = "F" if head.fortran else "C"
    return np.asarray(np.memmap(stream, head.dtype, "r", head.start, head.shape, order))


def _from_zip(stream: BinaryIO, file: Path, name: str | None, fits: Fits | None, prefer: str) -> ArrayFile:
    with zipfile.ZipFile(stream) as archive:
        members = _members(archive, shown(file))
        size = os.fstat(stream.fileno()).st_size
        headers = {
            key: _header(archive, member, size, f"{shown(file)}:{shown(key)}") for key, member in members.items()
        }
        if name is None:
            name, notice = _meant(file, headers, fits, prefer)
        elif name in headers:
            notice = ""
        else:
            raise InputError(
                f"{shown(file)} holds no array {shown(name)!r}, but {_in_words(headers)}. Name one of these."
            )
        _require_numbers(headers[name][1], f"{shown(file)}:{shown(name)}")
        with archive.open(members[name]) as packed:
            array = np.lib.format.read_array(packed, allow_pickle=False)
    return ArrayFile(array, file, name if len(headers) > 1 else None, notice)


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a .npz file by their names: members `name.npy`, each there once, as numpy writes them."""
    found = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    members = {member.filename.removesuffix(".npy"): member for member in found}
    if len(found) > MAX_ARRAYS or len(members) < len(found):
        got = f"{len(found):,} arrays" if len(found) > MAX_ARRAYS else "two arrays of one name"
        raise InputError(
            f"{where} is not a readable .npz file: it holds {got}, expected at most {MAX_ARRAYS:,} of different names. "
            "Save it again, with numpy.savez."
        )
    return members


Headers = Mapping[str, tuple[Shape, np.dtype[Any]]]


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int, where: str) -> tuple[Shape, np.dtype[Any]]:
    """Shape and dtype as an array's header tells them; they must be those of the bytes that follow.

    The directory of a zip may lie too: `size` is the file's own."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may take gigabytes to unpack
        raise InputError(f"{where} is compressed in a way that numpy does not use. Save it again, with numpy.savez.")
    with archive.open(member) as stream:
        head = _read_header(stream)
    if head.dtype.hasobject:
        return head.shape, head.dtype
    held = member.file_size - head.start
    if head.bytes > held:
        raise InputError(
            f"{where} says that it holds an array of shape {list(head.shape)}, {head.bytes:,} bytes, but has "
            f"{held:,}. Save it again, with numpy.savez."
        )
    if head.bytes > max(MAX_UNPACKED, MAX_RATIO * min(member.compress_size, size)):
        raise InputError(
            f"{where} would unpack {member.compress_size:,} bytes to {head.bytes:,}, as files do that are made to fill "
            "a memory. If it is meant, save it with numpy.save or numpy.savez, which do not compress."
        )
    return head.shape, head.dtype


class _Head(NamedTuple):
    """What stands before an array."""

    shape: Shape
    fortran: bool
    dtype: np.dtype[Any]
    start: int
    """Where the array begins."""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_header(stream: BinaryIO | IO[bytes]) -> _Head:
    """Read no more than a header may have, whatever length it tells.

    Raises:
        ValueError, or anything that numpy's parser raises: it is none.
    """
    start = io.BytesIO(stream.read(_MAX_HEADER))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(start)
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return _Head(shape, fortran, dtype, start.tell())


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
        return chosen[0], f"Took {shown(chosen[0])} from {shown(file)}, which holds {_in_words(headers)}."
    named = (fitting or numbers or list(headers))[0]
    some = f"{len(fitting)} of them can be meant" if fitting else "none of them has a shape that fits"
    raise InputError(
        f"{shown(file)} holds {_in_words(headers)}: {some}. Expected one array, or its name behind the file's: "
        f"{shown(file)}:{shown(named)[:60]}."
    )


def _in_words(headers: Headers) -> str:
    words = [f"{shown(name)[:60]} {list(shape)}" for name, (shape, _) in headers.items()]
    more = f" and {len(words) - MAX_NAMED} more" if len(words) > MAX_NAMED else ""
    return f"{len(words)} arrays: " + ", ".join(words[:MAX_NAMED]) + more


def _require_numbers(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind not in _NUMBERS:
        raise InputError(
            f"{where} is not a readable array of numbers: its dtype is {dtype}. Save numbers, with numpy.save."
        )
