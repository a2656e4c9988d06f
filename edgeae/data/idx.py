"""The IDX file format of MNIST and its relatives (LeCun, "The MNIST database of handwritten digits").

Two zero bytes, a byte for the element type, a byte for the number of dimensions, each dimension as a big-endian
32-bit number, then the elements in C order. Only unsigned bytes (type 8) occur in this family, so only they are read.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from edgeae_runtime.errors import InputError, gist
from numpy.typing import NDArray

MAX_BYTES = 1 << 28
"""Largest array that is read, 256 MiB: five times Fashion-MNIST's training images."""
_UNSIGNED_BYTE = 8
_MAX_DIMENSIONS = 4
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, plain or gzipped (told by its first bytes, whatever its name).

    The size is checked against the header before anything is allocated, and no more is decompressed than the header
    promises.

    Returns:
        uint8, of the shape that the header gives.

    Raises:
        InputError: the file cannot be opened, is no IDX file of unsigned bytes, is cut short, has bytes after its
            end, is damaged inside its gzip, or is larger than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if not gzipped:
                return _read(file, path)
            with gzip.GzipFile(fileobj=file) as stream:
                return _read(stream, path)
    except EOFError as error:
        raise _refused(path, "is cut short inside its gzip stream", "a complete file") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _refused(path, f"is not valid gzip ({gist(error)})", "a complete file") from error
    except OSError as error:
        raise InputError(
            f"Cannot read {path} ({error.strerror}), expected an IDX file. Check its path and its permissions."
        ) from error


def encode_idx(array: NDArray[np.uint8]) -> bytes:
    """The plain IDX file of an array of unsigned bytes."""
    return _header(array.shape) + array.tobytes()


def idx_md5(array: NDArray[np.uint8]) -> str:
    """MD5 of the plain IDX file of an array: the digest by which published sets are known, no proof against malice."""
    digest = hashlib.md5(_header(array.shape), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, _UNSIGNED_BYTE, len(shape), *shape)


def _read(stream: BinaryIO | gzip.GzipFile, path: Path) -> NDArray[np.uint8]:
    shape = _read_shape(stream, path)
    size = math.prod(shape)
    if not 0 < size <= MAX_BYTES:
        raise _refused(path, f"announces {size} bytes of shape {list(shape)}", f"1 to {MAX_BYTES} bytes")
    elements = stream.read(size)
    if len(elements) < size:
        raise _refused(
            path, f"is cut short: it holds {len(elements)} bytes of data", f"{size} for the shape {list(shape)}"
        )
    if stream.read(1):  # at the end of a gzip stream this read also checks its CRC
        raise _refused(path, "has bytes after its end", f"exactly {size} bytes of data for the shape {list(shape)}")
    return np.frombuffer(bytearray(elements), np.uint8).reshape(shape)  # a bytearray keeps the array writable


def _read_shape(stream: BinaryIO | gzip.GzipFile, path: Path) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        begins = f"begins with the bytes {magic.hex(' ')}" if magic else "is empty"
        raise _refused(path, f"is no IDX file: it {begins}", "two zero bytes first")
    kind, dimensions = magic[2], magic[3]
    if kind != _UNSIGNED_BYTE:
        raise _refused(path, f"has elements of IDX type {kind:#04x}", "unsigned bytes, 0x08")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise _refused(path, f"has {dimensions} dimensions", f"1 to {_MAX_DIMENSIONS}")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise _refused(path, "is cut short inside its header", f"{dimensions} dimensions of four bytes each")
    return struct.unpack(f">{dimensions}I", sizes)


def _refused(path: Path, got: str, expected: str) -> InputError:
    return InputError(f"{path} {got}, expected {expected}. Copy or download the file again.")
