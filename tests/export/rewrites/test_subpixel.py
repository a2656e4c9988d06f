"""ConvTranspose in its sub-pixel form, over the whole space of its parameters."""

import numpy as np
import pytest
from edgeae_export.rewrites.steps import apply
from edgeae_export.rewrites.subpixel import to_subpixel
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.graphs import assert_equal, graph, operators, weights


@st.composite
def axis(draw):
    """Size, kernel, stride, begin and end padding, output padding, dilation of one axis, with a non-empty output."""
    kernel, stride, dilation = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3]))
    size, begin, end = draw(st.integers(1, 5)), draw(st.integers(0, kernel)), draw(st.integers(0, kernel))
    extra = draw(st.integers(0, stride - 1))
    if stride * (size - 1) + dilation * (kernel - 1) + 1 + extra - begin - end < 1:
        begin = end = 0
    return size, kernel, stride, begin, end, extra, dilation


def conv_transpose(axes, inputs, outputs, seed, activation=None, bias=True):
    rng = np.random.default_rng(seed)
    sizes, kernels, strides, begins, ends, extras, dilations = (list(column) for column in zip(*axes, strict=True))
    constants = {"w": weights(rng, inputs, outputs, *kernels)}
    if bias:
        constants["b"] = weights(rng, outputs)
    attrs = {"kernel_shape": kernels, "strides": strides, "pads": begins + ends, "output_padding": extras}
    attrs["dilations"] = dilations
    nodes = [("ConvTranspose", ["x", *constants], ["up"], attrs)]
    nodes.append((activation, ["up"], ["y"], {}) if activation else ("Identity", ["up"], ["y"], {}))
    return graph(nodes, [inputs, *sizes], constants), weights(rng, 2, inputs, *sizes)


@settings(max_examples=300, deadline=None)
@given(
    axes=st.integers(1, 3).flatmap(lambda rank: st.lists(axis(), min_size=rank, max_size=rank)),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 3),
    seed=st.integers(0, 1000),
    activation=st.sampled_from([None, "Relu", "LeakyRelu", "Sigmoid"]),
    bias=st.booleans(),
)
def test_it_equals_conv_transpose(axes, inputs, outputs, seed, activation, bias):
    model, x = conv_transpose(axes, inputs, outputs, seed, activation, bias)
    rewritten, (decision,) = apply(model, [to_subpixel()])
    assert decision.applied == ("ConvTranspose" not in operators(rewritten)), decision
    if not decision.applied:
        assert "multiply-adds" in decision.why
    assert_equal(model, rewritten, x, float64=decision.applied)


@pytest.mark.parametrize("rank", [1, 2])
def test_equal_axes_of_the_usual_kinds_are_all_rewritten(rank):
    for kernel, stride, pad, extra in [
        (3, 2, 1, 1),
        (4, 2, 1, 0),
        (2, 2, 0, 0),
        (5, 2, 2, 1),
        (3, 1, 1, 0),
        (5, 3, 1, 0),
    ]:
        model, x = conv_transpose([(4, kernel, stride, pad, pad, extra, 1)] * rank, 3, 2, 0, "Relu")
        rewritten, (decision,) = apply(model, [to_subpixel()])
        assert decision.applied
        assert operators(rewritten)[:2] == ["Conv", "Relu"]  # the activation comes before the shuffle
        assert_equal(model, rewritten, x)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "taps"),
    [(4, 2, 1, 2), (3, 3, 2, 1), (8, 4, 2, 2), (6, 3, 1, 2), (3, 2, 1, 2), (2, 2, 0, 1), (5, 2, 2, 3)],
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_phase_has_taps_of_zeros_for_a_padding_off_the_stride(kernel, stride, pad, taps, rank):
    model, x = conv_transpose([(8, kernel, stride, pad, pad, 0, 1)] * rank, 2, 2, 0, "Relu")
    rewritten, (decision,) = apply(model, [to_subpixel()])
    assert decision.applied
    weight = next(tensor for tensor in rewritten.graph.initializer if tensor.name.endswith("_subpixel_weight"))
    assert list(weight.dims[2:]) == [taps] * rank
    assert_equal(model, rewritten, x, float64=rank < 3)


def test_nothing_lies_between_a_shuffle_and_what_merges_with_it():
    model, x = conv_transpose([(6, 4, 2, 1, 1, 0, 1)] * 2, 3, 2, 0)
    for names, cropped in ((frozenset(), True), (frozenset({"up"}), False)):
        rewritten, _ = apply(model, [to_subpixel(uncropped=lambda layer, names=names: layer.name in names)])
        assert ("Slice" in operators(rewritten)) == cropped
        assert_equal(model, rewritten, x)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"group": 2}, "2 groups"),
        ({"dilations": [2, 2]}, "dilated by 2x2, and it would take 7.84x"),
        ({"auto_pad": "SAME_UPPER"}, "auto_pad=SAME_UPPER"),
        ({"output_shape": [9, 9]}, "output_shape"),
    ],
)
def test_what_it_leaves_alone_and_why(attributes, words):
    rng = np.random.default_rng(0)
    attrs = {"strides": [2, 2], "kernel_shape": [3, 3], **attributes}
    outputs = 2 if attributes.get("group") else 4
    model = graph([("ConvTranspose", ["x", "w"], ["y"], attrs)], [4, 5, 5], {"w": weights(rng, 4, outputs, 3, 3)})
    rewritten, (decision,) = apply(model, [to_subpixel()])
    assert not decision.applied
    assert words in decision.why
    assert operators(rewritten) == ["ConvTranspose"]


def test_weights_that_are_not_constant():
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("ConstantOfShape", ["k"], ["w"], {}),
        ("ConvTranspose", ["x", "w"], ["y"], {}),
    ]
    model = graph(nodes, [4, 5, 5], {"k": np.array([4, 2, 3, 3], np.int64)})
    _, (decision,) = apply(model, [to_subpixel()])
    assert not decision.applied
    assert "not constant" in decision.why


def test_only_the_named_nodes():
    rng = np.random.default_rng(0)
    nodes = [("ConvTranspose", ["x", "w"], ["a"], {"strides": [2, 2]}), ("ConvTranspose", ["a", "w"], ["y"], {})]
    model = graph(nodes, [4, 3, 3], {"w": weights(rng, 4, 4, 2, 2)})
    rewritten, decisions = apply(model, [to_subpixel(lambda layer: layer.name == "a")])
    assert [decision.applied for decision in decisions] == [True, False]
    assert_equal(model, rewritten, weights(rng, 1, 4, 3, 3))
