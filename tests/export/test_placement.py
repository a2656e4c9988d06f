"""What is planned in int8 runs in int8, and no weight is dequantised on a call: layers times activations."""

import numpy as np
import pytest
from edgeae_export.graph.executed import dequantized_weights, executed_layers, optimized
from edgeae_export.graph.running import runner
from edgeae_export.int8 import placement as sites_module
from edgeae_export.int8.as_executed import settled
from edgeae_export.int8.calibration import calibrate
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.ranges import starting_ranges
from edgeae_export.rewrites.plans import fold
from edgeae_export.targets import PRESETS
from edgeae_runtime.parity import psnr

from tests.export.graphs import graph, weights

RNG = np.random.default_rng(0)
FAITHFUL_DB = 30.0
"""Two layers of random weights at 8 bits measured 46 to 58 dB."""


def activation(kind, source, target):
    """Nodes and constants of an activation function as torch's exporter writes it."""
    limits = {"ReLU6": (0, 6), "Clip": (-1, 1), "Ceiling": (None, 1), "Floor": (-0.3, None)}
    if kind in limits:
        names = [
            f"{target}_{side}" if limit is not None else "" for side, limit in zip("lh", limits[kind], strict=True)
        ]
        constants = {name: np.float32(limit) for name, limit in zip(names, limits[kind], strict=True) if name}
        return [("Clip", [source, *names], [target], {})], constants
    if kind == "SiLU":
        nodes = [("Sigmoid", [source], [f"{target}_s"], {}), ("Mul", [source, f"{target}_s"], [target], {})]
        return nodes, {}
    if kind == "GELU":
        names = [f"{target}_{step}" for step in "deam"]
        half, one, root = (f"{target}_{what}" for what in ("half", "one", "root"))
        nodes = [
            ("Div", [source, root], [names[0]], {}),
            ("Erf", [names[0]], [names[1]], {}),
            ("Add", [names[1], one], [names[2]], {}),
            ("Mul", [source, names[2]], [names[3]], {}),
            ("Mul", [names[3], half], [target], {}),
        ]
        return nodes, {half: np.float32(0.5), one: np.float32(1), root: np.float32(2**0.5)}
    if kind == "PRelu":
        return [("PRelu", [source, f"{target}_slope"], [target], {})], {f"{target}_slope": np.float32([0.25])}
    return [(kind, [source], [target], {})], {}


KINDS = ("Identity", "Relu", "ReLU6", "Clip", "Ceiling", "Floor", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "SiLU",
         "GELU", "Elu", "PRelu", "Softplus")  # fmt: skip


def layer(form, index, source, target):
    """One layer of 32 channels: nodes and constants."""
    weight, bias = f"w{index}", f"b{index}"
    constants = {weight: weights(RNG, 32, 32) / 6, bias: weights(RNG, 32) / 4}
    if form in ("MatMul", "MatMul of tokens"):
        product = f"{target}_product"
        return [("MatMul", [source, weight], [product], {}), ("Add", [bias, product], [target], {})], constants
    if form == "MatMul without bias":
        return [("MatMul", [source, weight], [target], {})], {weight: constants[weight]}
    if form == "Gemm":
        return [("Gemm", [source, weight, bias], [target], {"transB": 1})], constants
    if form == "Gemm without bias":
        return [("Gemm", [source, weight], [target], {})], {weight: constants[weight]}
    rank = int(form[-2])
    constants[weight] = weights(RNG, 32, 32, *[3] * rank) / (32 * 3**rank) ** 0.5
    return [("Conv", [source, weight, bias], [target], {"pads": [1] * 2 * rank})], constants


SHAPES = {
    "Gemm": [32], "Gemm without bias": [32], "MatMul": [32], "MatMul without bias": [32], "MatMul of tokens": [9, 32],
    "Conv 1D": [32, 16], "Conv 2D": [32, 6, 6], "Conv 3D": [32, 3, 3, 3],
}  # fmt: skip


def two_layers(form, kind, outputs=("y",)):
    nodes, constants = [], {}
    for index, (source, target) in enumerate((("x", "h"), ("h", "y"))):
        for made, values in (
            layer(form, index, source, f"l{index}"),
            activation(kind, f"l{index}", target),
        ):
            nodes += made
            constants |= values
    return graph(nodes, SHAPES[form], constants, outputs), weights(RNG, 24, *SHAPES[form])


