"""Fashion-MNIST is found in every place it may lie in, and taken for nothing it is not."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime.errors import InputError

from edgeae.data import DATA_SETS, ImageSet, entropy_floor, load, load_images, padding, places, prepare
from edgeae.data import download as downloads
from edgeae.data.fashion_mnist import FILES, MD5
from edgeae.data.idx import encode_idx, idx_md5, read_idx
from edgeae.data.make_sample import write_sample
from edgeae.data.sampled import SAMPLE_FOLDER


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    """A machine with an empty cache and without the Debian package."""
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "_package_folders", lambda: (tmp_path / "package",))
    return tmp_path


@pytest.fixture(scope="session")
def full_files(fashion_mnist, tmp_path_factory) -> Path:
    """The full set's four files, plain, in one folder."""
    folder = tmp_path_factory.mktemp("full")
    images = {FILES[0]: fashion_mnist.train_images, FILES[2]: fashion_mnist.test_images}
    labels = {FILES[1]: fashion_mnist.train_labels, FILES[3]: fashion_mnist.test_labels}
    for name, array in images.items():
        (folder / name).write_bytes(encode_idx(array[:, 0]))
    for name, array in labels.items():
        (folder / name).write_bytes(encode_idx(array.astype(np.uint8)))
    return folder


def small_files(folder: Path) -> Path:
    """Another set in the same four files: 20 + 10 pictures of 8x8 with 3 classes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for images, labels, count in ((FILES[0], FILES[1], 20), (FILES[2], FILES[3], 10)):
        (folder / images).write_bytes(encode_idx(random.integers(0, 256, (count, 8, 8), np.uint8)))
        (folder / labels).write_bytes(encode_idx((np.arange(count) % 3).astype(np.uint8)))
    return folder


@pytest.mark.full_data
def test_full_set(fashion_mnist):
    assert fashion_mnist.name == "fashion-mnist"
    assert fashion_mnist.train_images.shape == (60_000, 1, 28, 28)
    assert fashion_mnist.test_images.shape == (10_000, 1, 28, 28)
    assert fashion_mnist.train_images.dtype == np.uint8
    assert fashion_mnist.test_labels.dtype == np.int64
    assert (np.bincount(fashion_mnist.train_labels) == 6000).all()
    assert fashion_mnist.class_names[fashion_mnist.train_labels[0]] == "Ankle boot"


@pytest.mark.full_data
def test_entropy_floor_of_the_test_images(fashion_mnist):
    assert entropy_floor(prepare(fashion_mnist.test_images, 32)) == pytest.approx(0.1854, abs=5e-5)


@pytest.mark.full_data
@pytest.mark.parametrize("layout", [".", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [False, True])
def test_layouts_plain_and_gzipped(full_files, tmp_path, layout, compressed):
    place = tmp_path / layout
    place.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if compressed:
            content = gzip.compress((full_files / name).read_bytes(), compresslevel=1)
            (place / f"{name}.gz").write_bytes(content)
        else:
            (place / name).symlink_to(full_files / name)
    images = load_images(folder=tmp_path)
    assert len(images.train_images) == 60_000
    assert images.source == str(place)
    assert load_images(images.name).fingerprint == images.fingerprint  # the name finds it again


@pytest.mark.full_data
def test_the_folder_comes_before_the_cache_and_the_cache_before_the_package(full_files, no_package):
    for place in ("package", "cache"):
        shutil.copytree(full_files, no_package / place, copy_function=os.symlink)
        assert load_images(download=False).source == str(no_package / place)
    assert load_images(folder=full_files).source == str(full_files)


@pytest.mark.full_data
def test_one_changed_byte_is_found_and_named(full_files, tmp_path):
    shutil.copytree(full_files, tmp_path, dirs_exist_ok=True)
    changed = bytearray((tmp_path / FILES[2]).read_bytes())
    changed[5000] ^= 1
    (tmp_path / FILES[2]).write_bytes(changed)
    for load_it in (lambda: load_images(folder=tmp_path), lambda: load_images(str(tmp_path))):
        with pytest.raises(InputError, match=f"{FILES[2]} is not the published file.*{MD5[FILES[2]]}"):
            load_it()


def test_another_set_is_taken_by_its_path_but_not_as_fashion_mnist(tmp_path):
    small_files(tmp_path)
    images = load_images(str(tmp_path))
    assert images.class_names == ("0", "1", "2")
    assert images.train_images.shape == (20, 1, 8, 8)
    with pytest.raises(InputError, match="is not the published file"):
        load_images(folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / FILES[0]).unlink(), f"lacks {FILES[0]}"),
        (lambda f: (f / FILES[0]).write_bytes((f / FILES[0]).read_bytes()[:-1]), "cut short"),
        (lambda f: shutil.copy(f / FILES[1], f / FILES[0]), "1 dimensions, expected 3"),
        (lambda f: shutil.copy(f / FILES[3], f / FILES[1]), "one label per image"),
    ],
)
def test_folders_that_hold_no_set(tmp_path, change, told):
    change(small_files(tmp_path))
    with pytest.raises(InputError, match=told):
        load_images(str(tmp_path))


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(InputError) as caught:
        load_images(str(tmp_path))
    assert all(name in str(caught.value) for name in FILES)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(InputError, match=r"'fashion_mnist', expected .*fashion-mnist.*sample"):
        load_images("fashion_mnist")
    assert DATA_SETS[:2] == ("fashion-mnist", "sample")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        load_images(folder=tmp_path / "none")


# Download: there is no network in a test, so the function that would use it is replaced.


@pytest.mark.parametrize("error", [RuntimeError("tried a mirror"), TimeoutError("timed out"), OSError("unreachable")])
def test_without_network_every_way_to_the_data_is_named(no_package, monkeypatch, error):
    attempts, timeouts = [], []

    def fail(folder):
        timeouts.append(socket.getdefaulttimeout())
        (folder / "FashionMNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (folder / "FashionMNIST" / "raw" / FILES[0]).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(downloads, "fetch", fail)
    with pytest.raises(InputError) as caught:
        load_images(on_progress=attempts.append)
    for way in ("apt-get install dataset-fashion-mnist", "--data FOLDER", "network", "--data sample", str(error)):
        assert way in str(caught.value)
    assert timeouts == [downloads.TIMEOUT_SECONDS] * downloads.ATTEMPTS
    assert len(attempts) == downloads.ATTEMPTS
    assert socket.getdefaulttimeout() is None
    assert not [path for path in (no_package / "cache").rglob("*") if path.is_file()]


@pytest.mark.full_data
def test_a_download_lands_in_the_cache_once(no_package, monkeypatch, full_files):
    calls = []

    def deliver(folder):
        calls.append(folder)
        shutil.copytree(full_files, folder / "FashionMNIST" / "raw")

    monkeypatch.setattr(downloads, "fetch", deliver)
    raw = no_package / "cache" / "FashionMNIST" / "raw"
    assert load_images().source == str(raw)
    assert load_images().name == "fashion-mnist"
    assert len(calls) == 1
    assert sorted(path.name for path in raw.iterdir()) == sorted(FILES)
    assert [path.name for path in (no_package / "cache").iterdir()] == ["FashionMNIST"]


def test_a_download_of_something_else_never_lands_in_the_cache(no_package, monkeypatch):
    monkeypatch.setattr(downloads, "fetch", lambda folder: small_files(folder / "FashionMNIST" / "raw"))
    with pytest.raises(InputError, match="is not the published file"):
        load_images()
    assert not [path for path in (no_package / "cache").rglob("*") if path.is_file()]


def test_the_download_can_be_forbidden(no_package, monkeypatch):
    monkeypatch.setattr(downloads, "fetch", lambda folder: pytest.fail("used the network"))
    with pytest.raises(InputError, match="downloading was not allowed"):
        load_images(download=False)


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(load, "_package_folders", lambda: ())
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="EDGEAE_CACHE"):
        load_images()


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGEAE_CACHE", raising=False)
    assert places.cache_folder() == tmp_path / "edgeae"
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "own"))
    assert places.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("EDGEAE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert places.cache_folder() == Path.home() / ".cache" / "edgeae"


# The sample


def test_the_sample_is_balanced_and_small(no_package):
    sample = load_images("sample", download=False)
    assert sample.name == "sample"
    assert (np.bincount(sample.train_labels) == 500).all()
    assert (np.bincount(sample.test_labels) == 100).all()
    assert sum(path.stat().st_size for path in SAMPLE_FOLDER.iterdir()) <= 3_000_000
    assert "Zalando" in (SAMPLE_FOLDER / "LICENSE").read_text()


@pytest.mark.full_data
def test_the_sample_is_drawn_from_the_full_set(fashion_mnist, tmp_path):
    write_sample(fashion_mnist, tmp_path)
    for name in FILES:
        np.testing.assert_array_equal(read_idx(tmp_path / f"{name}.gz"), read_idx(SAMPLE_FOLDER / f"{name}.gz"))
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_sample(fashion_mnist, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


# Preparing images


def test_padding_is_centred():
    assert padding(28, 28, 32) == (2, 2, 2, 2)
    assert padding(27, 30, 32) == (2, 3, 1, 1)
    with pytest.raises(InputError, match="33x28"):
        padding(33, 28, 32)


def test_prepare_keeps_pixels_and_adds_black():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 28, 27), np.uint8)
    prepared = prepare(images, 32)
    assert prepared.shape == (3, 2, 32, 32)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared[:, :, 2:30, 2:29], images)
    assert prepared.sum() == images.sum()


@pytest.mark.parametrize(
    "images", [np.zeros((2, 1, 28, 28), np.float32), np.zeros((2, 28, 28), np.uint8), np.zeros((0, 1, 8, 8), np.uint8)]
)
def test_prepare_refuses_other_arrays(images):
    with pytest.raises(InputError, match=r"expected uint8 \[n, channels, height, width\]"):
        prepare(images, 32)


def test_entropy_floor_against_the_definition():
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 9, 9), np.uint8)
    p = np.clip(images / 255, 1e-12, 1 - 1e-12)
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    assert entropy_floor(images) == pytest.approx(expected, abs=1e-9)
    assert entropy_floor(np.array([0, 255], np.uint8)) == 0


def test_image_sets_must_fit_together():
    images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.arange(4)
    assert ImageSet("a", "b", images, labels, images, labels, ("w", "x", "y", "z")).fingerprint
    for changed, told in (
        ((images, labels[:3], images, labels), "train_labels"),
        ((images, labels, images[..., :7], labels), "the same"),
        ((images, labels, images, labels + 1), "class names"),
        ((images.astype(np.float32), labels, images, labels), "train_images"),
    ):
        with pytest.raises(InputError, match=told):
            ImageSet("a", "b", *changed, ("w", "x", "y", "z"))


def test_digests_are_of_the_decompressed_files(tmp_path):
    array = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    (tmp_path / "a").write_bytes(gzip.compress(encode_idx(array)))
    assert idx_md5(read_idx(tmp_path / "a")) == idx_md5(array)
