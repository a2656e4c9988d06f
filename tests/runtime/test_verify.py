"""Parity without torch, and the arithmetic behind it."""

import math

import numpy as np
import pytest
from edgeae_runtime import Check, IntegrityError, ParityError, verify
from edgeae_runtime.parity import compare, in_batches, max_abs, mse, psnr, require, worst_element


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sound_bundle_passes(bundle, int8_bundle, threads):
    for path in (bundle, int8_bundle):
        checks = verify(path, threads=threads)
        assert [check.what for check in checks] == ["encoder latent", "decoder image", "round trip"]
        assert all(check.passed for check in checks)


def test_a_graph_that_computes_something_else_fails(replace_file, int8_bundle):
    # Whole and well-formed, with the right hash: only replaying the golden vectors can tell.
    checks = verify(replace_file("decoder.onnx", (int8_bundle / "decoder.onnx").read_bytes()))
    failed = [check.what for check in checks if not check.passed]
    assert failed == ["decoder image", "round trip"]
    with pytest.raises(ParityError, match=r"2 of 3 checks.*decoder image.*Do this"):
        require(checks, "Do this.")


def test_hashes_are_checked_too(broken):
    raw = bytearray((broken / "golden.npz").read_bytes())
    raw[-1] ^= 255
    (broken / "golden.npz").write_bytes(raw)
    with pytest.raises(IntegrityError):
        verify(broken)


def test_a_check_never_passes_on_nan():
    for metric in ("max_abs", "psnr_db", "error_rise"):
        assert not Check("x", metric, math.nan, 1.0).passed


def test_metrics():
    a = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    b = a.copy()
    b[1, 0] -= 0.1
    assert max_abs(a, b) == pytest.approx(0.1, abs=1e-7)
    assert mse(a, b) == pytest.approx(0.01 / 4, rel=1e-6)
    assert psnr(a, b) == pytest.approx(10 * math.log10(1 / (0.01 / 4)), rel=1e-6)
    assert psnr(a, b, peak=2) == pytest.approx(psnr(a, b) + 20 * math.log10(2))
    assert psnr(a, a) == math.inf
    assert worst_element(a, b) == "at [1, 0]: 0.9 for 1"
    assert math.isnan(max_abs(a, np.full_like(a, np.nan)))
    assert math.isnan(psnr(a, np.full_like(a, np.nan)))


def test_psnr_agrees_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="the independent oracle is a development dependency")
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 3, 8, 8), dtype=np.float32)
    assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=1.0), rel=1e-6)


def test_other_shapes_never_pass():
    a, b = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
    for metric, limit in (("max_abs", 1e9), ("psnr_db", -1e9)):
        check = compare("x", a, b, metric, limit, 1.0)
        assert not check.passed
        assert "shape [2, 4] instead of [2, 3]" in check.where


def test_batches_cover_every_row_once():
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return batch * 2

    inputs = np.arange(20, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(in_batches(run, inputs), inputs * 2)
    assert sizes == [1, 2, 3, 7, 1, 2, 3, 1]
