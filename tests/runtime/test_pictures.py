"""Folders of pictures: any depth, natural order, broken ones skipped and told, sizes asked for, never guessed."""

import os
import sys

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, InputError, commands
from edgeae_runtime.images import read_images
from edgeae_runtime.manifest import Preprocessing
from edgeae_runtime.pictures import find_pictures, load_picture, survey

pillow = pytest.importorskip("PIL.Image", reason="pictures are the runtime's extra `images`")
AS_THEY_ARE = Preprocessing(source_size=None, pad=(0, 0, 0, 0), scale=1 / 255)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path, images):
    """Five pictures in two folders, and five files that are none."""
    names = ("cats/img1.png", "cats/img2.png", "cats/img10.png", "dogs/deep/img1.png", "img3.png")
    for name, image in zip(names, images, strict=True):
        save(tmp_path / "set" / name, image[0])
    (tmp_path / "set" / "._img3.png").write_bytes(b"\0\5\26\7 Mac OS X")
    (tmp_path / "set" / "cats" / "empty.jpg").write_bytes(b"")
    save(tmp_path / "set" / "deep.png", images[0, 0].astype(np.uint16) * 257)
    (tmp_path / "set" / "scan.tif").write_bytes(b"II*\0")
    (tmp_path / "set" / "dogs" / "link.png").symlink_to(tmp_path / "set" / "img3.png")
    return tmp_path / "set"


def test_any_depth_in_natural_order(folder):
    told = []
    found = [path.relative_to(folder).as_posix() for path in find_pictures(folder, tell=told.append)]
    assert found == [
        "._img3.png", "deep.png", "img3.png",
        "cats/empty.jpg", "cats/img1.png", "cats/img2.png", "cats/img10.png", "dogs/deep/img1.png",
    ]  # fmt: skip
    (line,) = told
    assert "1 .tif files" in line
    assert "1 links" in line


def test_encode_skips_what_it_cannot_read_and_says_so(folder, bundle, images, tmp_path):
    text = commands.encode(str(bundle), str(folder), str(tmp_path / "z.npy"), "cpu")
    assert "Skipped 3 broken pictures of 8: ._img3.png, deep.png, empty.jpg." in text
    expected = Autoencoder.load(bundle).encode(images[[4, 0, 1, 2, 3]])
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected)


def test_nothing_but_broken_pictures(tmp_path, images):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    with pytest.raises(InputError, match=r"None of 2 pictures can be read.*a\.png is not a readable picture"):
        read_images(tmp_path, (1, 16, 16), AS_THEY_ARE)
    with pytest.raises(InputError, match=r"^[^\n]*a\.png is not a readable picture[^\n]*$"):
        read_images(tmp_path / "a.png", (1, 16, 16), AS_THEY_ARE)
    save(tmp_path / "c.png", images[0, 0].astype(np.uint16) * 257)
    with pytest.raises(InputError, match="more than 8 bits"):
        read_images(tmp_path / "c.png", (1, 16, 16), AS_THEY_ARE)


def test_other_sizes_are_refused_with_all_that_were_found(tmp_path):
    for index in range(6):
        save(tmp_path / f"{index}.png", np.zeros((16 if index else 20, 16, 3), np.uint8))
    with pytest.raises(InputError, match=r"5 of 16x16 and 1 of 20x16 pixels, expected 16x16"):
        read_images(tmp_path, (3, 16, 16), AS_THEY_ARE)
    with pytest.raises(InputError, match=r"channels come first: 3,16,16"):
        read_images(tmp_path, (16, 16, 3), AS_THEY_ARE)
    with pytest.raises(InputError, match="expected 1 or 3 channels, height and width"):
        read_images(tmp_path, (1, 256), AS_THEY_ARE)


def test_a_survey_sees_pictures_upright(tmp_path):
    exif = pillow.Exif()
    exif[0x0112] = 6
    save(tmp_path / "turned.jpg", np.zeros((10, 20), np.uint8), exif=exif)
    save(tmp_path / "plain.png", np.zeros((20, 10), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"")
    found = survey(find_pictures(tmp_path))
    assert found.sizes == {(20, 10): 2}
    assert found.grey
    save(tmp_path / "colour.png", np.zeros((20, 10, 3), np.uint8))
    assert not survey(find_pictures(tmp_path)).grey


def test_a_single_pixel_is_not_spread_over_an_image(tmp_path):
    save(tmp_path / "one.png", np.full((1, 1), 200, np.uint8))
    with pytest.raises(InputError, match="1x1 pixels, expected 16x16"):
        read_images(tmp_path / "one.png", (1, 16, 16), AS_THEY_ARE)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf_8(tmp_path, images):
    save(tmp_path / "good.png", images[0, 0])
    with open(os.fsencode(tmp_path) + b"/caf\xe9\n.png", "wb") as file:  # noqa: PTH123
        file.write(b"broken")
    told = []
    read_images(tmp_path, (1, 16, 16), AS_THEY_ARE, told.append)
    assert r"caf\udce9\n.png" in told[0]
    told[0].encode("utf-8")


def test_odd_exif_is_a_broken_picture_and_no_traceback(tmp_path):
    save(tmp_path / "a.jpg", np.zeros((16, 16), np.uint8))
    raw = (tmp_path / "a.jpg").read_bytes()
    # Orientation 6, and a resolution whose numerator is negative where it must not be.
    entries = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\x1a\x01\x0a\0\x01\0\0\0\x26\0\0\0"
    tiff = b"II*\0\x08\0\0\0\x02\0" + entries + bytes(4) + b"\xff\xff\xff\xff\0\0\0\0"
    app1 = b"Exif\0\0" + tiff
    (tmp_path / "a.jpg").write_bytes(raw[:2] + b"\xff\xe1" + (len(app1) + 2).to_bytes(2, "big") + app1 + raw[2:])
    with pytest.raises(InputError, match="not a readable picture"):
        load_picture(tmp_path / "a.jpg", (1, 16, 16), None)
