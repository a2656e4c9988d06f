"""`--calibration`: what people hand over is understood and told, or asked for, and never misread."""

from __future__ import annotations

import numpy as np
import pytest
from edgeae_export import export
from edgeae_runtime import InputError, open_bundle
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from edgeae.calibration import checkpoint_calibration, own_images
from edgeae.command import app as cli
from edgeae.export import export_checkpoint

COLOUR = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
SIGNAL = (nn.Sequential(nn.Conv1d(2, 4, 3)), nn.Sequential(nn.ConvTranspose1d(4, 2, 3)))
DENSE = nn.Linear(8, 2)


@pytest.fixture
def pixels():
    """uint8 [30, 3, 12, 10]."""
    return np.random.default_rng(0).integers(0, 256, (30, 3, 12, 10), np.uint8).astype(np.uint8)


@pytest.fixture
def classes(tmp_path, pixels):
    """Three class folders, ten pictures in each, and one broken file."""
    for index, image in enumerate(pixels):
        folder = tmp_path / "set" / f"class{index // 10}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index}.png")
    (tmp_path / "set" / "class0" / "._1.png").write_bytes(b"\0\5\26\7")
    return tmp_path / "set"


def both(found):
    return np.concatenate([found.calibration, found.held_out])


def same_images(one, other):
    return sorted(image.tobytes() for image in one) == sorted(image.tobytes() for image in other)


def test_a_folder_of_class_folders_needs_no_shape(classes, pixels):
    found = own_images(str(classes), COLOUR)
    assert same_images(both(found), pixels)
    assert len(found.held_out) == 3
    told = " ".join(found.notices)
    assert "[3, 12, 10]" in told
    assert "Skipped 1 broken pictures of 31: ._1.png" in told


def test_the_held_out_pictures_are_not_all_of_one_class(classes, pixels):
    held_out = own_images(str(classes), COLOUR).held_out
    indices = [int(np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))[0]) for image in held_out]
    assert len({index // 10 for index in indices}) > 1


def test_grey_pictures_have_one_channel(tmp_path, pixels):
    for index, image in enumerate(pixels):
        Image.fromarray(image[0]).save(tmp_path / f"{index}.png")
    found = own_images(str(tmp_path), COLOUR)
    assert found.calibration.shape[1:] == (1, 12, 10)
    assert same_images(both(found), pixels[:, :1])


def test_pictures_of_several_sizes_are_asked_for_and_brought_to_one(classes):
    Image.new("RGB", (40, 30)).save(classes / "large.png")
    with pytest.raises(InputError, match=r"2 sizes: 30 of 12x10 and 1 of 30x40.*--image-shape.*--fit crop"):
        own_images(str(classes), COLOUR)
    with pytest.raises(InputError, match=r"1 of 30x40 pixels, expected 12x10.*--fit crop"):
        own_images(str(classes), COLOUR, (3, 12, 10))
    for fit in ("crop", "pad", "stretch"):
        assert both(own_images(str(classes), COLOUR, (3, 8, 8), fit)).shape == (31, 3, 8, 8)
    with pytest.raises(InputError, match="expected one of crop, pad, stretch"):
        own_images(str(classes), COLOUR, (3, 8, 8), "bend")


def test_arrays_with_the_channels_last(tmp_path, pixels):
    np.save(tmp_path / "a.npy", pixels.transpose(0, 2, 3, 1))
    for shape in (None, (3, 12, 10)):
        found = own_images(str(tmp_path / "a.npy"), COLOUR, shape)
        np.testing.assert_array_equal(found.calibration, pixels)
        assert "channels last" in found.notices[0]


def test_arrays_without_an_axis_of_the_channel(tmp_path, pixels):
    np.save(tmp_path / "a.npy", pixels[:, 0])
    assert own_images(str(tmp_path / "a.npy"), COLOUR).calibration.shape == (30, 1, 12, 10)
    assert own_images(str(tmp_path / "a.npy"), DENSE, (1, 12, 10)).calibration.shape == (30, 1, 12, 10)
    assert own_images(str(tmp_path / "a.npy"), SIGNAL).calibration.shape == (30, 12, 10), "signals of 12 channels"
    with pytest.raises(InputError, match="--image-shape"):
        own_images(str(tmp_path / "a.npy"), DENSE)
    with pytest.raises(InputError, match="arrays are not resized"):
        own_images(str(tmp_path / "a.npy"), COLOUR, (1, 8, 8), "crop")


def test_one_colour_picture_is_not_32_grey_ones(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="--image-shape"):
        own_images(str(tmp_path / "one.npy"), COLOUR)
    with pytest.raises(InputError, match=r"\[32, 32, 3\], expected"):
        own_images(str(tmp_path / "one.npy"), COLOUR, (1, 32, 32))
    assert own_images(str(tmp_path / "one.npy"), COLOUR, (3, 32, 32)).calibration.shape == (1, 3, 32, 32)


def test_the_training_images_of_a_keras_file(tmp_path, pixels):
    np.savez(
        tmp_path / "a.npz",
        x_train=pixels.transpose(0, 2, 3, 1),
        y_train=np.zeros(30),
        x_test=pixels,
        y_test=np.zeros(30),
    )
    found = own_images(str(tmp_path / "a.npz"), COLOUR)
    np.testing.assert_array_equal(found.calibration, pixels)
    assert "Took x_train" in found.notices[0]
    assert not own_images(f"{tmp_path / 'a.npz'}:x_test", COLOUR).notices
    np.savez(tmp_path / "b.npz", first=pixels, second=pixels)
    with pytest.raises(InputError, match=r"b\.npz:first"):
        own_images(str(tmp_path / "b.npz"), COLOUR)


def test_what_is_no_set_of_images(tmp_path, pixels):
    np.save(tmp_path / "mask.npy", (pixels > 127).astype(np.uint8))
    with pytest.raises(InputError, match=r"uint8 from 0 to 1, expected pixels in 0\.\.255"):
        own_images(str(tmp_path / "mask.npy"), COLOUR)
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "no pictures, at any depth"), ("absent", "no file or folder"), ("-", "no file")):
        with pytest.raises(InputError, match=words):
            own_images(str(tmp_path / name), COLOUR)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: (a * 257.0).astype(np.uint16), "such as 65535"),
        (lambda a: a.astype(np.int64), "Save them as uint8"),
        (lambda a: a.astype(np.float32), "Divide 8-bit pixels by 255"),
        (lambda a: a / np.float32(127.5) - 1, "Undo the normalisation"),
        (lambda a: np.where(a > 100, np.nan, 0.5), "isfinite"),
        (lambda a: a > 100, "bool"),
    ],
    ids=["16-bit", "int64", "0..255", "-1..1", "nan", "bool"],
)
def test_other_values_are_refused_and_never_scaled_in_silence(tmp_path, pixels, change, words):
    np.save(tmp_path / "a.npy", change(pixels))
    images = own_images(str(tmp_path / "a.npy"), COLOUR).calibration
    with pytest.raises(InputError, match=words):
        export(COLOUR, tmp_path / "bundle", quantize="int8", calibration=images)


