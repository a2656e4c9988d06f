"""Static int8: scales, weights, and graphs whose layers really run in 8 bits."""

import numpy as np
import onnx
import pytest
from edgeae_export.graph.editing import closed, opened
from edgeae_export.graph.executed import executed_layers, optimized
from edgeae_export.graph.running import runner
from edgeae_export.int8.calibration import calibrate
from edgeae_export.int8.float16_weights import store_in_float16
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.quantize import ActivationScale, quantize
from edgeae_export.int8.ranges import starting_ranges
from edgeae_export.int8.weights import quantize_weight
from edgeae_export.targets import PRESETS
from edgeae_runtime.parity import psnr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from tests.export.graphs import graph, operators, weights

RNG = np.random.default_rng(0)
FAITHFUL_DB = 30.0
"""Two or three layers of random weights at 8 bits stay well above; a wrong scale or zero point falls far below."""
numbers = st.floats(-1e4, 1e4, width=32)


@given(low=numbers, high=numbers)
def test_an_activation_scale_holds_zero_exactly_and_rounds_by_half_a_step(low, high):
    low, high = min(low, high), max(low, high)
    scale = ActivationScale.of(low, high)
    values = np.linspace(min(low, 0), max(high, 0), 37)
    stored = np.clip(np.rint(values / scale.scale) + scale.zero, 0, 255)
    back = (stored - scale.zero) * np.float64(scale.scale)
    np.testing.assert_array_less(
        np.abs(back - values), 1.01 * scale.scale
    )  # half for rounding, half for the zero point


@settings(max_examples=60)
@given(
    weight=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=numbers),
    target=st.sampled_from(sorted(PRESETS)),
)
def test_a_weight_in_eight_bits_is_within_half_a_step(weight, target):
    for axis in (0, 1):
        quantized = quantize_weight(weight, axis, PRESETS[target])
        shape = [-1 if index == axis else 1 for index in range(weight.ndim)] if quantized.scale.ndim else ()
        scale = quantized.scale.astype(np.float64).reshape(shape)
        back = (quantized.values.astype(np.float64) - quantized.zero.astype(np.float64).reshape(shape)) * scale
        assert (np.abs(back - weight) <= 1.01 * scale + 1e-30).all()
        top = (1 << (PRESETS[target].weight_bits - 1)) - 1
        assert np.abs(quantized.values.astype(int)).max() <= top + (not PRESETS[target].per_channel)


def test_a_large_bias_on_a_small_channel_does_not_overflow():
    weight = np.array([[1e-6, 1.0]], np.float32).T[:, :, None, None]
    quantized = quantize_weight(weight, 0, PRESETS["x86-vnni"], smallest=np.array([1e3 / 2**30, 1e3 / 2**30]))
    assert 1e3 / quantized.scale.min() <= 2**30 * 1.001


def int8(model, x, target="x86-vnni"):
    """The graph in int8, calibrated on `x` from its extremes."""
    sites = find_sites(model)
    ranges = starting_ranges(model, sites, calibrate(model, sites.tensors, x), 100.0)
    return quantize(model, sites, ranges, PRESETS[target]), sites


def check(model, x, kernels, target="x86-vnni"):
    """It is near the float graph, and these int8 kernels run."""
    quantized, _ = int8(model, x, target)
    exact, measured = runner(model)(x), runner(quantized)(x)
    assert not np.array_equal(exact, measured)
    assert psnr(exact, measured, float(np.ptp(exact))) > FAITHFUL_DB
    assert [layer.op for layer in executed_layers(quantized)] == kernels
    return quantized


def convolutions(activation, channels=16):
    nodes = [
        ("Conv", ["x", "w1", "b1"], ["c1"], {"pads": [1] * 4}),
        (activation, ["c1"], ["a1"], {}),
        ("Conv", ["a1", "w2"], ["c2"], {"pads": [1] * 4, "strides": [2, 2]}),
        (activation, ["c2"], ["y"], {}),
    ]
    constants = {
        "w1": weights(RNG, channels, 8, 3, 3), "b1": weights(RNG, channels), "w2": weights(RNG, 8, channels, 3, 3),
    }  # fmt: skip
    return graph(nodes, [8, 8, 8], constants), weights(RNG, 20, 8, 8, 8)