def settle(model, x):
    """The folded graph's places, its int8 graph, and the folded graph."""
    folded, _ = fold(model)
    sites = find_sites(folded)
    ranges = starting_ranges(folded, sites, calibrate(folded, sites.tensors, x), 100.0)
    sites, _, quantized = settled(folded, sites, ranges, PRESETS["x86-vnni"])
    return sites, quantized, folded


def check_agreement(sites, quantized):
    """Planned, executed and told are the same, and nothing is dequantised on a call that could have been before."""
    executed = {layer.name: layer.precision for layer in executed_layers(quantized)}
    assert {name for name, precision in executed.items() if precision == "int8"} == set(sites.layers)
    assert {name for name, precision in executed.items() if precision != "int8"} == set(sites.kept)
    assert dequantized_weights(optimized(quantized)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", SHAPES)
def test_planned_layers_are_executed_layers(form, kind):
    model, x = two_layers(form, kind)
    sites, quantized, folded = settle(model, x)
    check_agreement(sites, quantized)
    assert len(sites.layers) == 2, sites.kept  # every one of these forms has an int8 kernel
    exact, measured = runner(folded)(x), runner(quantized)(x)
    assert psnr(exact, measured, float(np.ptp(exact))) > FAITHFUL_DB


@pytest.mark.parametrize("kind", ["Identity", "Relu", "Clip", "Tanh"])
@pytest.mark.parametrize("form", SHAPES)
def test_layers_whose_outputs_are_outputs_of_the_graph(form, kind):
    model, x = two_layers(form, kind, outputs=("y", "h", "l0"))
    sites, quantized, _ = settle(model, x)
    check_agreement(sites, quantized)
    assert [value.name for value in quantized.graph.output] == ["y", "h", "l0"]


@pytest.mark.parametrize("form", ["Conv 2D", "Conv 1D", "Gemm", "MatMul", "MatMul without bias"])
@pytest.mark.parametrize("kind", ["Relu", "Clip", "LeakyRelu", "SiLU"])
def test_residual_sums_and_shared_weights(form, kind):
    nodes, constants = [], {}
    for index, (source, target) in enumerate((("x", "h0"), ("h0", "h1"), ("s0", "h2"), ("h2", "y"))):
        made, values = layer(form, min(index, 2), source, f"l{index}")  # the last two share their weights
        nodes += made
        constants |= values
        if index == 1:
            nodes.append(("Add", [f"l{index}", "h0"], [target], {}))
            made, values = activation(kind, target, "s0")
        else:
            made, values = activation(kind, f"l{index}", target)
        nodes += made
        constants |= values
    model, x = graph(nodes, SHAPES[form], constants), weights(RNG, 24, *SHAPES[form])
    sites, quantized, folded = settle(model, x)
    check_agreement(sites, quantized)
    assert len(sites.layers) == 4, sites.kept
    exact, measured = runner(folded)(x), runner(quantized)(x)
    assert psnr(exact, measured, float(np.ptp(exact))) > FAITHFUL_DB


def test_a_rectifier_that_shares_a_wider_range_is_performed_on_bytes():
    nodes = [
        ("Conv", ["x", "w0"], ["c0"], {}), ("Relu", ["c0"], ["a0"], {}),
        ("Conv", ["x", "w1"], ["c1"], {}), ("Concat", ["a0", "c1"], ["both"], {"axis": 1}),
        ("Conv", ["both", "w2"], ["y"], {}),
    ]  # fmt: skip
    constants = {"w0": weights(RNG, 8, 8, 1, 1), "w1": weights(RNG, 8, 8, 1, 1), "w2": weights(RNG, 8, 16, 3, 3) / 12}
    model, x = graph(nodes, [8, 6, 6], constants), weights(RNG, 20, 8, 6, 6)
    sites, quantized, _ = settle(model, x)
    check_agreement(sites, quantized)
    assert len(sites.layers) == 3
    exact, measured = runner(model)(x), runner(quantized)(x)
    assert psnr(exact, measured, float(np.ptp(exact))) > FAITHFUL_DB


MOVES = {
    "Resize": ("Resize", ["m", "", "scales"], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                                                "nearest_mode": "floor"}),
    "Pad of zeros": ("Pad", ["m", "pads"], {}),
    "Pad of one axis": ("Pad", ["m", "ends", "zero", "two"], {}),
    "Pad of a mirror": ("Pad", ["m", "pads"], {"mode": "reflect"}),
    "Slice": ("Slice", ["m", "one", "five", "two"], {}),
    "Gather": ("Gather", ["m", "order"], {"axis": 1}),
    "MaxPool": ("MaxPool", ["m"], {"kernel_shape": [2, 2]}),
    "Expand": ("Expand", ["m", "shape"], {}),
    "Tile": ("Tile", ["m", "repeats"], {}),
}  # fmt: skip


