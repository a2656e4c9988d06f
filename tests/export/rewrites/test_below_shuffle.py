"""DepthToSpace -> Conv as one ConvTranspose on the small map."""

import numpy as np
import pytest
from edgeae_export.graph.editing import opened
from edgeae_export.graph.layer import layers_of
from edgeae_export.rewrites.below_shuffle import move_below_shuffle, obstacle_to_merging
from edgeae_export.rewrites.steps import apply
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)
SHUFFLE = ("DepthToSpace", ["x"], ["big"], {"blocksize": 2})


@settings(max_examples=100, deadline=None)
@given(
    block=st.integers(2, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    channels=st.integers(1, 3),
    mode=st.sampled_from(["DCR", "CRD"]),
    bias=st.booleans(),
)
def test_a_convolution_moves_below_the_shuffle(block, kernel, pads, channels, mode, bias):
    size = [3 * block + pads[i] + pads[i + 2] - kernel[i] + 1 for i in range(2)]
    assume(min(size) > 0)
    constants = {"w": weights(RNG, 1, channels, *kernel), **({"b": weights(RNG, 1)} if bias else {})}
    nodes = [
        ("DepthToSpace", ["x"], ["big"], {"blocksize": block, "mode": mode}),
        ("Conv", ["big", *constants], ["y"], {"pads": pads}),
    ]
    model = graph(nodes, [channels * block**2, 3, 3], constants)
    merged, (decision,) = apply(model, [move_below_shuffle])
    assert decision.applied != any(pads[i] >= kernel[i % 2] for i in range(4))
    assert operators(merged) == (["ConvTranspose"] if decision.applied else ["DepthToSpace", "Conv"])
    assert_equal(model, merged, weights(RNG, 2, channels * block**2, 3, 3))


@pytest.mark.parametrize(
    ("attributes", "outputs", "words"),
    [
        ({"group": 2}, 2, "2 groups"),
        ({"dilations": [2, 1]}, 1, "dilated by 2x1"),
        ({"auto_pad": "SAME_UPPER"}, 1, "auto_pad=SAME_UPPER"),
        ({"strides": [2, 1]}, 1, "its stride is 2x1"),
        ({"pads": [0, 3, 0, 0]}, 1, "as much as its kernel"),
        ({"pads": [0, 0, 3, 0]}, 1, "as much as its kernel"),
        ({"pads": [1] * 4}, 8, "too many outputs: 128 numbers"),
    ],
)
def test_what_stays_above_the_shuffle(attributes, outputs, words):
    inputs = 4 // attributes.get("group", 1)
    nodes = [SHUFFLE, ("Conv", ["big", "w"], ["y"], attributes)]
    kept, (decision,) = apply(
        graph(nodes, [16, 3, 3], {"w": weights(RNG, outputs, inputs, 3, 3)}), [move_below_shuffle]
    )
    assert not decision.applied
    assert words in decision.why
    assert operators(kept) == ["DepthToSpace", "Conv"]


@pytest.mark.parametrize("computed", ["w", "b"])
def test_weights_that_are_not_constant_stay(computed):
    constants = {"w": weights(RNG, 1, 4, 3, 3), "b": weights(RNG, 1)}
    shape = np.array(constants.pop(computed).shape)
    nodes = [("ConstantOfShape", ["k"], [computed], {}), SHUFFLE, ("Conv", ["big", "w", "b"], ["y"], {})]
    _, (decision,) = apply(graph(nodes, [16, 3, 3], constants | {"k": shape}), [move_below_shuffle])
    assert decision.why == "its weights are not constant"


@pytest.mark.parametrize("other", ["Relu", None])
def test_a_shuffled_map_that_is_read_elsewhere_stays(other):
    nodes = [SHUFFLE, ("Conv", ["big", "w"], ["y"], {}), *([(other, ["big"], ["z"], {})] if other else [])]
    model = graph(nodes, [16, 3, 3], {"w": weights(RNG, 1, 4, 3, 3)}, outputs=("y", "z" if other else "big"))
    _, (decision,) = apply(model, [move_below_shuffle])
    assert decision.why == "the shuffle before it is read elsewhere too"


def test_a_convolution_without_a_shuffle_is_no_concern():
    assert (
        apply(
            graph([("Conv", ["x", "w"], ["y"], {})], [4, 6, 6], {"w": weights(RNG, 1, 4, 3, 3)}), [move_below_shuffle]
        )[1]
        == []
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_not_two_dimensional_could_not_be_merged(rank):
    model = graph([("Conv", ["x", "w"], ["y"], {})], [4, *[6] * rank], {"w": weights(RNG, 1, 4, *[2] * rank)})
    assert obstacle_to_merging(layers_of(opened(model).graph)[0], 2)
