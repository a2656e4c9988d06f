"""int8 that is int8: weights in 8 bits, ranges from real inputs, a smaller file."""

import numpy as np
import pytest
import torch
from edgeae_export.graph import runner
from edgeae_export.quantize import QuantizationRecipe, layer_precisions, quantize
from edgeae_export.trace import trace
from edgeae_runtime import InputError
from edgeae_runtime.parity import psnr
from torch import nn


@pytest.fixture
def graph(model):
    return trace(model.encoder, torch.zeros(2, 1, 16, 16), "image", "latent")


@pytest.fixture
def inputs(images):
    return images.astype(np.float32) / 255


def test_layers_are_stored_in_eight_bits(graph, inputs):
    assert {precision for _, _, precision in layer_precisions(graph)} == {"float32"}
    quantized = quantize(graph, inputs)
    assert [(op, precision) for _, op, precision in layer_precisions(quantized)] == [
        ("Conv", "int8"),
        ("Conv", "int8"),
        ("Gemm", "int8"),
    ]
    assert {entry.domain for entry in quantized.opset_import} <= {"", "com.microsoft"}


def test_outputs_stay_near(graph, inputs):
    exact, approximate = runner(graph)(inputs), runner(quantize(graph, inputs))(inputs)
    assert not np.array_equal(exact, approximate)
    assert psnr(exact, approximate, float(np.ptp(exact))) > 25  # 8 bits of ten layers lose no more here


def test_ranges_come_from_the_calibration_inputs(graph, inputs):
    # Calibrated on nearly black images, bright ones saturate: the calibration is really used.
    good, poor = quantize(graph, inputs), quantize(graph, inputs * 0.02)
    exact = runner(graph)(inputs)
    peak = float(np.ptp(exact))
    assert psnr(exact, runner(good)(inputs), peak) > psnr(exact, runner(poor)(inputs), peak) + 6


def test_calibration_is_fed_in_batches(graph, inputs):
    whole = quantize(graph, inputs, QuantizationRecipe(batch=len(inputs)))
    split = quantize(graph, inputs, QuantizationRecipe(batch=7))
    np.testing.assert_array_equal(runner(whole)(inputs), runner(split)(inputs))


def test_nothing_to_quantise_is_an_error(inputs):
    plain = trace(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.zeros(2, 1, 16, 16), "image", "latent")
    with pytest.raises(InputError, match="Nothing in the graph could be quantised"):
        quantize(plain, inputs)


def test_no_calibration_inputs(graph, inputs):
    with pytest.raises(InputError, match="no calibration inputs"):
        quantize(graph, inputs[:0])
