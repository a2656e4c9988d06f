"""Residual sums in int8 graphs: floats where they are cheap, and ranges without what a rectified sum loses anyway."""

import numpy as np
from edgeae_export.graph.editing import opened
from edgeae_export.graph.executed import optimized
from edgeae_export.graph.layer import layers_of
from edgeae_export.graph.running import runner
from edgeae_export.graph.values import named_values
from edgeae_export.int8 import residual_sums
from edgeae_export.int8.calibration import calibrate
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.quantize import quantize
from edgeae_export.int8.ranges import starting_ranges
from edgeae_export.targets import PRESETS
from edgeae_runtime.parity import psnr

from tests.export.graphs import graph, operators, weights

TARGET = PRESETS["x86-vnni"]
BLOCKS = 8


def residual_stream(size=16, drop=0.0):
    """Blocks of two convolutions, each added to the stream and rectified; `drop` pulls what is added below zero."""
    rng = np.random.default_rng(0)
    nodes, constants, stream = (
        [("Conv", ["x", "w0"], ["c0"], {"pads": [1] * 4}), ("Relu", ["c0"], ["s0"], {})],
        {},
        "s0",
    )
    constants["w0"] = weights(rng, 16, 16, 3, 3) / 8
    for block in range(1, BLOCKS + 1):
        constants |= {
            f"v{block}": weights(rng, 16, 16, 3, 3) / 20,
            f"u{block}": weights(rng, 16, 16, 3, 3) / 20,
            f"b{block}": (drop * (np.arange(16) % 4 == block % 4)).astype(np.float32),
        }
        nodes += [
            ("Conv", [stream, f"v{block}"], [f"a{block}"], {"pads": [1] * 4}),
            ("Relu", [f"a{block}"], [f"r{block}"], {}),
            ("Conv", [f"r{block}", f"u{block}", f"b{block}"], [f"d{block}"], {"pads": [1] * 4}),
            ("Add", [stream, f"d{block}"], [f"t{block}"], {}),
            ("Relu", [f"t{block}"], [f"s{block}"], {}),
        ]
        stream = f"s{block}"
    constants["last"] = weights(rng, 16, 16, 3, 3) / 8
    nodes.append(("Conv", [stream, "last"], ["y"], {"pads": [1] * 4}))
    return graph(nodes, [16, size, size], constants), weights(rng, 60, 16, size, size)


def fidelity(model, x):
    sites = find_sites(model)
    ranges = starting_ranges(model, sites, calibrate(model, sites.tensors, x), 100.0)
    exact, measured = runner(model)(x), runner(quantize(model, sites, ranges, TARGET))(x)
    return psnr(exact, measured, float(np.ptp(exact))), ranges, quantize(model, sites, ranges, TARGET)


def test_sums_in_float_bring_the_output_nearer(monkeypatch):
    model, x = residual_stream()
    monkeypatch.setattr(residual_sums, "MOST_COST", 1.0)
    with_floats, _, quantized = fidelity(model, x)
    assert find_sites(model).float_sums >= {"s1", "s2"}
    assert "Add" in operators(optimized(quantized))
    monkeypatch.setattr(residual_sums, "MOST_COST", 0.0)
    in_bytes, _, quantized = fidelity(model, x)
    assert not find_sites(model).float_sums
    assert "QLinearAdd" in operators(optimized(quantized))
    assert with_floats > in_bytes + 0.5


def test_the_smallest_sums_come_first_and_stay_within_the_budget(monkeypatch):
    model, _ = residual_stream()
    opened_graph = opened(model).graph
    layers, values = layers_of(opened_graph), named_values(opened_graph)
    work = sum(layer.multiply_adds for layer in layers)
    one = residual_sums.COST_PER_VALUE * 16 * 16 * 16
    monkeypatch.setattr(residual_sums, "MOST_COST", 1.5 * one / work)
    assert len(residual_sums.float_sums(layers, [values[name] for name in ("s1", "s2", "s3", "r1")])) == 1


def test_what_a_rectified_sum_loses_takes_no_steps():
    model, x = residual_stream(drop=-40.0)
    better, ranges, _ = fidelity(model, x)
    for block in range(1, BLOCKS + 1):
        assert ranges[f"d{block}",][0] >= -ranges[(f"s{block - 1}",)][1]
    sites = find_sites(model)
    histograms = calibrate(model, sites.tensors, x)
    plain = {group: (min(histograms[t].low for t in group), max(histograms[t].high for t in group)) for group in ranges}
    assert plain["d2",][0] < 2 * ranges["d2",][0]
    exact = runner(model)(x)
    measured = runner(quantize(model, sites, plain, TARGET))(x)
    assert better > psnr(exact, measured, float(np.ptp(exact))) + 1


def test_a_summand_that_something_else_reads_keeps_its_range():
    rng = np.random.default_rng(0)
    nodes = [
        ("Conv", ["x", "w"], ["d"], {}),
        ("Add", ["d", "x"], ["t"], {}),
        ("Relu", ["t"], ["r"], {}),
        ("Add", ["r", "d"], ["y"], {}),
    ]
    values = named_values(opened(graph(nodes, [8, 4, 4], {"w": weights(rng, 8, 8, 1, 1)})).graph)
    assert residual_sums.least_that_matters(values["d"], lambda value: 1.0) == -np.inf
