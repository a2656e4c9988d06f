"""Golden vectors of corners: read exactly, verified with limits of their own, and not asked of older bundles."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, BundleError, open_bundle, verify
from edgeae_runtime.parity import compare_each

NAMES = ["black", "white", "latent of zeros"]


@pytest.fixture
def with_corners(broken):
    """The committed bundle with three corners, whose answers are its own."""
    autoencoder = Autoencoder.load(broken)
    image = np.stack([np.zeros((1, 16, 16)), np.ones((1, 16, 16))]).astype(np.float32)
    latent = np.concatenate([autoencoder.encode(image), np.zeros((1, 3), np.float32)])
    arrays = {"corner_image": image, "corner_latent": latent, "corner_decoded": autoencoder.decode(latent)}
    limits = {
        "latent": {"max_abs": [1e-5, 1e-5]},
        "image": {"max_abs": [1e-5] * 3},
        "reconstruction": {"max_abs": [1e-5, 1e-5]},
    }
    return write(broken, arrays, {"names": NAMES, "images": 2, "limits": limits})


def write(folder, arrays, corners):
    """Put arrays beside the golden ones, and what the manifest says of them."""
    with np.load(folder / "golden.npz") as golden:
        kept = {name: golden[name] for name in golden.files if not name.startswith("corner")}
    buffer = io.BytesIO()
    np.savez(buffer, **kept, **arrays)
    (folder / "golden.npz").write_bytes(buffer.getvalue())
    document = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    document["golden"].update(bytes=len(buffer.getvalue()), sha256=digest, corners=corners)
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


def corner_arrays(folder):
    with np.load(folder / "golden.npz") as golden:
        return {name: golden[name] for name in golden.files if name.startswith("corner")}


def told(folder):
    return json.loads((folder / "manifest.json").read_text())["golden"]["corners"]


def test_a_sound_bundle_passes(with_corners):
    checks = verify(with_corners)
    assert [check.what for check in checks] == [
        "encoder latent", "decoder image", "round trip",
        "encoder latent, 2 corners", "decoder image, 3 corners", "round trip, 2 corners",
    ]  # fmt: skip
    assert all(check.passed for check in checks)
    golden = open_bundle(with_corners).read_golden()
    assert [len(golden.corners.image), len(golden.corners.latent), len(golden.corners.decoded)] == [2, 3, 3]


@pytest.mark.parametrize("row", range(3))
def test_one_wrong_corner_fails_and_is_named(with_corners, row):
    arrays = corner_arrays(with_corners)
    arrays["corner_decoded"][row] += 0.1
    failed = [check for check in verify(write(with_corners, arrays, told(with_corners))) if not check.passed]
    assert failed
    assert all(check.where.startswith(NAMES[row]) for check in failed)


def test_bundles_of_before_are_verified_without(bundle):
    assert open_bundle(bundle).read_golden().corners is None or open_bundle(bundle).manifest.golden_corners is not None
    assert all(check.passed for check in verify(bundle))


def test_one_half_alone_is_verified(with_corners):
    document = json.loads((with_corners / "manifest.json").read_text())
    del document["parts"]["decoder"]
    (with_corners / "manifest.json").write_text(json.dumps(document))
    checks = verify(with_corners)
    assert [check.what for check in checks] == ["encoder latent", "encoder latent, 2 corners"]
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(names=[]), "0 names"),
        (lambda c: c.update(names=["x"] * 65), "65 names"),
        (lambda c: c.update(images=4), "4 images"),
        (lambda c: c.update(images=-1), "-1 images"),
        (lambda c: c.update(images=True), "golden.corners.images"),
        (lambda c: c["limits"]["image"].update(max_abs=[1.0]), "expected 3"),
        (lambda c: c["limits"]["latent"].update(max_abs=[1.0] * 3), "expected 2"),
        (lambda c: c["limits"]["latent"].update(rmse=[1.0] * 2), "'rmse'"),
        (lambda c: c["limits"].update(other={}), "'other'"),
        (lambda c: c["limits"].update(image={}), "no limit"),
        (lambda c: c["limits"].pop("image"), "golden.corners.limits for image"),
        (lambda c: c["limits"].pop("latent"), "golden.corners.limits for latent"),
        (lambda c: c["limits"]["image"].update(max_abs=[1.0, "x", 1.0]), "finite number"),
    ],
)
def test_a_wrong_field_is_named(with_corners, change, words):
    corners = told(with_corners)
    change(corners)
    with pytest.raises(BundleError) as caught:
        open_bundle(write(with_corners, corner_arrays(with_corners), corners))
    assert words in str(caught.value)


def test_arrays_must_fit_the_manifest(with_corners):
    arrays = corner_arrays(with_corners)
    for name in arrays:
        wrong = {**arrays, name: arrays[name][:-1]}
        with pytest.raises(BundleError, match="has shape"):
            open_bundle(write(with_corners, wrong, told(with_corners))).read_golden()
        missing = {other: value for other, value in arrays.items() if other != name}
        with pytest.raises(BundleError, match=name):
            open_bundle(write(with_corners, missing, told(with_corners))).read_golden()
    arrays["corner_latent"][0, 0] = np.nan
    with pytest.raises(BundleError, match="not finite"):
        open_bundle(write(with_corners, arrays, told(with_corners))).read_golden()


def test_nothing_else_lies_in_the_archive(with_corners):
    arrays = {**corner_arrays(with_corners), "secret": np.zeros(3, np.float32)}
    with pytest.raises(BundleError, match=r"hold secret\.npy"):
        open_bundle(write(with_corners, arrays, told(with_corners))).read_golden()


def test_no_array_lies_there_twice(with_corners):
    path = with_corners / "golden.npz"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("image.npy", archive.read("image.npy"))
    document = json.loads((with_corners / "manifest.json").read_text())
    document["golden"].update(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    (with_corners / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="twice"):
        open_bundle(with_corners).read_golden()


def test_too_many_golden_images_are_refused(with_corners):
    with np.load(with_corners / "golden.npz") as golden:
        arrays = {name: np.repeat(golden[name], 5, axis=0) for name in ("image", "latent", "decoded")}
    np.savez(with_corners / "golden.npz", **arrays)
    raw = (with_corners / "golden.npz").read_bytes()
    document = json.loads((with_corners / "manifest.json").read_text())
    document["golden"].update(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest(), corners=None)
    (with_corners / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="1 to 64"):
        open_bundle(with_corners).read_golden()


def test_the_worst_row_is_the_one_nearest_to_its_limit():
    reference, measured = np.zeros((3, 2), np.float32), np.array([[0.5, 0], [0.1, 0], [0, 0]], np.float32)
    check = compare_each("x", ["a", "b", "c"], reference, measured, "max_abs", [1.0, 0.05, 1.0], 1.0)
    assert check.where.startswith("b, at [0]")
    assert not check.passed
    measured[2, 1] = np.nan
    for metric, limits in (("max_abs", [1.0, 0.2, 1.0]), ("psnr_db", [0.0] * 3)):
        check = compare_each("x", ["a", "b", "c"], reference, measured, metric, limits, 1.0)
        assert check.where.startswith("c")
        assert not check.passed
