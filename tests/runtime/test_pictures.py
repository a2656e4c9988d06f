"""Folders of pictures: any depth, natural order, broken ones skipped and told, sizes asked for, never guessed."""

import csv
import io
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, InputError
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.command import actions as commands
from edgeae_runtime.pictures.images import read_images
from edgeae_runtime.pictures.loading import find_pictures, load_picture, natural_order, survey

pillow = pytest.importorskip("PIL.Image", reason="pictures are the runtime's extra `images`")
PngImagePlugin = pytest.importorskip("PIL.PngImagePlugin")
AS_THEY_ARE = Preprocessing(source_size=None, pad=(0, 0, 0, 0), scale=1 / 255)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path, images):
    """Six pictures in two folders, and files that are none."""
    names = ("cats/img1.png", "cats/img2.png", "cats/img10.png", "dogs/deep/img1.png", "img3.png")
    for name, image in zip(names, images, strict=True):
        save(tmp_path / "set" / name, image[0])
    (tmp_path / "set" / "._img3.png").write_bytes(b"\0\5\26\7 Mac OS X")
    (tmp_path / "set" / "cats" / "empty.jpg").write_bytes(b"")
    save(tmp_path / "set" / "deep.png", images[0, 0].astype(np.uint16) * 257)
    (tmp_path / "set" / "scan.gif").write_bytes(b"GIF89a")
    (tmp_path / "set" / "cats" / "notes").write_text("left alone")
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
    assert "1 .gif files" in line
    assert "1 files without an ending" in line
    assert "1 links" in line


def test_encode_skips_what_it_cannot_read_and_says_so(folder, bundle, images, tmp_path):
    text = commands.encode(str(bundle), str(folder), str(tmp_path / "z.npy"), "cpu")
    assert "Skipped 2 broken pictures of 8: ._img3.png, empty.jpg. The first: " in text
    expected = Autoencoder.load(bundle).encode(images[[0, 4, 0, 1, 2, 3]])
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected)


def test_nothing_but_broken_pictures(tmp_path, images):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    with pytest.raises(InputError, match=r"None of 2 pictures can be read.*a\.png is not a readable picture"):
        read_images(tmp_path, (1, 16, 16), AS_THEY_ARE)
    with pytest.raises(InputError, match=r"^[^\n]*a\.png is not a readable picture[^\n]*$"):
        read_images(tmp_path / "a.png", (1, 16, 16), AS_THEY_ARE)


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


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(pixels, colour, extra=b""):
    """A PNG of 16 bits in a channel, written by hand: pillow writes neither sBIT nor colour of 16 bits."""
    height, width = pixels.shape[:2]
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (chunk(b"IHDR", size), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


def test_sixteen_bits_are_scaled_by_their_own_depth(tmp_path):
    twelve = (np.arange(256) * 4095 // 255).reshape(16, 16).astype(np.uint16)
    pillow.fromarray(RAMP * 257).save(tmp_path / "full.png")
    pillow.fromarray(RAMP * 257).save(tmp_path / "full.tif")
    pillow.fromarray(twelve).save(tmp_path / "states-it.tif", tiffinfo={281: 4095})
    (tmp_path / "states-it.png").write_bytes(png(twelve, 0, chunk(b"sBIT", b"\x0c")))
    (tmp_path / "scaled.png").write_bytes(png((twelve << 4) | (twelve >> 8), 0, chunk(b"sBIT", b"\x0c")))
    (tmp_path / "colour.png").write_bytes(png(np.repeat((RAMP * 257)[..., None], 3, 2), 2))
    pillow.fromarray(0xFFFF - RAMP * 257).save(tmp_path / "white-is-zero.tif", tiffinfo={262: 0})
    for path in sorted(tmp_path.iterdir()):
        pixels = load_picture(path, (1, 16, 16), None)
        assert np.abs(pixels[0].astype(int) - RAMP).max() <= 1, path.name


def test_a_depth_that_cannot_be_known_is_refused_and_a_doubtful_one_told(tmp_path):
    pillow.fromarray(RAMP * 16).save(tmp_path / "dim.png")
    (tmp_path / "dim-colour.png").write_bytes(png(np.repeat((RAMP * 16)[..., None], 3, 2), 2))
    for name in ("dim.png", "dim-colour.png"):
        with pytest.raises(InputError, match=rf"{name} has 16 bits in a channel, but its values end at 40.*convert it"):
            load_picture(tmp_path / name, (1, 16, 16), None)
        (tmp_path / name).unlink()
    pillow.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float\.tif holds floating-point"):
        load_picture(tmp_path / "float.tif", (1, 16, 16), None)
    (tmp_path / "float.tif").unlink()
    pillow.fromarray(RAMP * 0).save(tmp_path / "black.png")
    pillow.fromarray(RAMP * 64).save(tmp_path / "dark.png")
    told = []
    read_images(tmp_path, (1, 16, 16), AS_THEY_ARE, told.append)
    assert len(told) == 1
    assert told[0].startswith("1 picture of 16 bits read as such, though")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, ".png") for mode in ("LA", "RGBA", "P", "L", "RGB")]
    + [("LA", ".tif"), ("RGBA", ".tif"), ("RGBA", ".webp")],
)
def test_transparency_is_white_and_told_once(tmp_path, mode, suffix):
    for name in ("a", "b"):
        rgba = np.zeros((16, 16, 4), np.uint8)
        rgba[4:12, 4:12] = (51, 51, 51, 255)  # ink on a transparent ground that is black below
        picture = pillow.fromarray(rgba)
        options = {"lossless": True} if suffix == ".webp" else {}
        if mode in ("P", "L", "RGB"):
            picture = picture.convert("RGB").convert(mode)
            zero = picture.getpixel((0, 0))
            options["transparency"] = zero
        else:
            picture = picture.convert(mode)
        picture.save(tmp_path / f"{name}{suffix}", **options)
    told = []
    images = read_images(tmp_path, (3, 16, 16), AS_THEY_ARE, told.append)
    assert (images[:, :, 0] == 255).all()
    assert images[:, :, 5, 5].max() < 60
    assert told == ["2 pictures with transparency put on white."]


