"""Arrays in files: the one that is meant, its axes in the right order, and nothing misread."""

import io
import os
import sys
import zipfile

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, InputError
from edgeae_runtime.command import actions as commands
from edgeae_runtime.files.array_files import find_array, is_array_file, read_array
from edgeae_runtime.files.axes import as_batch, fits_any, fits_batch, guess_shape


def numbered(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


IMAGES = numbered(5, 3, 4, 6)
GREY = numbered(5, 1, 4, 6)
SIGNALS = numbered(5, 2, 16)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (IMAGES, IMAGES),
        (IMAGES.transpose(0, 2, 3, 1), IMAGES),
        (IMAGES[0], IMAGES[:1]),
        (IMAGES[0].transpose(1, 2, 0), IMAGES[:1]),
        (GREY[:, 0], GREY),
        (GREY[0, 0], GREY[:1]),
        (GREY.transpose(0, 2, 3, 1), GREY),
        (SIGNALS.transpose(0, 2, 1), SIGNALS),
        (SIGNALS[:, :1], SIGNALS[:, :1]),
        (SIGNALS[:, 0], SIGNALS[:, :1]),
        (numbered(5, 7), numbered(5, 7)),
        (numbered(5, 4, 4, 4, 2), np.moveaxis(numbered(5, 4, 4, 4, 2), -1, 1)),
    ],
)
def test_axes_in_any_order_that_the_shape_decides(given, meant):
    batch, notice = as_batch(given, meant.shape[1:], "a.npy")
    np.testing.assert_array_equal(batch, meant)
    assert np.shares_memory(batch, given), "a view: the array may be larger than the memory"
    assert fits_batch(meant.shape[1:])(given.shape)
    if given.shape[1:] != meant.shape[1:] and given.shape != meant.shape[1:]:
        assert "a.npy" in notice
        assert str(list(given.shape)) in notice


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ((32, 32, 3), (1, 32, 32)),
        ((5, 32, 32), (3, 32, 32)),
        ((5, 1, 32, 32), (3, 32, 32)),
        ((5, 32, 32, 4), (3, 32, 32)),
        ((5, 6, 4, 3), (3, 4, 6)),
        ((5, 784), (1, 28, 28)),
        ((), (1, 28, 28)),
    ],
)
def test_another_shape_is_refused_with_all_that_would_do(given, shape):
    with pytest.raises(InputError) as caught:
        as_batch(np.zeros(given), shape, "a.npy")
    assert not fits_batch(shape)(given)
    for words in ("a.npy", str(list(given)), "[n, " + ", ".join(map(str, shape))):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "axes", "meant"),
    [
        ((9, 3, 32, 32), None, (3, 32, 32)),
        ((9, 32, 32, 3), None, (3, 32, 32)),
        ((9, 28, 28, 1), None, (1, 28, 28)),
        ((9, 12, 32, 32), None, (12, 32, 32)),
        ((9, 32, 32), 2, (1, 32, 32)),
        ((9, 2, 256), 1, (2, 256)),
        ((9, 1, 256), None, (1, 256)),
        ((9, 20), None, (20,)),
        ((9, 1, 8, 8, 8), None, (1, 8, 8, 8)),
    ],
)
def test_shapes_that_mean_one_thing(shape, axes, meant):
    assert guess_shape(shape, "a.npy", axes) == meant
    assert fits_any(axes)(shape) == (len(meant) > 1)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((9, 32, 32), None),
        ((32, 32, 3), 2),
        ((3, 32, 32), 2),
        ((9, 3, 32, 3), None),
        ((9, 32, 32, 12), None),
        ((9, 1, 28, 1), None),
        ((9,), None),
        ((), None),
        ((1, 2, 3, 4, 5, 6), None),
    ],
)
def test_shapes_that_mean_several_things_are_asked_for(shape, axes):
    with pytest.raises(InputError, match="--image-shape"):
        guess_shape(shape, "a.npy", axes)
    assert not fits_any(axes)(shape)


@pytest.fixture
def keras(tmp_path):
    np.savez(
        tmp_path / "keras.npz",
        x_train=GREY[:, 0],
        y_train=np.zeros(5),
        x_test=GREY[:2, 0],
        y_test=np.zeros(2),
        words=np.array(["a"]),
        objects=np.array([{}], dtype=object),
    )
    return tmp_path / "keras.npz"


