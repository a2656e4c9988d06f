"""Each rewrite equals the graph it came from, does what it says, and leaves alone what it must."""

import numpy as np
import pytest
from edgeae_export.rewrites import (
    move_below_shuffle,
    resize_to_phases,
    split_col2im,
    split_phases,
    to_channels_last,
    to_gemm,
    to_subpixel,
)
from edgeae_export.rewrites.phase_split import trim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


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
    merged, (decision,) = move_below_shuffle(model)
    assert decision.applied != any(pads[i] >= kernel[i % 2] for i in range(4))
    assert operators(merged) == (["ConvTranspose"] if decision.applied else ["DepthToSpace", "Conv"])
    assert_equal(model, merged, weights(RNG, 2, channels * block**2, 3, 3))


def test_many_outputs_stay_above_the_shuffle():
    nodes = [("DepthToSpace", ["x"], ["big"], {"blocksize": 2}), ("Conv", ["big", "w"], ["y"], {"pads": [1] * 4})]
    _, (decision,) = move_below_shuffle(graph(nodes, [16, 3, 3], {"w": weights(RNG, 8, 4, 3, 3)}))
    assert not decision.applied
    assert "too many outputs: 128" in decision.why


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
    split, (decision,) = split_col2im(model)
    assert decision.applied
    assert operators(split)[:3] == ["Transpose", "Reshape", "MatMul"]
    assert_equal(model, split, weights(RNG, 2, 5, 4, 4))


def test_a_split_needs_a_saving():
    nodes = [("Conv", ["x", "w"], ["c"], {"pads": [0, 0, 1, 1]}), ("DepthToSpace", ["c"], ["y"], {"blocksize": 2})]
    model = graph(nodes, [3, 4, 4], {"w": weights(RNG, 8, 3, 2, 2)})
    kept, (decision,) = split_phases(model)
    assert not decision.applied
    assert "save 0 %" in decision.why
    assert operators(kept) == ["Conv", "DepthToSpace"]


def test_zeros_are_trimmed_only_with_their_padding():
    weight = np.zeros((2, 3, 3, 3), np.float32)
    weight[:, :, 2, 1] = 1
    trimmed = trim(weight, (1, 0), (0, 1))
    # One row may go at the top, for one of padding stood before it; none on the left; one column on the right.
    assert trimmed.weight.shape == (2, 3, 2, 2)
    assert (trimmed.pads_begin, trimmed.pads_end) == ((0, 0), (0, 0))
    assert trim(np.zeros((2, 3, 2, 2), np.float32), (0, 0), (1, 1)).weight.shape == (2, 3, 1, 1)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("activation", ["Relu", None])
def test_resize_and_convolution_become_phases(factor, kernel, activation):
    nodes = [
        ("Resize", ["x", "", "scales"], ["big"],
         {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Conv", ["big", "w", "b"], ["c"], {"pads": [kernel // 2] * 4}),
        (activation or "Identity", ["c"], ["y"], {}),
    ]  # fmt: skip
    constants = {"scales": np.array([1, 1, factor, factor], np.float32), "w": weights(RNG, 3, 4, kernel, kernel)}
    model = graph(nodes, [4, 5, 6], constants | {"b": weights(RNG, 3)})
    rewritten, (decision,) = resize_to_phases(model)
    assert decision.applied
    assert "Resize" not in operators(rewritten)
    assert_equal(model, rewritten, weights(RNG, 2, 4, 5, 6), tolerance=FOLDED_TOLERANCE)


@pytest.mark.parametrize(
    ("resize", "conv", "words"),
    [
        ({"mode": "linear"}, {}, "not a nearest one"),
        ({"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}, {}, "not a nearest one"),
        ({}, {"pads": [0] * 4}, "keep the size"),
        ({}, {"strides": [2, 2], "pads": [1] * 4}, "stride"),
    ],
)
def test_other_resizes_are_left_alone(resize, conv, words):
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **resize}
    nodes = [
        ("Resize", ["x", "", "scales"], ["big"], mode),
        ("Conv", ["big", "w"], ["y"], {"pads": [1] * 4, **conv}),
    ]
    constants = {"scales": np.array([1, 1, 2, 2], np.float32), "w": weights(RNG, 3, 4, 3, 3)}
    model = graph(nodes, [4, 5, 5], constants)
    kept, (decision,) = resize_to_phases(model)
    assert not decision.applied
    assert words in decision.why
    assert_equal(model, kept, weights(RNG, 2, 4, 5, 5), float64=False)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "pad", "extra"), [(4, 1, 0, 0), (4, 2, 1, 0), (3, 2, 0, 1), (1, 1, 0, 0)])
def test_a_map_of_one_position_becomes_a_product(rank, kernel, stride, pad, extra):
    attrs = {"strides": [stride] * rank, "pads": [pad] * 2 * rank, "output_padding": [extra] * rank}
    nodes = [("ConvTranspose", ["x", "w", "b"], ["up"], attrs), ("Clip", ["up", "low"], ["y"], {})]
    constants = {"w": weights(RNG, 5, 3, *[kernel] * rank), "b": weights(RNG, 3), "low": np.float32(-0.5)}
    model = graph(nodes, [5] + [1] * rank, constants)
    product, (decision,) = to_gemm(model)
    assert decision.applied == (extra == 0)  # output padding would store rows of zeros
    assert ("ConvTranspose" in operators(product)) == (extra > 0)
    assert_equal(model, product, weights(RNG, 3, 5, *[1] * rank), float64=False)
    larger = graph(nodes, [5] + [2] * rank, constants)
    assert to_gemm(larger)[1] == []


@pytest.mark.parametrize("strides", [(2,), (3,), (2, 3), (2, 2, 2), (1, 2, 3)])
def test_any_shuffle_is_written_channels_last(strides):
    rank = len(strides)
    nodes = [("ConvTranspose", ["x", "w"], ["up"], {"strides": list(strides)}), ("Relu", ["up"], ["y"], {})]
    model = graph(nodes, [4] + [3] * rank, {"w": weights(RNG, 4, 2, *strides)})
    shuffled, _ = to_subpixel(model)
    last, (decision,) = to_channels_last(shuffled)
    assert decision.applied
    assert operators(last) == ["Conv", "Relu", "Transpose", "Reshape", "Transpose", "Reshape", "Transpose"]
    assert_equal(model, last, weights(RNG, 2, 4, *[3] * rank))


@pytest.mark.parametrize(("factors", "applied"), [((2, 2), True), ((1, 3), True), ((2, 1), True), ((1.5, 1), False)])
def test_a_nearest_resize_repeats_pixels_and_rows(factors, applied):
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    model = graph([("Resize", ["x", "", "s"], ["y"], mode)], [3, 4, 6], {"s": np.float32([1, 1, *factors])})
    repeated, (decision,) = to_channels_last(model)
    assert decision.applied == applied
    assert ("Resize" in operators(repeated)) != applied
    assert_equal(model, repeated, weights(RNG, 2, 3, 4, 6), float64=applied)