@pytest.mark.parametrize("target", sorted(PRESETS))
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Sigmoid", "Identity"])
def test_convolutions_run_in_int8(activation, target):
    model, x = convolutions(activation)
    check(model, x, ["QLinearConv", "QLinearConv"], target)


def test_targets_differ_in_their_weights():
    model, x = convolutions("Relu")
    stored = {}
    for name in PRESETS:
        quantized, _ = int8(model, x, name)
        tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
        stored[name] = numpy_helper.to_array(tensors["c1_weight_int8"])
        few, many = (numpy_helper.to_array(tensors[f"{layer}_weight_scale"]).size for layer in ("c1", "c2"))
        assert (few, many) == (16, 1 if name == "x86-amx" else 8)  # of 72 and of 144 products per output
    assert np.abs(stored["x86-avx2"]).max() <= 63  # 7 bits: sums of products do not saturate in 16 bits
    assert np.abs(stored["x86-vnni"]).max() == 127


def test_matrix_products_run_in_int8():
    nodes = [
        ("Relu", ["x"], ["h"], {}),
        ("MatMul", ["h", "w"], ["m"], {}),
        ("Relu", ["m"], ["r"], {}),
        ("Gemm", ["r", "v", "b"], ["y"], {"transB": 1}),
    ]
    constants = {"w": weights(RNG, 64, 48), "v": weights(RNG, 40, 48), "b": weights(RNG, 40)}
    check(graph(nodes, [64], constants), weights(RNG, 30, 64), ["QLinearMatMul", "QGemm"])


def test_a_gemm_before_an_activation_runs_in_int8():
    # ONNX Runtime would fuse the two in float, were the activation not quantised.
    nodes = [("Gemm", ["x", "w", "b"], ["g"], {}), ("Relu", ["g"], ["h"], {}), ("Tanh", ["h"], ["y"], {})]
    constants = {"w": weights(RNG, 64, 48) / 8, "b": weights(RNG, 48)}
    check(graph(nodes, [64], constants), weights(RNG, 30, 64), ["QGemm"])


def test_a_product_that_is_not_quantised_again_gives_floats():
    nodes = [("Relu", ["x"], ["h"], {}), ("MatMul", ["h", "w"], ["m"], {}), ("Tanh", ["m"], ["y"], {})]
    check(graph(nodes, [64], {"w": weights(RNG, 64, 48) / 8}), weights(RNG, 30, 64), ["MatMulIntegerToFloat"])


