"""Batch norms, folded into the layer before them."""

import numpy as np
import pytest
from edgeae_export.rewrites.batchnorm import fold_batchnorm
from edgeae_export.rewrites.steps import apply

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
    folded, (decision,) = apply(model, [fold_batchnorm])
    assert decision.applied
    assert operators(folded) == [op]
    plain = op != "ConvTranspose" or "group" not in attrs  # ONNX's reference has no grouped ConvTranspose
    assert_equal(model, folded, weights(RNG, 3, *shape), float64=plain, tolerance=FOLDED_TOLERANCE)


NORMALISED = ("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["y"], {})
UNKNOWN = ("ConstantOfShape", ["k"], ["w"], {})
"""A weight that is computed."""


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([UNKNOWN, ("Conv", ["x", "w"], ["h"], {}), NORMALISED], "not constant"),
        ([("Conv", ["x", "v", "m"], ["h"], {}), NORMALISED], "not constant"),
        ([("Conv", ["x", "v"], ["h"], {}), (*NORMALISED[:2], ["y", "rm", "rv"], {"training_mode": 1})], "not constant"),
        ([("Conv", ["x", "v"], ["h"], {}), ("BatchNormalization", ["h", "scale", "m", "mean", "var"], ["y"], {})],
         "not constant"),
        ([("Conv", ["x", "v"], ["h"], {}), (*NORMALISED[:2], ["n"], {}), ("Add", ["h", "n"], ["y"], {})],
         "read elsewhere"),
        ([("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "g"], ["h"], {"alpha": 2.0}), NORMALISED], "scales"),
    ],
)  # fmt: skip
def test_what_it_leaves_alone_and_why(nodes, words):
    shapes = {"k": np.array([3, 2, 1, 1]), "v": weights(RNG, 3, 2, 1, 1), "g": weights(RNG, 32, 3)}
    mean = ("ReduceMean", ["x"], ["r"], {"keepdims": 0}), ("Expand", ["r", "three"], ["m"], {})
    model = graph([*mean, *nodes], [2, 4, 4], shapes | batchnorm_constants(3) | {"three": np.array([3])})
    kept, (decision,) = apply(model, [fold_batchnorm])
    assert not decision.applied
    assert words in decision.why
    assert "BatchNormalization" in operators(kept)


def test_behind_anything_else_it_is_no_concern():
    nodes = [("Relu", ["x"], ["h"], {}), NORMALISED]
    assert apply(graph(nodes, [3, 4, 4], batchnorm_constants(3)), [fold_batchnorm])[1] == []