def test_one_of_several_arrays(keras):
    fits = fits_batch((1, 4, 6))
    for found in (find_array(keras, fits, "train"), find_array(f"{keras}:x_train")):
        np.testing.assert_array_equal(found.array, GREY[:, 0])
        assert found.where.endswith("keras.npz:x_train")
        assert find_array(found.path).array.shape == (5, 4, 6)
    assert "Took x_train from" in find_array(keras, fits, "train").notice
    assert not find_array(f"{keras}:x_test").notice, "it was named"
    with pytest.raises(InputError, match=r"2 of them can be meant.*keras\.npz:x_train"):
        read_array(keras, fits)
    with pytest.raises(InputError, match="none of them has a shape that fits"):
        read_array(keras, fits_batch((3, 4, 6)))
    with pytest.raises(InputError, match=r"no array 'x_tran'.*x_train \[5, 4, 6\]"):
        read_array(f"{keras}:x_tran")
    for name in ("words", "objects"):
        with pytest.raises(InputError, match="not a readable array of numbers"):
            read_array(f"{keras}:{name}")
    assert is_array_file(f"{keras}:x_train")
    assert not is_array_file("package.module:build")


def test_labels_beside_the_images_are_no_choice(tmp_path):
    for labels in (np.zeros(5), np.zeros((5, 10)), np.zeros((5, 1))):
        np.savez(tmp_path / "a.npz", x=IMAGES, y=labels)
        assert find_array(tmp_path / "a.npz", fits_any()).name == "x"


def header(shape, order=False, descr="|u1"):
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, {"descr": descr, "fortran_order": order, "shape": shape})
    return raw.getvalue()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x93NUMPY",
        header((10**12, 28, 28)) + bytes(100),
        header((2**62, 2**62)) + bytes(100),
        header((-4, 28)) + bytes(100),
        header((4, 28, 28)) + bytes(100),
        header((2, 3))[:40],
        b"\x93NUMPY\x01\x00v\x00" + b"(" * 118,
        b"PK\x03\x04" + bytes(50),
        b"text",
    ],
    ids=["empty", "magic", "huge", "overflow", "negative", "cut", "cut-header", "no-header", "no-zip", "text"],
)
def test_lying_and_broken_files(tmp_path, raw):
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.npy is not a readable"):
        read_array(tmp_path / "a.npy")


def test_a_lying_array_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", header((10**12, 28, 28)) + bytes(100))
        file.writestr("y.npy", header((4,)) + bytes(4))
    for name in ("", ":x", ":y"):
        with pytest.raises(InputError, match=r"a\.npz:x says that it holds"):
            read_array(f"{tmp_path / 'a.npz'}{name}", fits_any())


def test_an_empty_zip(tmp_path):
    np.savez(tmp_path / "a.npz")
    with pytest.raises(InputError, match="holds no arrays"):
        read_array(tmp_path / "a.npz")


def test_empty_arrays_are_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 1, 4, 4), np.float32))
    assert read_array(tmp_path / "a.npy").shape == (0, 1, 4, 4)


def test_encode_takes_arrays_as_they_come(bundle, images, tmp_path):
    expected = Autoencoder.load(bundle).encode(images)
    small = images[:, 0, 1:-1, 1:-1]  # the size of the training pictures, before they were padded
    np.savez(tmp_path / "keras.npz", x=images[:, 0], y=np.zeros(len(images)))
    np.save(tmp_path / "last.npy", images.transpose(0, 2, 3, 1))
    np.save(tmp_path / "small.npy", small)
    for name, told in (("keras.npz", "Took x from"), ("last.npy", "channels last"), ("small.npy", "Padded the images")):
        text = commands.encode(str(bundle), str(tmp_path / name), str(tmp_path / "z.npy"), "cpu")
        assert told in text
        if name != "small.npy":
            np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected)
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)))[:, None]
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), Autoencoder.load(bundle).encode(padded))
    np.save(tmp_path / "unit.npy", images.astype(np.float32) / np.float32(255))
    commands.encode(str(bundle), str(tmp_path / "unit.npy"), str(tmp_path / "z.npy"), "cpu")
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected)
    assert "Wrote 5 images" in commands.decode(str(bundle), str(tmp_path / "z.npy"), str(tmp_path / "y.npy"), "cpu")
    np.savez(tmp_path / "z.npz", latents=expected, labels=np.zeros(len(images)))
    assert "Wrote 5 images" in commands.decode(str(bundle), str(tmp_path / "z.npz"), str(tmp_path / "y.npy"), "cpu")


