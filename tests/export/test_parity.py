"""Limits that are measured, and checks that can fail."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from edgeae_export.modules.noise import NOISE_FACTOR
from edgeae_export.modules.running import torch_runner
from edgeae_export.parity import INT8_ERROR_RISE, Int8Limits, _error_rise, check_parity, reconstruction_rise
from edgeae_export.reference import make_reference
from edgeae_runtime.errors import BundleError
from edgeae_runtime.files.documents import Entries

FLOAT32 = {"encoder": "float32", "decoder": "float32"}
INT8 = {"encoder": "int8", "decoder": "int8"}


@pytest.fixture
def reference(model, images):
    return make_reference(model.encoder, model.decoder, images.astype(np.float32) / 255)


def test_the_noise_floor_is_a_few_roundings(reference):
    eps = np.finfo(np.float32).eps
    for output, values in (("latent", reference.latents), ("image", reference.decoded)):
        assert eps * np.abs(values).max() <= reference.noise[output] < 1e-5


def test_torch_itself_passes(model, reference):
    checks = check_parity(reference, torch_runner(model.encoder), torch_runner(model.decoder), FLOAT32)
    assert len(checks) == 3 * 4
    assert all(check.passed for check in checks)
    assert {check.what.split(", ")[1] for check in checks} == {"batch 1", "batch 2", "batch 3", "batch 7"}
    assert all(check.limit == NOISE_FACTOR * reference.noise["latent"] for check in checks[:4])


def test_a_model_with_one_weight_moved_fails(model, reference):
    other = copy.deepcopy(model.decoder)
    with torch.no_grad():
        other[2].weight[0, 0, 0, 0] += 1e-3
    checks = check_parity(reference, torch_runner(model.encoder), torch_runner(other), FLOAT32)
    assert all(check.passed for check in checks if check.what.startswith("encoder"))
    assert not any(check.passed for check in checks if not check.what.startswith("encoder"))
    assert all(check.where.startswith("at [") for check in checks)


def test_int8_is_judged_by_fidelity_on_all_images(model, reference):
    def noisy(run, amount):
        return lambda batch: run(batch) + amount * np.sign(np.sin(1e4 * run(batch)))

    decode = torch_runner(model.decoder)
    good = check_parity(reference, torch_runner(model.encoder), noisy(decode, 0.01), INT8)  # 40 dB
    assert all(check.passed for check in good)
    assert {check.metric for check in good} == {"psnr_db", "error_rise"}
    bad = check_parity(reference, torch_runner(model.encoder), noisy(decode, 0.1), INT8)  # 20 dB
    assert not all(check.passed for check in bad if check.what.startswith("decoder"))
    assert not next(check for check in bad if check.metric == "error_rise").passed


def test_reconstruction_rise():
    images = np.zeros((2, 4), np.float32)
    assert reconstruction_rise(images, images + 0.1, images + 0.1) == 0
    assert reconstruction_rise(images, images + 0.1, images + 0.2) == pytest.approx(3, rel=1e-5)
    assert reconstruction_rise(images, images, images) == np.inf


@pytest.mark.parametrize(("amount", "passes"), [(0.003, True), (0.02, False)])  # 50 dB and 34 dB
def test_a_near_lossless_model_is_judged_by_psnr_too(reference, amount, passes):
    own_error = 1e-4 * np.sign(np.sin(1e5 * reference.decoded))
    lossless = dataclasses.replace(reference, images=reference.decoded + own_error)
    decoded = reference.decoded + amount * np.sign(np.sin(1e4 * reference.decoded))
    check = _error_rise(lossless, decoded, INT8_ERROR_RISE)
    assert check.passed == passes
    assert ("error +" if passes else "dB against float32") in check.where  # the other figure
    assert check.metric == ("psnr_db" if passes else "error_rise")


def test_a_rise_within_its_limit_is_told_as_such(reference):
    check = _error_rise(reference, reference.decoded, INT8_ERROR_RISE)
    assert (check.metric, check.measured, check.where, check.passed) == ("error_rise", 0.0, "", True)


def test_other_limits_hold_instead(model, reference):
    decode = torch_runner(model.decoder)
    noisy = lambda batch: decode(batch) + 0.03 * np.sign(np.sin(1e4 * decode(batch)))  # noqa: E731 30.5 dB

    def failed(limits):
        checks = check_parity(reference, torch_runner(model.encoder), noisy, INT8, limits=limits)
        return {check.what.split(",")[0] for check in checks if not check.passed}

    assert failed(Int8Limits(30, 30, None)) == set()
    assert failed(Int8Limits(30, 35, None)) == {"round trip"}  # whole set only: a few images have their allowance
    assert failed(Int8Limits(35, 20, None)) == {"decoder image"}
    assert failed(Int8Limits(10, 10, 1e-4)) == {"reconstruction error"}


@pytest.mark.parametrize(
    ("document", "limits"),
    [
        ({}, Int8Limits()),
        ({"part_psnr_db": 25.0, "round_trip_psnr_db": 24.0, "error_rise": None}, Int8Limits(25.0, 24.0, None)),
        (dataclasses.asdict(Int8Limits(error_rise=0.2)) | {"of later versions": 1}, Int8Limits(error_rise=0.2)),
    ],
)
def test_limits_are_read_from_a_manifest(document, limits):
    assert Int8Limits.of(Entries(document, BundleError)) == limits


@pytest.mark.parametrize("wrong", ["0.05", True, 10**400, [1]])
def test_limits_that_are_no_numbers_are_refused(wrong):
    for name in dataclasses.asdict(Int8Limits()):
        with pytest.raises(BundleError, match=name):
            Int8Limits.of(Entries({name: wrong}, BundleError))
