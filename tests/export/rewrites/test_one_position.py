"""A ConvTranspose on a map of one position as a Gemm."""

import numpy as np
import pytest
from edgeae_export.rewrites.one_position import to_gemm
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "pad", "extra"), [(4, 1, 0, 0), (4, 2, 1, 0), (3, 2, 0, 1), (1, 1, 0, 0)])
def test_a_map_of_one_position_becomes_a_product(rank, kernel, stride, pad, extra):
    attrs = {"strides": [stride] * rank, "pads": [pad] * 2 * rank, "output_padding": [extra] * rank}
    nodes = [("ConvTranspose", ["x", "w", "b"], ["up"], attrs), ("Clip", ["up", "low"], ["y"], {})]
    constants = {"w": weights(RNG, 5, 3, *[kernel] * rank), "b": weights(RNG, 3), "low": np.float32(-0.5)}
    model = graph(nodes, [5] + [1] * rank, constants)
    product, (decision,) = apply(model, [to_gemm])
    assert decision.applied == (extra == 0)  # output padding would store rows of zeros
    assert operators(product) == (["ConvTranspose", "Clip"] if extra else ["Reshape", "Gemm", "Clip", "Reshape"])
    assert_equal(model, product, weights(RNG, 3, 5, *[1] * rank), float64=False)
    larger = graph(nodes, [5] + [2] * rank, constants)
    assert apply(larger, [to_gemm])[1] == []


def test_positions_that_no_tap_reaches_hold_the_bias():
    attrs = {"strides": [3, 1], "pads": [0, 1, 0, 1], "output_padding": [2, 0]}
    constants = {"w": weights(RNG, 5, 3, 2, 6), "b": weights(RNG, 3)}
    model = graph([("ConvTranspose", ["x", "w", "b"], ["y"], attrs)], [5, 1, 1], constants)
    product, (decision,) = apply(model, [to_gemm])
    assert decision.why == "it would store more weights"  # 4 x 4 positions, where the kernel has 2 x 6 taps
    attrs["pads"] = [0, 2, 0, 2]
    model = graph([("ConvTranspose", ["x", "w", "b"], ["y"], attrs)], [5, 1, 1], constants)
    product, (decision,) = apply(model, [to_gemm])
    assert decision.why == "one Gemm from 5 numbers to 24"
    assert_equal(model, product, weights(RNG, 3, 5, 1, 1), float64=False)


@pytest.mark.parametrize(
    "attributes",
    [{"group": 2}, {"dilations": [2, 2], "pads": [1] * 4}, {"auto_pad": "SAME_UPPER"}, {"output_shape": [2, 2]}],
)
def test_what_is_not_plain_stays(attributes):
    outputs = 1 if "group" in attributes else 2
    nodes = [("ConvTranspose", ["x", "w"], ["y"], attributes)]
    model = graph(nodes, [4, 1, 1], {"w": weights(RNG, 4, outputs, 3, 3)})
    _, (decision,) = apply(model, [to_gemm])
    assert decision.why == "it is not a plain ConvTranspose with constant weights"


@pytest.mark.parametrize("computed", ["w", "b"])
def test_weights_that_are_not_constant_stay(computed):
    constants = {"w": weights(RNG, 4, 2, 3, 3), "b": weights(RNG, 2)}
    shape = np.array(constants.pop(computed).shape)
    nodes = [("ConstantOfShape", ["k"], [computed], {}), ("ConvTranspose", ["x", "w", "b"], ["y"], {})]
    _, (decision,) = apply(graph(nodes, [4, 1, 1], constants | {"k": shape}), [to_gemm])
    assert decision.why == "it is not a plain ConvTranspose with constant weights"
