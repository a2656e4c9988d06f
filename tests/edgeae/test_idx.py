"""IDX files: what was written is read, and nothing else is."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from edgeae_runtime.errors import InputError

from edgeae.data.idx import MAX_BYTES, encode_idx, idx_md5, read_idx

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def header(*shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("array", [ARRAY, np.array([7], np.uint8)])
def test_round_trip(tmp_path, compress, array):
    path = tmp_path / "file"
    path.write_bytes(compress(encode_idx(array)))
    found = read_idx(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # the caller may write


def test_encoding_is_the_format(tmp_path):
    assert encode_idx(ARRAY) == header(2, 3, 4) + bytes(range(24))
    assert idx_md5(ARRAY) == hashlib.md5(encode_idx(ARRAY)).hexdigest()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\0\0", "no IDX file"),
        (b"PK\3\4" + bytes(20), "50 4b 03 04"),
        (header(2, 3, kind=0x0D) + bytes(24), "0x0d"),
        (bytes([0, 0, 8, 0]), "0 dimensions"),
        (header(1, 1, 1, 1, 1) + b"\0", "5 dimensions"),
        (bytes([0, 0, 8, 3, 0, 0]), "inside its header"),
        (header(0, 28, 28), "announces 0 bytes"),
        (header(2, 3, 4) + bytes(23), "holds 23 bytes of data, expected 24"),
        (header(2, 3, 4) + bytes(25), "after its end"),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_wrong_files_are_refused(tmp_path, content, told, compress):
    path = tmp_path / "wrong-idx3-ubyte"
    path.write_bytes(compress(content))
    with pytest.raises(InputError, match=told) as caught:
        read_idx(path)
    assert "wrong-idx3-ubyte" in str(caught.value)


def test_absurd_dimensions_are_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "absurd"
    path.write_bytes(gzip.compress(header(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)))
    with pytest.raises(InputError, match=f"expected 1 to {MAX_BYTES}"):
        read_idx(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    peaks = []
    for size in (1 << 20, 1 << 28):
        path = tmp_path / "bomb"
        path.write_bytes(gzip.compress(header(2, 3, 4) + bytes(size), 1))
        tracemalloc.start()
        with pytest.raises(InputError, match="after its end"):
            read_idx(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0], "a file 256 times as large takes the same memory"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda raw: raw[:-12], "cut short"),
        (lambda raw: raw[:-8] + bytes(4) + raw[-4:], "not valid gzip"),  # another CRC
        (lambda raw: raw[:10] + b"\xff" * 8 + raw[18:], "not valid gzip"),
    ],
)
def test_damage_inside_gzip_is_found(tmp_path, damage, told):
    path = tmp_path / "damaged.gz"
    path.write_bytes(damage(gzip.compress(encode_idx(ARRAY))))
    with pytest.raises(InputError, match=told):
        read_idx(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_idx(tmp_path / "none")
    with pytest.raises(InputError, match="directory"):
        read_idx(tmp_path)