def test_opaque_pictures_with_an_alpha_channel_are_as_without(tmp_path, images):
    rgb = np.repeat(images[0, 0][..., None], 3, 2)
    pillow.fromarray(rgb).convert("RGBA").save(tmp_path / "a.png")
    told = []
    np.testing.assert_array_equal(
        read_images(tmp_path, (3, 16, 16), AS_THEY_ARE, told.append)[0], rgb.transpose(2, 0, 1)
    )
    assert not told


def test_the_first_of_several_pages(tmp_path, images):
    pages = [pillow.fromarray(image[0]) for image in images]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    told = []
    read = read_images(tmp_path / "scan.tif", (1, 16, 16), AS_THEY_ARE, told.append)
    np.testing.assert_array_equal(read, images[:1])
    assert told == ["1 picture with several pages or frames: their first was taken."]


def test_turned_tiffs_have_one_size(tmp_path):
    exif = pillow.Exif()
    exif[0x0112] = 6
    pillow.fromarray(np.zeros((10, 20), np.uint8)).save(tmp_path / "turned.tif", exif=exif)
    (size,) = survey(find_pictures(tmp_path)).sizes
    assert load_picture(tmp_path / "turned.tif", (1, 1, 1), None).shape[1:] == size == (20, 10)


def test_other_formats_reach_no_decoder_whatever_their_name(tmp_path, monkeypatch):
    """An EPS starts Ghostscript: it must not even be looked for."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 moveto\nshowpage\n%%EOF\n"
    written = {"eps": eps}
    for name in ("GIF", "PPM", "TGA", "ICO", "SGI", "PCX", "DDS", "ICNS"):
        raw = io.BytesIO()
        pillow.new("RGB", (16, 16)).save(raw, name)
        written[name] = raw.getvalue()
    for name, raw in written.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(raw)
        with pytest.raises(InputError, match="is not a readable picture"):
            load_picture(path, (3, 16, 16), "crop")
    assert not (tmp_path / "started").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_only_regular_files_are_opened(tmp_path):
    """A FIFO would hang, a device never end."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    for name in ("fifo.png", "zero.png", "folder.png"):
        with pytest.raises(InputError, match="no regular file"):
            load_picture(tmp_path / name, (1, 16, 16), None)
    with pytest.raises(InputError, match="There is no file"):
        load_picture(tmp_path / "gone.png", (1, 16, 16), None)
    with pytest.raises(InputError, match=r"None of \d pictures can be read|no regular file"):
        read_images(tmp_path, (1, 16, 16), AS_THEY_ARE)


