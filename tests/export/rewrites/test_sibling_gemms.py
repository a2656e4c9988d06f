"""Heads that read one value, merged."""

import numpy as np
from edgeae_export.rewrites.sibling_gemms import merge_heads
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


def test_heads_become_one_gemm():
    nodes = [
        ("Gemm", ["x", "w1", "b1"], ["mean"], {"transB": 1}),
        ("Gemm", ["x", "w2"], ["spread"], {}),
        ("Concat", ["spread", "mean"], ["y"], {"axis": 1}),
    ]
    constants = {"w1": weights(RNG, 3, 8), "b1": weights(RNG, 3), "w2": weights(RNG, 8, 2)}
    model = graph(nodes, [8], constants)
    merged, (decision,) = apply(model, [merge_heads])
    assert decision.applied
    assert decision.rule == "sibling_gemms"
    assert operators(merged) == ["Gemm", "Split", "Concat"]
    assert_equal(model, merged, weights(RNG, 3, 8))


def test_heads_that_are_outputs_keep_their_names():
    nodes = [("Gemm", ["x", "w"], ["y"], {}), ("Gemm", ["x", "v"], ["z"], {}), ("Gemm", ["x", "v"], ["q"], {})]
    model = graph(nodes, [8], {"w": weights(RNG, 8, 3), "v": weights(RNG, 8, 2)}, outputs=("z", "y", "q"))
    merged, (decision,) = apply(model, [merge_heads])
    assert decision.why == "y, z, q became one Gemm"
    assert [value.name for value in merged.graph.output] == ["z", "y", "q"]
    assert_equal(model, merged, weights(RNG, 3, 8))


def test_only_plain_gemms_of_one_value_are_merged():
    nodes = [
        ("ConstantOfShape", ["k"], ["computed"], {}),
        ("Gemm", ["x", "w"], ["a"], {}),
        ("Gemm", ["x", "w"], ["b"], {"alpha": 2.0}),
        ("Gemm", ["x", "computed"], ["c"], {}),
        ("Gemm", ["a", "w"], ["d"], {}),
        ("Gemm", ["a", "w", "x"], ["e"], {}),
        ("Sum", ["b", "c", "d", "e"], ["y"], {}),
    ]
    model = graph(nodes, [8], {"w": weights(RNG, 8, 8), "k": np.array([8, 8])})
    assert apply(model, [merge_heads])[1] == []
    further = [*nodes[:-1], ("Gemm", ["x", "w"], ["f"], {}), ("Sum", ["a", "b", "c", "d", "e", "f"], ["y"], {})]
    model = graph(further, [8], {"w": weights(RNG, 8, 8), "k": np.array([8, 8])})
    merged, (decision,) = apply(model, [merge_heads])
    assert decision.why == "a, f became one Gemm"
    assert_equal(model, merged, weights(RNG, 3, 8))