def test_tensors_that_are_joined_share_a_scale_and_move_as_bytes():
    nodes = [
        ("Conv", ["x", "w1"], ["c1"], {}),
        ("Relu", ["c1"], ["a1"], {}),
        ("Conv", ["x", "w2"], ["c2"], {}),
        ("Relu", ["c2"], ["a2"], {}),
        ("Concat", ["a1", "a2"], ["both"], {"axis": 1}),
        ("DepthToSpace", ["both"], ["big"], {"blocksize": 2}),
        ("Conv", ["big", "w3"], ["y"], {}),
    ]
    constants = {"w1": weights(RNG, 8, 8, 1, 1), "w2": 9 * weights(RNG, 8, 8, 1, 1), "w3": weights(RNG, 8, 4, 3, 3)}
    model, x = graph(nodes, [8, 6, 6], constants), weights(RNG, 20, 8, 6, 6)
    assert ("a1", "a2") in find_sites(model).groups
    quantized = check(model, x, ["QLinearConv"] * 3)
    quantised_by = {node.output[0]: node.input[1] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised_by["a1_quantized"] == quantised_by["a2_quantized"]
    concat = next(node for node in quantized.graph.node if node.op_type == "Concat")
    assert all(name.endswith("_quantized") for name in concat.input)


def test_a_residual_block_runs_in_int8():
    nodes = [
        ("Conv", ["x", "w0"], ["c0"], {"pads": [1] * 4}),
        ("Relu", ["c0"], ["a0"], {}),
        ("Conv", ["a0", "w1"], ["c1"], {"pads": [1] * 4}),
        ("Add", ["a0", "c1"], ["s"], {}),
        ("Relu", ["s"], ["a1"], {}),
        ("Conv", ["a1", "w2"], ["y"], {}),
    ]
    constants = {f"w{i}": weights(RNG, 8, 8, 3, 3) for i in range(3)}
    check(graph(nodes, [8, 8, 8], constants), weights(RNG, 20, 8, 8, 8), ["QLinearConv"] * 3)


def test_which_layers_stay_in_float_and_why():
    nodes = [
        ("Gemm", ["x", "a"], ["flat"], {}),
        ("Reshape", ["flat", "shape"], ["map"], {}),
        ("ConvTranspose", ["map", "up"], ["big"], {"strides": [2, 2]}),
        ("Conv", ["big", "w"], ["body"], {"pads": [1] * 4}),
        ("GlobalAveragePool", ["body"], ["mean"], {}),
        ("Conv", ["mean", "last"], ["y"], {}),
    ]
    constants = {
        "a": weights(RNG, 4, 256), "shape": np.array([-1, 16, 4, 4]), "up": weights(RNG, 16, 32, 2, 2),
        "w": weights(RNG, 64, 32, 3, 3), "last": weights(RNG, 1, 64, 1, 1),
    }  # fmt: skip
    sites = find_sites(graph(nodes, [4], constants))
    assert sites.layers == ("body",)
    assert "only 4 numbers" in sites.kept["flat"]
    assert "no int8 ConvTranspose" in sites.kept["big"]
    assert "small part" in sites.kept["y"]
    assert list(sites.kept) == ["flat", "big", "y"]
    kept = find_sites(graph(nodes, [4], constants), frozenset({"body"}))
    assert kept.layers == ()
    assert "max-drop" in kept.kept["body"]


def test_few_channels_and_weights_that_are_computed_stay_in_float():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Relu", ["w"], ["computed"], {}),
        ("Conv", ["x", "computed"], ["d"], {}),
        ("Add", ["c", "d"], ["y"], {}),
    ]
    sites = find_sites(graph(nodes, [3, 6, 6], {"w": weights(RNG, 8, 3, 3, 3)}))
    assert sites.layers == ()
    assert "by fours" in sites.kept["c"]
    assert "not constant" in sites.kept["d"]


def test_an_activation_that_is_also_an_output_stays_one():
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Relu", ["c"], ["h"], {}), ("Conv", ["h", "v"], ["y"], {})]
    constants = {"w": weights(RNG, 8, 8, 1, 1), "v": weights(RNG, 8, 8, 1, 1)}
    model = graph(nodes, [8, 4, 4], constants, outputs=("y", "h"))
    quantized, _ = int8(model, weights(RNG, 9, 8, 4, 4))
    assert [value.name for value in quantized.graph.output] == ["y", "h"]
    assert "QuantizeLinear" in operators(quantized)


def test_ranges_come_from_the_calibration_inputs():
    model, x = convolutions("Relu")
    exact, (good, _), (poor, _) = runner(model)(x), int8(model, x), int8(model, x * 0.02)
    peak = float(np.ptp(exact))
    assert psnr(exact, runner(good)(x), peak) > psnr(exact, runner(poor)(x), peak) + 10


def half_stored(model):
    return [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]


def latent_decoder(first, bias):
    """A Gemm from 4 numbers, which stays in float, and a Conv."""
    nodes = [
        ("Gemm", ["x", "a", "c"], ["flat"], {}),
        ("Relu", ["flat"], ["h"], {}),
        ("Reshape", ["h", "shape"], ["map"], {}),
        ("Conv", ["map", "w"], ["y"], {"pads": [1] * 4}),
    ]
    constants = {"a": first, "c": bias, "shape": np.array([-1, 16, 8, 8]), "w": weights(RNG, 16, 16, 3, 3) / 12}
    return graph(nodes, [4], constants)


