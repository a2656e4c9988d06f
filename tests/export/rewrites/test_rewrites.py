"""Each rewrite equals the graph it came from, does what it says, and leaves alone what it must."""

import numpy as np
import pytest
from edgeae_export.rewrites import (
    fold_affine,
    fold_batchnorm,
    join_bias,
    merge_heads,
)

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


def batchnorm_constants(channels):
    return {
        "scale": weights(RNG, channels), "shift": weights(RNG, channels),
        "mean": weights(RNG, channels), "var": RNG.random(channels).astype(np.float32) + 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("op", "shape", "weight", "attrs", "channels"),
    [
        ("Conv", [4, 6, 6], (6, 4, 3, 3), {}, 6),
        ("Conv", [4, 6, 6], (6, 2, 3, 3), {"group": 2}, 6),
        ("Conv", [4, 9], (6, 4, 3), {}, 6),
        ("ConvTranspose", [4, 5, 5], (4, 3, 3, 3), {"strides": [2, 2]}, 3),
        ("ConvTranspose", [4, 5, 5], (4, 3, 3, 3), {"group": 2}, 6),
        ("Gemm", [5], (7, 5), {"transB": 1}, 7),
        ("Gemm", [5], (5, 7), {}, 7),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_folds_into_every_layer(op, shape, weight, attrs, channels, bias):
    constants = {"w": weights(RNG, *weight), **({"b": weights(RNG, channels)} if bias else {})}
    nodes = [
        (op, ["x", *constants], ["h"], attrs),
        ("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["y"], {"epsilon": 1e-3}),
    ]
    model = graph(nodes, shape, constants | batchnorm_constants(channels))
    folded, (decision,) = fold_batchnorm(model)
    assert decision.applied
    assert operators(folded) == [op]
    plain = op != "ConvTranspose" or "group" not in attrs  # ONNX's reference has no grouped ConvTranspose
    assert_equal(model, folded, weights(RNG, 3, *shape), float64=plain, tolerance=FOLDED_TOLERANCE)


def test_batchnorm_stays_where_the_layer_is_read_elsewhere():
    nodes = [
        ("Conv", ["x", "w"], ["h"], {}),
        ("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["n"], {}),
        ("Add", ["h", "n"], ["y"], {}),
    ]
    model = graph(nodes, [2, 4, 4], {"w": weights(RNG, 3, 2, 1, 1)} | batchnorm_constants(3))
    kept, (decision,) = fold_batchnorm(model)
    assert not decision.applied
    assert "read elsewhere" in decision.why
    assert "BatchNormalization" in operators(kept)


def test_heads_become_one_gemm():
    nodes = [
        ("Gemm", ["x", "w1", "b1"], ["mean"], {"transB": 1}),
        ("Gemm", ["x", "w2"], ["spread"], {}),
        ("Concat", ["spread", "mean"], ["y"], {"axis": 1}),
    ]
    constants = {"w1": weights(RNG, 3, 8), "b1": weights(RNG, 3), "w2": weights(RNG, 8, 2)}
    model = graph(nodes, [8], constants)
    merged, (decision,) = merge_heads(model)
    assert decision.applied
    assert operators(merged) == ["Gemm", "Split", "Concat"]
    assert_equal(model, merged, weights(RNG, 3, 8))


def affine_graph(op, latent, *, between=None):
    attrs = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    if op == "ConvTranspose":
        attrs["output_padding"] = [1, 1]
    nodes = [
        ("Gemm", ["x", "a", "c"], ["flat"], {"transB": 1}),
        ("Reshape", ["flat", "shape"], ["map"], {}),
        *([(between, ["map"], ["mid"], {})] if between else []),
        (op, ["mid" if between else "map", "w", "b"], ["up"], attrs),
        ("Relu", ["up"], ["y"], {}),
    ]
    constants = {
        "a": weights(RNG, 16 * 16, latent), "c": weights(RNG, 16 * 16),
        "shape": np.array([-1, 16, 4, 4]), "w": weights(RNG, 16, 16, 3, 3), "b": weights(RNG, 16),
    }  # fmt: skip
    return graph(nodes, [latent], constants)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_affine_layers_fold_for_a_small_latent(op):
    model = affine_graph(op, 2)
    folded, (decision,) = fold_affine(model)
    assert decision.applied
    assert operators(folded) == ["Gemm", "Relu", "Reshape"]
    assert_equal(model, folded, weights(RNG, 3, 2), tolerance=FOLDED_TOLERANCE)


def test_affine_layers_stay_for_a_large_latent_or_a_nonlinearity():
    kept, (decision,) = fold_affine(affine_graph("ConvTranspose", 64))
    assert not decision.applied
    assert "would not pay" in decision.why
    assert "ConvTranspose" in operators(kept)
    assert fold_affine(affine_graph("ConvTranspose", 2, between="Relu"))[1] == []


@pytest.mark.parametrize("bias_first", [True, False])
def test_a_bias_joins_the_product_before_it(bias_first):
    sums = ["b", "m"] if bias_first else ["m", "b"]
    nodes = [("MatMul", ["x", "w"], ["m"], {}), ("Add", sums, ["s"], {}), ("Relu", ["s"], ["y"], {})]
    model = graph(nodes, [5], {"w": weights(RNG, 5, 7), "b": weights(RNG, 7)})
    joined, (decision,) = join_bias(model)
    assert decision.applied
    assert operators(joined) == ["Gemm", "Relu"]
    assert_equal(model, joined, weights(RNG, 3, 5))


def test_what_is_no_bias_stays_a_sum():
    nodes = [("MatMul", ["x", "w"], ["m"], {}), ("Add", ["m", "b"], ["y"], {})]
    for shape, bias in (([5], weights(RNG, 1)), ([6, 5], weights(RNG, 7)), ([5], weights(RNG, 2, 7))):
        model = graph(nodes, shape, {"w": weights(RNG, 5, 7), "b": bias})
        assert join_bias(model)[1] == []
        assert operators(join_bias(model)[0]) == ["MatMul", "Add"]