@pytest.mark.parametrize("move", MOVES)
def test_what_moves_numbers_moves_bytes(move):
    op, inputs, attributes = MOVES[move]
    nodes = [("Conv", ["x", "w0"], ["m"], {"pads": [1] * 4}), (op, inputs, ["n"], attributes)]
    nodes.append(("Conv", ["n", "w1"], ["y"], {}))
    constants = {
        "w0": weights(RNG, 16, 16, 3, 3) / 12, "w1": weights(RNG, 16, 16, 3, 3) / 12,
        "scales": np.float32([1, 1, 2, 2]), "pads": np.array([0, 0, 1, 1, 0, 0, 2, 1]), "one": np.array([1]),
        "five": np.array([5]), "two": np.array([2]), "order": np.arange(16)[::-1].copy(),
        "repeats": np.array([1, 1, 2, 1]), "ends": np.array([1, 2]), "zero": np.float32(0),
        "shape": np.array([1, 16, 8, 8]),
    }  # fmt: skip
    constants = {name: value for name, value in constants.items() if name in (*inputs, "w0", "w1")}
    model, x = graph(nodes, [16, 8, 8], constants), weights(RNG, 20, 16, 8, 8)
    sites, quantized, folded = settle(model, x)
    check_agreement(sites, quantized)
    assert len(sites.layers) == 2
    moving = next(node for node in quantized.graph.node if node.op_type == op)
    assert moving.input[0].endswith("_quantized")
    exact, measured = runner(folded)(x), runner(quantized)(x)
    assert psnr(exact, measured, float(np.ptp(exact))) > FAITHFUL_DB


def test_both_parts_of_a_split_move_as_bytes():
    nodes = [("Conv", ["x", "w0"], ["m"], {}), ("Split", ["m", "sizes"], ["left", "right"], {"axis": 1})]
    nodes += [("Conv", ["left", "w1"], ["a"], {}), ("Conv", ["right", "w2"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})]
    constants = {
        "w0": weights(RNG, 32, 16, 3, 3) / 12, "sizes": np.array([16, 16]), "w1": weights(RNG, 16, 16, 3, 3) / 12,
        "w2": weights(RNG, 16, 16, 3, 3) / 12,
    }  # fmt: skip
    model, x = graph(nodes, [16, 8, 8], constants), weights(RNG, 20, 16, 8, 8)
    sites, quantized, _ = settle(model, x)
    check_agreement(sites, quantized)
    assert len(sites.layers) == 3
    exact, measured = runner(model)(x), runner(quantized)(x)
    assert psnr(exact, measured, float(np.ptp(exact))) > FAITHFUL_DB


def test_a_layer_that_would_run_in_float_goes_back_with_its_reason(monkeypatch):
    # Were the Gemm's output not quantised, ONNX Runtime would join the two in float and dequantise the weight per call.
    monkeypatch.setattr(sites_module, "_FUSED_WITH_GEMM", frozenset())
    nodes = [
        ("Gemm", ["x", "w0", "b"], ["l0"], {}), ("Relu", ["l0"], ["h"], {}), ("Gemm", ["h", "w1", "b"], ["l1"], {}),
        ("Relu", ["l1"], ["a"], {}), ("Reshape", ["a", "shape"], ["m"], {}),
        ("ConvTranspose", ["m", "up"], ["y"], {"strides": [2, 2]}),
    ]  # fmt: skip
    constants = {
        "w0": weights(RNG, 64, 64) / 8, "w1": weights(RNG, 64, 64) / 8, "b": weights(RNG, 64),
        "shape": np.array([-1, 16, 2, 2]), "up": weights(RNG, 16, 8, 2, 2),
    }  # fmt: skip
    model, x = graph(nodes, [64], constants), weights(RNG, 24, 64)
    sites = find_sites(model)
    ranges = starting_ranges(model, sites, calibrate(model, sites.tensors, x), 100.0)
    assert len(sites.layers) == 2
    remaining, _, quantized = settled(model, sites, ranges, PRESETS["x86-vnni"])
    assert remaining.layers == ()
    assert remaining.kept["l0"] == remaining.kept["l1"] == "ONNX Runtime would run it in float here"
    check_agreement(remaining, quantized)