def test_float_weights_beside_int8_are_stored_in_half():
    model, x = latent_decoder(weights(RNG, 4, 1024), weights(RNG, 1024)), weights(RNG, 40, 4)
    quantized = check(model, x, ["Gemm", "QLinearConv"])
    assert half_stored(quantized) == ["a_half", "c_half"]
    assert "Cast" not in [node.op_type for node in optimized(quantized).graph.node]  # evaluated at load


@pytest.mark.parametrize("unit", [1e-8, 1e-6, 1e6])
def test_weights_that_half_precision_would_lose_stay_as_they_are(unit):
    # One column in a unit of its own is enough: its outputs, or what its input gives, would lose bits or vanish.
    first = weights(RNG, 4, 1024)
    for axis in (0, 1):
        scaled = first.copy()
        scaled[(slice(None), 7) if axis else (2, slice(None))] *= unit
        x = weights(RNG, 40, 4)
        assert "a_half" not in half_stored(int8(latent_decoder(scaled, weights(RNG, 1024)), x)[0])


def test_a_bias_that_the_next_rounding_would_show_stays_as_it_is():
    x, first = weights(RNG, 40, 4), weights(RNG, 4, 1024) / 100
    offset = np.float32(300.0)  # of which half precision keeps steps of 0.25, and the layer varies by a few hundredths
    model = latent_decoder(first, np.where(np.arange(1024) % 2, offset, 0).astype(np.float32) + weights(RNG, 1024))
    assert half_stored(int8(model, x)[0]) == ["a_half", "c_half"]  # the steps are as coarse: more than 1
    alone = graph([("Gemm", ["x", "a", "c"], ["y"], {})], [4], {"a": first, "c": weights(RNG, 1024) + offset})
    opened_alone = opened(alone)
    store_in_float16(opened_alone.graph)
    assert half_stored(closed(opened_alone)) == ["a_half"]


def test_layers_that_share_a_weight_store_it_once():
    nodes = [("Conv", ["x", "w", "b"], ["c1"], {"pads": [1] * 4})]
    nodes += [("Relu", ["c1"], ["h"], {}), ("Conv", ["h", "w", "b"], ["y"], {"pads": [1] * 4})]
    model = graph(nodes, [16, 8, 8], {"w": weights(RNG, 16, 16, 3, 3) / 12, "b": weights(RNG, 16)})
    quantized = check(model, weights(RNG, 20, 16, 8, 8), ["QLinearConv", "QLinearConv"])
    large = [tensor for tensor in quantized.graph.initializer if np.prod(tensor.dims) == 16 * 16 * 9]
    assert len(large) == 1


def test_recurrent_layers_are_told_among_those_in_float():
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "w", "r"], ["states", "last"], {"hidden_size": 8}),
        ("Squeeze", ["last", "axis"], ["h"], {}),
        ("Gemm", ["h", "v"], ["g"], {}),
        ("Gemm", ["g", "u"], ["y"], {}),
    ]
    constants = {
        "w": weights(RNG, 1, 24, 5), "r": weights(RNG, 1, 24, 8), "axis": np.array([0]), "v": weights(RNG, 8, 64),
        "u": weights(RNG, 64, 64),
    }  # fmt: skip
    sites = find_sites(graph(nodes, [6, 5], constants))
    assert "no int8 GRU" in sites.kept["states"]
    assert sites.layers == ("y",)


def test_what_the_plain_recipe_leaves_in_float_is_told_as_float():
    # Pairs around a ConvTranspose are a wish: it runs in float, and the list of executed layers says so.
    nodes = [("ConvTranspose", ["x", "w"], ["y"], {"strides": [2, 2]})]
    layers = executed_layers(graph(nodes, [8, 4, 4], {"w": weights(RNG, 8, 8, 2, 2)}))
    assert [(layer.op, layer.precision) for layer in layers] == [("ConvTranspose", "float32")]
