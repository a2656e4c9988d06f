"""Pictures that are not square, from the words that are typed to the device."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from edgeae_export import export
from edgeae_runtime import Autoencoder as Runtime
from edgeae_runtime import InputError, open_bundle
from edgeae_runtime.command import actions as commands
from edgeae_runtime.pictures.images import contact_sheet
from edgeae_runtime.pictures.loading import find_pictures, load_picture
from PIL import Image

from edgeae import Autoencoder, AutoencoderConfig, PictureOptions, TrainingConfig, load_checkpoint, load_images, train
from edgeae.calibration import own_images
from edgeae.checkpoint_images import checkpoint_images
from edgeae.data import padding, prepare
from edgeae.image_size import parse_image_size
from edgeae.plots import plot_decoded_grid, plot_reconstructions

TALL, WIDE = (48, 32), (24, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """40 colour pictures of many sizes, higher and wider than any model's."""
    root, rng = tmp_path / "pictures", np.random.default_rng(0)
    root.mkdir()
    for index in range(40):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize(tuple(map(int, rng.integers(20, 90, 2)))).save(root / f"{index:02}.png")
    return root


@pytest.mark.parametrize(
    ("typed", "size"),
    [("96x128", (96, 128)), ("96X128", (96, 128)), (" 96 × 128 ", (96, 128)), ("64", 64), ("64x64", 64)],
)
def test_sizes_as_they_are_typed(typed, size):
    assert parse_image_size("--image-size", typed) == size


@pytest.mark.parametrize(
    "typed", ["", "x", "96x", "x128", "96,128", "96x128x3", "-96x128", "9.5", "\u0663\u0662", "1e3", "1" * 10]
)
def test_what_is_no_size(typed):
    with pytest.raises(InputError, match="such as 96x128"):
        parse_image_size("--image-size", typed)


def test_every_multiple_is_a_size_and_nothing_else_is():
    for height in range(1, 26):
        for width in (8, 11, 24):
            fits = height % 8 == 0 and width % 8 == 0
            with nullcontext() if fits else pytest.raises(InputError, match=f"{height}x{width}.*nearest"):
                config = AutoencoderConfig(image_size=(height, width), widths=(2, 2, 2))
                assert Autoencoder(config)(torch.zeros(1, *config.image_shape))[0].shape[2:] == (height, width)


def test_a_pair_of_equal_numbers_is_a_square():
    assert AutoencoderConfig(image_size=[48, 48]) == AutoencoderConfig(image_size=48)
    assert AutoencoderConfig(image_size=[48, 64]) == AutoencoderConfig(image_size=(48, 64))
    assert PictureOptions(size=(32, 32)) == PictureOptions(size=32)
    assert AutoencoderConfig.preset("medium", image_size=(32, 80)).image_shape == (1, 32, 80)


def test_images_are_centred_on_black_of_any_shape():
    images = np.full((2, 1, 5, 6), 200, np.uint8)
    assert padding(5, 6, (8, 16)) == (1, 2, 5, 5)
    prepared = prepare(images, (8, 16))
    assert prepared.shape == (2, 1, 8, 16)
    assert (prepared[:, :, 1:6, 5:11] == 200).all()
    assert prepared.sum() == images.sum()
    for size in ((4, 16), (16, 5)):
        with pytest.raises(InputError, match=f"of 5x6 pixels for a model of {size[0]}x{size[1]}"):
            prepare(images, size)


def small_run(folder, out, size, fit="crop", channels=3, **settings):
    """A few steps of training on a folder's pictures of that size."""
    data = load_images(str(folder), pictures=PictureOptions(size=size, channels=channels, fit=fit))
    config = AutoencoderConfig(image_size=size, channels=channels, widths=(4, 8))
    return data, train(
        data, out, config, TrainingConfig(epochs=1, batch_size=8, precision="float32", device="cpu", **settings)
    )


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [TALL, WIDE])
def test_the_device_sees_the_pixels_that_training_saw(folder, tmp_path, size, fit):
    data, _ = small_run(folder, tmp_path / "run", size, fit)
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.image_shape == (3, *size)
    export(
        checkpoint, tmp_path / "bundle", quantize="int8", calibration=data.train_images, held_out=data.test_images,
        target="x86-avx2",
    )  # fmt: skip
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.image_shape == (3, *size)
    assert (manifest.preprocessing.fit, manifest.preprocessing.size) == (fit, size)
    ae = Runtime.load(tmp_path / "bundle")
    files = find_pictures(folder)
    seen = np.concatenate([data.train_images, data.test_images])
    for path in files[:4]:
        commands.encode(str(tmp_path / "bundle"), str(path), str(tmp_path / "z.npy"), "cpu")
        pixels = load_picture(path, (3, *size), fit)
        assert (seen == pixels).all(axis=(1, 2, 3)).sum() == 1, "pixel for pixel what training saw"
        np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), ae.encode(pixels[None]))
    assert ae.reconstruct(seen[:3]).shape == (3, 3, *size)
    with pytest.raises(InputError):
        ae.encode(np.zeros((1, 3, *size[::-1]), np.uint8))  # height and width are not exchanged


