"""A user's own pictures: found, prepared as on a device, split, kept on disk; broken ones skipped and named."""

from __future__ import annotations

import numpy as np
import pytest
from edgeae_export import export
from edgeae_runtime import Autoencoder, InputError, open_bundle
from edgeae_runtime.command import actions as commands
from edgeae_runtime.pictures.loading import find_pictures, load_picture
from PIL import Image

from edgeae import AutoencoderConfig, PictureOptions, TrainingConfig, load_checkpoint, load_images, train
from edgeae.data import picture_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """24 pictures of two classes in many sizes, formats and modes, and three broken files."""
    root, rng = tmp_path / "pictures", np.random.default_rng(0)
    for index in range(24):
        kind = "cats" if index % 2 else "dogs"
        (root / kind / "deep").mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(20, 90, 2)
        mode = ("RGB", "L", "RGBA", "P")[index % 4]
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8).astype(np.uint8))
        picture = coarse.resize((int(width), int(height))).convert(mode)
        picture.save(root / kind / "deep" / f"{index:02}.{'png' if mode != 'RGB' else 'jpg'}")
    (root / "cats" / "empty.png").write_bytes(b"")
    (root / "cats" / "text.jpg").write_text("not a picture")
    whole = (root / "dogs" / "deep" / "00.jpg").read_bytes()
    (root / "dogs" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("left alone")
    return root


OPTIONS = PictureOptions(size=32)


def test_broken_pictures_are_skipped_and_named(folder):
    told = []
    images = load_images(str(folder), pictures=OPTIONS, on_progress=told.append)
    assert len(images.train_images) + len(images.test_images) == 24
    assert images.class_names == ("cats", "dogs")
    (line,) = [line for line in told if line.startswith("skipped")]
    assert line.startswith("skipped 3 broken pictures")
    assert all(name in line for name in ("empty.png", "text.jpg", "cut.jpg"))
    counts = np.bincount(np.concatenate([images.train_labels, images.test_labels]))
    assert counts.tolist() == [12, 12]


def test_the_split_is_seeded(folder):
    first, again, other = (
        load_images(str(folder), pictures=PictureOptions(size=32, seed=seed)).fingerprint for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_second_start_reads_the_cache(folder, monkeypatch):
    first = load_images(str(folder), pictures=OPTIONS)
    monkeypatch.setattr(picture_cache, "load_picture", None)
    assert load_images(str(folder), pictures=OPTIONS).fingerprint == first.fingerprint
    assert isinstance(first.train_images, np.memmap), "mapped from disk: the set may be larger than the memory"
    (folder / "cats" / "deep" / "01.png").touch()
    with pytest.raises(TypeError):  # a changed file is prepared anew
        load_images(str(folder), pictures=OPTIONS)


def test_a_killed_preparation_leaves_nothing_behind(folder, monkeypatch, cache):
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return np.zeros((3, 32, 32), np.uint8)

    monkeypatch.setattr(picture_cache, "load_picture", killed)
    with pytest.raises(KeyboardInterrupt):
        load_images(str(folder), pictures=OPTIONS)
    assert list((cache / "pictures").iterdir()) == []


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_device_sees_the_pixels_that_training_saw(folder, tmp_path, fit, channels):
    options = PictureOptions(size=32, channels=channels, fit=fit)
    data = load_images(str(folder), pictures=options)
    config = AutoencoderConfig(channels=channels, widths=(4, 8))
    settings = TrainingConfig(epochs=1, batch_size=8, precision="float32", device="cpu")
    train(data, tmp_path / "run", config, settings)
    checkpoint = load_checkpoint(tmp_path / "run")
    export(checkpoint, tmp_path / "bundle", held_out=data.test_images)
    ae = Autoencoder.load(tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").manifest.preprocessing.fit == fit
    files = [path for path in find_pictures(folder) if path.name[0].isdigit()]
    seen = np.concatenate([data.train_images, data.test_images])
    for path in files[:6]:
        commands.encode(str(tmp_path / "bundle"), str(path), str(tmp_path / "z.npy"), "cpu")
        on_device = np.load(tmp_path / "z.npy")
        pixels = load_picture(path, (channels, 32, 32), fit)
        assert (seen == pixels).all(axis=(1, 2, 3)).sum() == 1, "pixel for pixel what training saw"
        np.testing.assert_array_equal(on_device, ae.encode(pixels[None]))


def test_a_large_picture_is_cropped_in_the_middle(tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    for name in ("a.png", "b.png"):
        (tmp_path / "wide").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "wide" / name)
    images = load_images(str(tmp_path / "wide"), pictures=PictureOptions(size=40)).train_images
    assert (images == 200).all()
    padded = load_images(str(tmp_path / "wide"), pictures=PictureOptions(size=40, fit="pad")).train_images
    assert (padded[:, :, :10] == 0).all()


@pytest.mark.parametrize(
    ("shape", "dtype"), [((20, 32, 32), np.uint8), ((20, 3, 32, 32), np.float32), ((20, 32, 32, 3), np.uint8)]
)
def test_arrays(tmp_path, shape, dtype):
    values = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "a.npy", (values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(dtype))
    images = load_images(str(tmp_path / "a.npy"))
    assert images.train_images.shape == (18, 1 if len(shape) == 3 else 3, 32, 32)
    assert images.test_images.dtype == np.uint8


def test_what_is_no_set_of_pictures(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 7)))
    with pytest.raises(InputError, match="expected at least two images"):
        load_images(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", np.full((5, 8, 8), 7.0))
    with pytest.raises(InputError, match=r"floating point in \[0, 1\]"):
        load_images(str(tmp_path / "b.npy"))
    (tmp_path / "one").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "one" / "a.png")
    with pytest.raises(InputError, match="holds 1 pictures"):
        load_images(str(tmp_path / "one"))
    (tmp_path / "one" / "b.png").write_text("broken")
    with pytest.raises(InputError, match="only 1 can be read"):
        load_images(str(tmp_path / "one"))
    with pytest.raises(InputError, match="expected a size"):
        PictureOptions(fit="bend")


def test_torchvision_sets_need_their_files(monkeypatch):
    with pytest.raises(InputError, match="MNIST is not in"):
        load_images("mnist", download=False)