def test_pixels_are_bounded_before_they_are_decoded(tmp_path):
    head = (20000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(InputError, match=r"400.?000.?000 pixels"):
        load_picture(tmp_path / "bomb.png", (1, 16, 16), "crop")


def test_a_line_is_padded(tmp_path):
    save(tmp_path / "line.png", np.full((1, 5000, 3), 200, np.uint8))
    padded = load_picture(tmp_path / "line.png", (3, 16, 16), "pad")
    assert (padded == 200).all(axis=(0, 2)).sum() == 1, "one row of its pixels"


def test_any_exception_of_a_decoder_is_one_file(tmp_path, images, monkeypatch):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, images[0, 0])
    load = PngImagePlugin.PngImageFile.load
    for kind in (NotImplementedError, RuntimeError, MemoryError, RecursionError, OSError, KeyError):
        left = [kind("odd")]

        def once(self, left=left):
            if left:
                raise left.pop()
            return load(self)

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", once)
        told = []
        cropped = Preprocessing(source_size=None, pad=(0, 0, 0, 0), scale=1 / 255, fit="crop")  # asks no sizes before
        assert len(read_images(tmp_path, (1, 16, 16), cropped, told.append)) == 1
        assert "Skipped 1 broken pictures of 2: a.png." in told[0]


def test_names_stay_beside_latents(folder, bundle, images, tmp_path):
    names = ["deep.png", "img3.png", "cats/img1.png", "cats/img2.png", "cats/img10.png", "dogs/deep/img1.png"]
    commands.encode(str(bundle), str(folder), str(tmp_path / "z.npz"), "cpu")
    with np.load(tmp_path / "z.npz") as arrays:
        assert sorted(arrays) == ["latents", "names"]
        assert arrays["names"].tolist() == names
        latents = arrays["latents"]
    np.testing.assert_array_equal(latents, Autoencoder.load(bundle).encode(images[[0, 4, 0, 1, 2, 3]]))
    assert "Wrote 6 images" in commands.decode(str(bundle), str(tmp_path / "z.npz"), str(tmp_path / "y.npy"), "cpu")
    commands.encode(str(bundle), str(folder), str(tmp_path / "z.csv"), "cpu")
    with (tmp_path / "z.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "z0", "z1", "z2"]
    assert [row[0] for row in rows] == names
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), latents, "every digit is kept")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_in_files_are_escaped_where_they_are_no_utf_8(tmp_path, bundle, images):
    raw = io.BytesIO()
    pillow.fromarray(images[0, 0]).save(raw, "PNG")
    for name in (b"caf\xe9.png", '\u00e9,"\n.png'.encode()):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(raw.getvalue())
    for out in ("z.npz", "z.csv"):
        commands.encode(str(bundle), str(tmp_path), str(tmp_path / "out" / out), "cpu")
    names = {"caf\\xe9.png", '\u00e9,"\n.png'}
    assert set(np.load(tmp_path / "out" / "z.npz")["names"].tolist()) == names
    with (tmp_path / "out" / "z.csv").open(newline="", encoding="utf-8") as file:
        assert {row[0] for row in list(csv.reader(file))[1:]} == names


def test_arrays_have_numbers_for_names(tmp_path, bundle, images):
    np.save(tmp_path / "x.npy", images)
    commands.encode(str(bundle), str(tmp_path / "x.npy"), str(tmp_path / "z.csv"), "cpu")
    assert [line.split(",")[0] for line in (tmp_path / "z.csv").read_text().splitlines()] == [
        "name",
        *map(str, range(5)),
    ]
    commands.encode(str(bundle), str(tmp_path / "x.npy"), str(tmp_path / "z.npz"), "cpu")
    assert list(np.load(tmp_path / "z.npz")) == ["latents"]


def test_natural_order_does_not_depend_on_the_folder():
    names = ["img1.png", "img01.png", "IMG1.png", "img2.png", "img10.png"]
    assert len({str(natural_order(name)) for name in names}) == len(names), "no two names have the same place"
    assert sorted(names, key=natural_order)[-2:] == ["img2.png", "img10.png"]


@pytest.mark.slow
def test_mutated_pictures_and_arrays_are_read_or_refused():
    script = Path(__file__).parent / "fuzz_pictures.py"
    command = [sys.executable, str(script), "--cases", "1000", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1000 cases: \d{2,} read, \d{2,} refused\n", done.stdout), "neither kind is rare"
