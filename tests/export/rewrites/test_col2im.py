"""ConvTranspose as a product and Col2Im."""

import numpy as np
import pytest
from edgeae_export.rewrites.col2im import split_col2im
from edgeae_export.rewrites.steps import apply
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 5), stride=st.integers(1, 3), pad=st.integers(0, 2), extra=st.integers(0, 2),
    outputs=st.integers(1, 2), bias=st.booleans(),
)  # fmt: skip
def test_col2im_equals_conv_transpose(kernel, stride, pad, extra, outputs, bias):
    assume(extra < stride and pad < kernel)
    assume(stride * 3 + kernel + extra - 2 * pad > 0)
    constants = {"w": weights(RNG, 5, outputs, kernel, kernel), **({"b": weights(RNG, outputs)} if bias else {})}
    attrs = {"strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [extra] * 2}
    model = graph([("ConvTranspose", ["x", *constants], ["y"], attrs)], [5, 4, 4], constants)
    split, (decision,) = apply(model, [split_col2im])
    assert decision.applied
    assert operators(split)[:3] == ["Transpose", "Reshape", "MatMul"]
    assert_equal(model, split, weights(RNG, 2, 5, 4, 4))


@pytest.mark.parametrize(
    ("attributes", "kernel", "size", "words"),
    [
        ({"group": 2}, [3, 3], [4, 4], "2 groups"),
        ({"dilations": [2, 1]}, [3, 3], [4, 4], "dilated by 2x1"),
        ({"auto_pad": "SAME_UPPER"}, [3, 3], [4, 4], "auto_pad=SAME_UPPER"),
        ({"output_shape": [6, 6]}, [3, 3], [4, 4], "output_shape"),
        ({}, [3], [4], "not two-dimensional"),
        ({}, [2, 2, 2], [4, 4, 4], "not two-dimensional"),
        ({}, [3, 3], [4, "width"], "a known size"),
        ({}, [6, 6], [4, 4], "72 numbers per position, at most 64 pay"),
    ],
)
def test_what_stays_whole(attributes, kernel, size, words):
    nodes = [("ConvTranspose", ["x", "w"], ["y"], attributes)]
    kept, (decision,) = apply(graph(nodes, [4, *size], {"w": weights(RNG, 4, 2, *kernel)}), [split_col2im])
    assert not decision.applied
    assert words in decision.why
    assert operators(kept) == ["ConvTranspose"]


@pytest.mark.parametrize("computed", ["w", "b"])
def test_weights_that_are_not_constant_stay(computed):
    constants = {"w": weights(RNG, 4, 2, 3, 3), "b": weights(RNG, 2)}
    shape = np.array(constants.pop(computed).shape)
    nodes = [("ConstantOfShape", ["k"], [computed], {}), ("ConvTranspose", ["x", "w", "b"], ["y"], {})]
    _, (decision,) = apply(graph(nodes, [4, 5, 5], constants | {"k": shape}), [split_col2im])
    assert decision.why == "its weights are not constant"
