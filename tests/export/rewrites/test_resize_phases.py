"""Nearest-neighbour Resize -> Conv as one Conv per phase."""

import numpy as np
import pytest
from edgeae_export.graph.editing import opened
from edgeae_export.graph.values import of_type
from edgeae_export.rewrites.resize_phases import nearest_factors, resize_to_phases
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resized(conv, resize=None, *, kernel=(3, 3), inputs=4, factors=(2, 2), computed=None, outputs=("y",)):
    """A map of [4, 5, 6], resized by the factors, and the Conv that reads it; one of its constants may be computed."""
    constants = {"w": weights(RNG, 4, inputs, *kernel), "b": weights(RNG, 4)}
    shape = np.array(constants.pop(computed).shape if computed else 0)
    nodes = [
        *([("ConstantOfShape", ["k"], [computed], {})] if computed else []),
        ("Resize", ["x", "", "scales"], ["big"], NEAREST | (resize or {})),
        ("Conv", ["big", "w", "b"], ["y"], conv),
    ]
    constants |= {"scales": np.array([1, 1, *factors], np.float32), "k": shape}
    return graph(nodes, [4, *[5, 6, 7][: len(factors)]], constants, outputs)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("activation", ["Relu", None])
@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_resize_and_convolution_become_phases(factor, kernel, activation, sizes, bias):
    constants = {"w": weights(RNG, 3, 4, kernel, kernel), **({"b": weights(RNG, 3)} if bias else {})}
    nodes = [
        ("Resize", ["x", "", *(["", "sizes"] if sizes else ["scales"])], ["big"], NEAREST),
        ("Conv", ["big", *constants], ["c"], {"pads": [kernel // 2] * 4}),
        (activation or "Identity", ["c"], ["y"], {}),
    ]
    asked = {"scales": np.array([1, 1, factor, factor], np.float32), "sizes": np.array([2, 4, 5 * factor, 6 * factor])}
    model = graph(nodes, [4, 5, 6], constants | asked)
    rewritten, (decision,) = apply(model, [resize_to_phases])
    assert decision.applied
    assert operators(rewritten)[:2] == ["Conv", activation or "DepthToSpace"]
    assert "Resize" not in operators(rewritten)
    assert_equal(model, rewritten, weights(RNG, 2, 4, 5, 6), tolerance=FOLDED_TOLERANCE, float64=bool(activation))


PADDED = {"pads": [1] * 4}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (resized(PADDED, computed="w"), "not a plain two-dimensional Conv"),
        (resized(PADDED, computed="b"), "not a plain two-dimensional Conv"),
        (resized(PADDED | {"group": 2}, inputs=2), "not a plain two-dimensional Conv"),
        (resized({"dilations": [2, 2], "pads": [1] * 4}), "not a plain two-dimensional Conv"),
        (resized({"auto_pad": "SAME_UPPER"}), "not a plain two-dimensional Conv"),
        (resized({"pads": [1] * 6}, kernel=(3, 3, 3), factors=(2, 2, 2)), "not a plain two-dimensional Conv"),
        (resized({"pads": [1, 1, 1, 1]}, kernel=(4, 4)), "its kernel is even"),
        (resized({"pads": [1, 1, 1, 1]}, kernel=(3, 5)), "not square"),
        (resized(PADDED | {"strides": [2, 2]}), "has a stride"),
        (resized({}), "does not keep the size"),
        (resized({"pads": [1, 1, 1, 0]}), "does not keep the size"),
        (resized(PADDED, {"mode": "linear"}), "not a nearest one"),
        (resized(PADDED, {"coordinate_transformation_mode": "half_pixel"}), "not a nearest one"),
        (resized(PADDED, {"nearest_mode": "round_prefer_floor"}), "not a nearest one"),
        (resized(PADDED, factors=(2, 3)), "not a nearest one"),
        (resized(PADDED, factors=(1.5, 1.5)), "not a nearest one"),
        (resized(PADDED, factors=(2.1, 2.1)), "not a nearest one"),  # 10 and 12 of 5 and 6 as well, unevenly spread
        (resized(PADDED, factors=(1, 1)), "not a nearest one"),
        (resized(PADDED, outputs=("y", "big")), "read elsewhere too"),
    ],
)
def test_other_resizes_are_left_alone(model, words):
    kept, (decision,) = apply(model, [resize_to_phases])
    assert not decision.applied
    assert words in decision.why
    assert operators(kept)[-2:] == ["Resize", "Conv"]


def test_sizes_that_are_no_multiples_are_left_alone():
    constants = {"sizes": np.array([2, 4, 8, 9]), "w": weights(RNG, 3, 4, 3, 3)}
    nodes = [("Resize", ["x", "", "", "sizes"], ["big"], NEAREST), ("Conv", ["big", "w"], ["y"], PADDED)]
    _, (decision,) = apply(graph(nodes, [4, 5, 6], constants), [resize_to_phases])
    assert "not a nearest one" in decision.why


@pytest.mark.parametrize(
    ("scales", "factors"),
    [((1, 1, 2, 3), (2, 3)), ((1, 1, 1, 2), (1, 2)), ((1, 2, 2, 2), None), ((1, 1, 2), None), ((1, 1, 2, 2, 2), None)],
)
def test_the_factors_are_those_of_two_axes(scales, factors):
    nodes = [("Resize", ["x", "", "s"], ["y"], NEAREST)]
    model = graph(nodes, [4, 5, 6, 7][: len(scales) - 1], {"s": np.float32(scales)})
    (node,) = of_type(opened(model).graph, "Resize")
    assert nearest_factors(node) == factors
