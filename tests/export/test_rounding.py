"""Weights rounded by what the layer gives: nearer to it than the nearest steps, on inputs never seen."""

import numpy as np
import pytest
from edgeae_export.graph.running import runner
from edgeae_export.int8.placement import Sites
from edgeae_export.int8.rounding import round_weights
from edgeae_export.int8.weights import quantize_weight
from edgeae_export.targets import PRESETS
from edgeae_runtime.parity import mse
from onnx import numpy_helper

from tests.export.graphs import graph, weights

RNG = np.random.default_rng(3)
GAIN = 0.75
"""Correlated inputs leave rounded weights at most this share of the squared error of the nearest steps (measured: 0.19
for the volume to 0.61 for a dense layer)."""


def smooth(*shape):
    """Inputs whose neighbours are alike, as those of pictures are."""
    noise = RNG.standard_normal(shape).astype(np.float32)
    for axis in range(1, len(shape)):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    return noise


def with_weight(model, quantized, axis):
    """The float graph with a layer's weight as the 8 bits stand for it."""
    scale = quantized.scale.astype(np.float64)
    zero = quantized.zero.astype(np.float64)
    shape = [-1 if index == axis else 1 for index in range(quantized.values.ndim)] if scale.ndim else ()
    value = (quantized.values - zero.reshape(shape)) * scale.reshape(shape)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            stored = numpy_helper.to_array(tensor)
            value = value.T if value.shape != stored.shape else value
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), "w"))
    return model


LAYERS = {
    "conv": (("Conv", {"pads": [1] * 4, "strides": [2, 1]}), [16, 10, 9], (24, 16, 3, 3), 0),
    "dilated": (("Conv", {"dilations": [2, 2]}), [16, 10, 9], (24, 16, 3, 3), 0),
    "grouped": (("Conv", {"group": 2, "pads": [1] * 4}), [16, 10, 9], (24, 8, 3, 3), 0),
    "signal": (("Conv", {"pads": [2, 2]}), [16, 40], (24, 16, 5), 0),
    "volume": (("Conv", {}), [8, 6, 7, 5], (24, 8, 3, 3, 3), 0),
    "gemm": (("Gemm", {}), [80], (80, 24), 1),
    "gemm, transposed": (("Gemm", {"transB": 1}), [80], (24, 80), 1),
    "tokens": (("MatMul", {}), [12, 80], (80, 24), 1),
}


@pytest.mark.parametrize("target", ["x86-vnni", "x86-avx2", "x86-amx"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_is_nearer_than_with_the_nearest_steps(name, target):
    (op, attributes), shape, size, axis = LAYERS[name]
    model = graph([(op, ["x", "w"], ["y"], attributes)], shape, {"w": weights(RNG, *size)})
    machine = PRESETS[target]
    rounded = round_weights(model, Sites(("y",), {}, ()), smooth(200, *shape), machine)["y"]
    weight = numpy_helper.to_array(model.graph.initializer[0])
    nearest = quantize_weight(weight.T if attributes.get("transB") else weight, axis, machine)
    assert np.array_equal(rounded.scale, nearest.scale)
    top = (1 << (machine.weight_bits - 1)) - 1
    assert np.abs(rounded.values.astype(int)).max() <= top + (not machine.per_channel)
    fresh = smooth(50, *shape)
    exact = runner(model)(fresh)
    errors = []
    for each in (rounded, nearest):
        stored = with_weight(graph([(op, ["x", "w"], ["y"], attributes)], shape, {"w": weight}), each, axis)
        errors.append(mse(exact, runner(stored)(fresh)))
    assert errors[0] <= GAIN * errors[1]


def test_inputs_of_zeros_leave_the_nearest_steps():
    model = graph([("Gemm", ["x", "w"], ["y"], {})], [40], {"w": weights(RNG, 40, 8)})
    rounded = round_weights(model, Sites(("y",), {}, ()), np.zeros((9, 40), np.float32), PRESETS["x86-vnni"])["y"]
    nearest = quantize_weight(numpy_helper.to_array(model.graph.initializer[0]), 1, PRESETS["x86-vnni"])
    assert np.array_equal(rounded.values, nearest.values)


def test_wide_weights_are_cut(monkeypatch):
    monkeypatch.setattr("edgeae_export.int8.rounding.MOST_COLUMNS", 32)
    test_the_layer_is_nearer_than_with_the_nearest_steps("gemm", "x86-vnni")
