"""Convolutions with few outputs, widened for the int8 kernels."""

import numpy as np
import pytest
from edgeae_export.rewrites.steps import apply
from edgeae_export.rewrites.wide_outputs import widen_outputs

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", None])
@pytest.mark.parametrize(("shape", "kernel"), [([8, 600], (5,)), ([8, 37, 33], (3, 3)), ([8, 16, 13, 18], (3, 2, 2))])
def test_a_widened_convolution_computes_the_same(shape, kernel, activation, bias):
    constants = {"w": weights(RNG, 3, 8, *kernel) * 3, **({"b": weights(RNG, 3)} if bias else {})}
    nodes = [("Conv", ["x", *constants], ["h"], {"strides": [2] * len(kernel), "pads": [1] * 2 * len(kernel)})]
    nodes.append((activation or "Identity", ["h"], ["y"], {}))
    model = graph(nodes, shape, constants)
    wide, (decision,) = apply(model, [widen_outputs])
    assert decision.applied
    assert operators(wide)[:2] == (["Conv", "Relu"] if activation == "Relu" else ["Conv", "Slice"])
    assert_equal(model, wide, weights(RNG, 3, *shape))


def test_what_would_not_gain_is_left_alone():
    few = graph([("Conv", ["x", "w"], ["y"], {})], [8, 6, 6], {"w": weights(RNG, 3, 8, 3, 3)})
    single = graph([("Conv", ["x", "w"], ["y"], {})], [8, 32, 32], {"w": weights(RNG, 3, 8, 1, 1)})
    many = graph([("Conv", ["x", "w"], ["y"], {})], [8, 32, 32], {"w": weights(RNG, 16, 8, 3, 3)})
    grouped = graph([("Conv", ["x", "w"], ["y"], {"group": 4})], [64, 32, 32], {"w": weights(RNG, 4, 16, 3, 3)})
    nodes = [("ConstantOfShape", ["k"], ["w"], {}), ("Conv", ["x", "w"], ["y"], {})]
    computed = graph(nodes, [8, 32, 32], {"k": np.array([3, 8, 3, 3])})
    for model in (many, computed):
        assert apply(model, [widen_outputs])[1] == []
    for model in (few, single, grouped):
        same, (decision,) = apply(model, [widen_outputs])
        assert not decision.applied
        assert operators(same) == ["Conv"]
