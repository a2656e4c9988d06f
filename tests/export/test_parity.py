"""Limits that are measured, and checks that can fail."""

import copy

import numpy as np
import pytest
import torch
from edgeae_export.parity import NOISE_FACTOR, check_parity, make_reference, reconstruction_rise, torch_runner

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