def chain(count, channels=16, size=8):
    nodes, constants, source = [], {}, "x"
    for index in range(count):
        target = "y" if index == count - 1 else f"c{index}"
        constants[f"w{index}"] = weights(RNG, channels, channels, 1, 1) / 4
        nodes.append(("Conv", [source, f"w{index}"], [target], {}))
        source = target
    return nodes, constants, [channels, size, size]


def test_small_layers_are_judged_by_their_sum():
    nodes, constants, shape = chain(200)
    sites = find_sites(graph(nodes, shape, constants))
    assert len(sites.layers) >= 199  # each is less than a hundredth, all of them are everything
    assert "c100" in sites.layers


def test_a_small_layer_between_layers_in_int8_runs_in_int8():
    nodes = [("Conv", ["x", "big"], ["a"], {"pads": [1] * 4}), ("GlobalAveragePool", ["a"], ["g"], {})]
    nodes += [("Conv", ["g", "one"], ["b"], {}), ("Add", ["a", "b"], ["s"], {})]
    ends = [("Conv", ["s", "other"], ["y"], {"pads": [1] * 4})]
    constants = {"big": weights(RNG, 64, 64, 3, 3), "one": weights(RNG, 64, 64, 1, 1)}
    inner = find_sites(graph(nodes + ends, [64, 8, 8], constants | {"other": weights(RNG, 128, 64, 3, 3)}))
    assert inner.layers == ("a", "b", "y")
    outer = find_sites(
        graph([*nodes[:2], ("Conv", ["g", "one"], ["y"], {})], [64, 8, 8], constants | {"one": constants["one"][:3]})
    )
    assert "small part" in outer.kept["y"]


def test_activations_that_meet_share_a_scale_and_are_quantised_behind_a_rectifier():
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}), ("Conv", ["x", "w"], ["b"], {}), ("Conv", ["x", "w"], ["c"], {}),
        ("Concat", ["a", "b"], ["ab"], {"axis": 1}), ("Concat", ["b", "c"], ["bc"], {"axis": 1}),
        ("Conv", ["ab", "v"], ["p"], {}), ("Conv", ["bc", "v"], ["q"], {}), ("Add", ["p", "q"], ["s"], {}),
        ("Conv", ["s", "w"], ["l"], {}), ("Relu", ["l"], ["y"], {}),
    ]  # fmt: skip
    constants = {"w": weights(RNG, 16, 16, 3, 3), "v": weights(RNG, 16, 32, 3, 3)}
    groups = find_sites(graph(nodes, [16, 20, 20], constants)).groups
    assert set(groups) == {("x",), ("a", "b", "c"), ("s",), ("p",), ("q",), ("y",)}


def test_few_channels_in_three_dimensions_stay_in_float():
    nodes = [("Conv", ["x", "w0"], ["a"], {"pads": [1] * 6}), ("Conv", ["a", "w1"], ["y"], {"pads": [1] * 6})]
    constants = {"w0": weights(RNG, 16, 16, 3, 3, 3), "w1": weights(RNG, 4, 16, 3, 3, 3)}
    sites = find_sites(graph(nodes, [16, 4, 4, 4], constants))
    assert sites.layers == ("a",)
    assert "three-dimensional with 16 channels in and 4 out" in sites.kept["y"]


@pytest.mark.parametrize(
    ("channels", "groups", "words"), [(32, 8, "8 groups read 4 channels each"), (24, 24, "depthwise over 24 channels")]
)
def test_grouped_layers_are_told_truly(channels, groups, words):
    nodes, constants, shape = chain(2, channels)
    constants["w1"] = weights(RNG, channels, channels // groups, 3, 3)
    nodes[1] = (*nodes[1][:3], {"group": groups})
    assert words in find_sites(graph(nodes, shape, constants)).kept["y"]


def test_a_depthwise_layer_runs_in_int8_where_one_in_int8_feeds_it():
    nodes, constants, shape = chain(3, 32)
    constants["w1"] = weights(RNG, 32, 1, 3, 3)
    nodes[1] = (*nodes[1][:3], {"group": 32})
    model, x = graph(nodes, shape, constants), weights(RNG, 20, *shape)
    sites, quantized, _ = settle(model, x)
    check_agreement(sites, quantized)
    assert sites.layers == ("c0", "c1", "y")
    constants["w0"] = weights(RNG, 32, 1, 3, 3)
    nodes[0] = (*nodes[0][:3], {"group": 32})
    assert "no layer in int8 feeds it" in find_sites(graph(nodes, shape, constants)).kept["c0"]
