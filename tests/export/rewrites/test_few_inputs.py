"""Convolutions of few input channels, padded to what the int8 kernels read at once."""

import numpy as np
import pytest
from edgeae_export.int8.placement import find_sites
from edgeae_export.rewrites import few_inputs
from edgeae_export.rewrites.few_inputs import pad_inputs
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("shape", "kernel"), [([300], (5,)), ([16, 17], (3, 3)), ([5, 7, 8], (2, 3, 3))])
def test_a_padded_convolution_computes_the_same_and_may_run_in_int8(shape, kernel, channels, monkeypatch):
    monkeypatch.setattr(few_inputs, "FEWEST_VALUES", 1)
    constants = {"w": weights(RNG, 32, channels, *kernel), "b": weights(RNG, 32)}
    model = graph([("Conv", ["x", "w", "b"], ["y"], {"pads": [1] * 2 * len(kernel)})], [channels, *shape], constants)
    padded, (decision,) = apply(model, [pad_inputs])
    assert decision.applied
    assert operators(padded) == ["Pad", "Conv"]
    assert_equal(model, padded, weights(RNG, 3, channels, *shape))
    assert not find_sites(model).layers
    assert find_sites(padded).layers == ("y",) or len(shape) == 3


def test_small_maps_and_groups_are_left_alone():
    small = graph([("Conv", ["x", "w"], ["y"], {})], [3, 8, 8], {"w": weights(RNG, 8, 3, 3, 3)})
    grouped = graph([("Conv", ["x", "w"], ["y"], {"group": 3})], [3, 200, 200], {"w": weights(RNG, 6, 1, 3, 3)})
    wide = graph([("Conv", ["x", "w"], ["y"], {})], [4, 200, 200], {"w": weights(RNG, 8, 4, 3, 3)})
    nodes = [("ConstantOfShape", ["k"], ["w"], {}), ("Conv", ["x", "w"], ["y"], {})]
    computed = graph(nodes, [3, 200, 200], {"k": np.array([8, 3, 3, 3])})
    for model in (small, grouped):
        assert not apply(model, [pad_inputs])[1][0].applied
    for model in (wide, computed):
        assert apply(model, [pad_inputs])[1] == []