def test_arrays_in_memory_are_not_turned_but_the_way_is_told(bundle, images):
    """The library's own call takes arrays by the letter: what is meant is known to the caller."""
    ae = Autoencoder.load(bundle, parts=("encoder",))
    with pytest.raises(InputError, match=r"numpy\.moveaxis\(images, -1, -3\)"):
        ae.encode(images.transpose(0, 2, 3, 1))
    with pytest.raises(InputError, match=r"images\[:, None\]"):
        ae.encode(images[:, 0])


def test_interpolate_between_an_image_and_a_latent(bundle, images, tmp_path):
    latent = Autoencoder.load(bundle).encode(images[1])
    np.save(tmp_path / "one.npy", images[:1].transpose(0, 2, 3, 1))
    np.save(tmp_path / "latent.npy", latent)
    ends = (str(tmp_path / "one.npy"), str(tmp_path / "latent.npy"))
    commands.interpolate(str(bundle), *ends, 3, str(tmp_path / "i.npy"), "cpu")
    assert np.load(tmp_path / "i.npy").shape == (3, 1, 16, 16)
    np.save(tmp_path / "two.npy", images[:2])
    with pytest.raises(InputError, match="holds 2 images, expected one"):
        commands.interpolate(str(bundle), str(tmp_path / "two.npy"), ends[1], 3, str(tmp_path / "i.npy"), "cpu")


def test_the_header_is_read_before_anything_is_taken(tmp_path, monkeypatch):
    """A header of 10^12 images, of 2^62 bytes, of a length of 4 GB: nothing may be allocated for it."""
    monkeypatch.setattr(np.lib.format, "read_array", None)
    long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"
    for name, raw in {"huge": header((10**12, 28, 28)), "long": long, "bool": header((True, 4)) + bytes(4)}.items():
        (tmp_path / f"{name}.npy").write_bytes(raw)
        with pytest.raises(InputError, match=rf"{name}\.npy is not a readable"):
            read_array(tmp_path / f"{name}.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", long + bytes(1 << 20))
    with pytest.raises(InputError, match="not a readable"):
        read_array(tmp_path / "a.npz")


def test_arrays_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeae_runtime.files.array_files.MAX_UNPACKED", 1 << 16)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 1, 28, 28), np.uint8))
    with pytest.raises(InputError, match=r"bomb\.npz:x would unpack .* to 784,000.*numpy\.savez"):
        read_array(tmp_path / "bomb.npz")
    np.savez(tmp_path / "plain.npz", x=np.zeros((1000, 1, 28, 28), np.uint8))
    assert read_array(tmp_path / "plain.npz").shape == (1000, 1, 28, 28)


def test_members_of_a_zip_by_their_exact_names(tmp_path):
    good = header((2,)) + b"\1\2"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x", header((2,)) + b"\3\4")
        file.writestr("x.npy", good)
        file.writestr("readme.txt", "text")
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz"), [1, 2])
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("x.npy", good)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", header((2,)) + b"\3\4")
    with pytest.raises(InputError, match="two arrays of one name"):
        read_array(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("x.npy", good)
    with pytest.raises(InputError, match="compressed in a way"):
        read_array(tmp_path / "c.npz")


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_only_regular_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.npy")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name in ("fifo.npy", "zero.npz"):
        with pytest.raises(InputError, match="no regular file"):
            read_array(tmp_path / name)
    with pytest.raises(InputError, match="There is no file"):
        read_array(tmp_path / "gone.npy")


def test_orders_of_memory(tmp_path):
    for order in ("C", "F"):
        np.save(tmp_path / "a.npy", np.asarray(IMAGES, order=order))
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), IMAGES)
        assert not read_array(tmp_path / "a.npy").flags.writeable