def test_only_the_chosen_rows_of_a_large_file_are_read(tmp_path):
    """A sparse file of 98 GB: the whole of it is never read."""
    shape = (6_000_000, 128, 128, 1)
    with (tmp_path / "large.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    images = own_images(str(tmp_path / "large.npy"), COLOUR).calibration
    assert images.shape == (6_000_000, 1, 128, 128)
    assert images[::2_000_000].max() == 0


MODULE = """
from torch import nn

def build():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    decoder = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 3, 4, 2, 1))
    return encoder, nn.Sequential(decoder, nn.Sigmoid())
"""


def test_the_command_line_fits_pictures_and_shows_what_it_understood(classes, tmp_path, monkeypatch):
    (tmp_path / "my_colour_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["export", "my_colour_net:build", "--calibration", str(classes), "--image-shape", "3,8,8"]
    arguments += ["--target", "x86-vnni"]  # nothing is timed
    done = CliRunner().invoke(cli.app, [*arguments, "--fit", "stretch", "--out", "fitted"])
    assert done.exit_code == 0, done.exception
    assert "Skipped 1 broken pictures" in done.output
    assert open_bundle("fitted").manifest.image_shape == (3, 8, 8)
    done = CliRunner().invoke(cli.app, arguments)
    assert isinstance(done.exception, InputError)
    assert "--fit stretch" in str(done.exception)


def test_a_checkpoint_takes_its_own_size(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeae.export.checkpoint_images", lambda checkpoint: (images, images))
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32), np.uint8).astype(np.uint8)
    small = images[:, 0, 2:-2, 2:-2]
    np.savez(tmp_path / "a.npz", x_train=small, y_train=np.zeros(40))
    for index, image in enumerate(small):
        folder = tmp_path / "set" / str(index % 3)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    padded = np.pad(small, ((0, 0), (2, 2), (2, 2)))[:, None]
    for source in ("a.npz", "set"):
        found = checkpoint_calibration(str(tmp_path / source), trained)
        assert same_images(found.calibration, padded)
    report = export_checkpoint(
        trained.path, tmp_path / "bundle", calibration=str(tmp_path / "a.npz"), target="x86-vnni"
    )
    assert [notice.split()[0] for notice in report.notices] == ["Took", "Took", "Padded"]