@pytest.mark.slow
def test_as_it_is_typed(folder, tmp_path, run_program, refused):
    def run(*arguments):
        return run_program(*arguments, cwd=tmp_path)

    train_it = ("edgeae", "train", "--data", folder, "--preset", "small", "--kind", "vae", "--batch-size", "16")
    refused(run(*train_it, "--image-size", "30x40"), "30x40", "multiple of 8", "24x40 and 32x40")
    refused(run(*train_it, "--image-size", "24,40"), "--image-size 24,40", "96x128")
    assert not (tmp_path / "runs").exists()
    done = run(*train_it, "--image-size", "24x40", "--fit", "pad", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    refused(run(*train_it, "--image-size", "40x24", "--resume"), "image_size = 24x40", "image_size = 40x24")
    done = run("edgeae", "train", "--resume", "--epochs", "2", "--fit", "pad")
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "runs/latest").config.image_size == (24, 40)
    done = run("edgeae", "export", "--target", "x86-avx2")
    assert done.returncode == 0, done.stderr
    assert run("edgeae_runtime", "verify", "bundle").returncode == 0
    assert run("edgeae", "verify", "bundle", "--checkpoint", "runs/latest").returncode == 0
    for name in ("again.npy", "again.png"):
        done = run("edgeae_runtime", "reconstruct", folder, "--bundle", "bundle", "--out", name)
        assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "again.npy").shape == (40, 3, 24, 40)
    assert Image.open(tmp_path / "again.png").size == (5 * 42 - 2, 8 * 26 - 2)


def test_pictures_of_any_size_calibrate_ones_own_model(folder):
    for fit in ("crop", "pad", "stretch"):
        found = own_images(str(folder), torch.nn.Conv2d(3, 4, 3), (3, *WIDE), fit)
        assert found.calibration.shape[1:] == (3, *WIDE)


def test_arrays_of_another_shape_are_padded_and_the_device_pads_alike(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.integers(0, 256, (60, 20, 30), np.uint8))
    data = load_images(str(tmp_path / "a.npy"))
    config = AutoencoderConfig(image_size=WIDE, widths=(4, 8))
    train(data, tmp_path / "run", config, TrainingConfig(epochs=1, batch_size=16, precision="float32", device="cpu"))
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.preprocessing.source_size == (20, 30)
    assert checkpoint.preprocessing.pad == (2, 2, 5, 5)
    assert checkpoint_images(checkpoint)[0].shape == (54, 1, *WIDE)
    export(checkpoint, tmp_path / "bundle", held_out=prepare(data.test_images, WIDE), rewrites=False)
    commands.encode(str(tmp_path / "bundle"), str(tmp_path / "a.npy"), str(tmp_path / "z.npy"), "cpu")
    images = prepare(np.load(tmp_path / "a.npy")[:, None], WIDE)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), Runtime.load(tmp_path / "bundle").encode(images))


def test_a_square_is_written_as_ever_and_a_rectangle_as_two_numbers(folder, tmp_path):
    for size, written in ((16, 16), ((16, 24), [16, 24])):
        _, checkpoint = small_run(folder, tmp_path / str(size), size, channels=1)
        place = tmp_path / str(size) / "checkpoint.json"
        document = json.loads(place.read_text())
        assert document["config"]["image_size"] == written
        document["config"]["image_size"] = list(checkpoint.image_shape[1:])
        place.write_text(json.dumps(document))
        assert load_checkpoint(place.parent).config == checkpoint.config
    for wrong, told in (([16, 32], "does not make|do not fit"), ([16], "image_size"), ([24, 17], "multiple of 4")):
        document["config"]["image_size"] = wrong
        place.write_text(json.dumps(document))
        with pytest.raises(InputError, match=told):
            load_checkpoint(place.parent)


def test_resuming_with_the_sides_exchanged_is_refused(folder, tmp_path):
    data, before = small_run(folder, tmp_path / "run", (16, 24), channels=1)
    again = train(data, tmp_path / "run", before.config, before.training, resume=True)
    assert again.config == before.config
    with pytest.raises(InputError, match="image_size = 16x24, but now image_size = 24x16"):
        train(
            data, tmp_path / "run", AutoencoderConfig(image_size=(24, 16), widths=(4, 8)), before.training, resume=True
        )


@pytest.mark.parametrize(("shape", "columns"), [((8, 8), 4), ((8, 32), 2), ((32, 8), 8), ((2, 400), 1), ((400, 2), 16)])
def test_sheets_come_near_to_a_square(shape, columns):
    sheet = contact_sheet(np.zeros((16, 1, *shape), np.uint8), gap=0)
    assert sheet.shape == (-(-16 // columns) * shape[0], columns * shape[1])


@pytest.mark.filterwarnings("error::UserWarning")
def test_plots_keep_the_shape_of_the_images(tmp_path):
    taller = {"rows": 0.0, "grid": 0.0}
    for shape in ((20, 40), (20, 20), (40, 20)):
        images = np.random.default_rng(0).random((6, 3, *shape), np.float32)
        plot_reconstructions({"original": images, "again": images}, tmp_path / "rows.png")
        plot_decoded_grid(images.reshape(2, 3, 3, *shape), (0, 0), (1, 1), tmp_path / "grid.png")
        for name, before in taller.items():
            width, height = Image.open(tmp_path / f"{name}.png").size
            taller[name] = height / width
            assert taller[name] > before, (name, shape)
    line = np.zeros((6, 1, 4, 200), np.float32)
    plot_reconstructions({"original": line, "again": line}, tmp_path / "line.png")
    plot_decoded_grid(line.reshape(2, 3, 1, 4, 200), (0, 0), (1, 1), tmp_path / "line grid.png")
