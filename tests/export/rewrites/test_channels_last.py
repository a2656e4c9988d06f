"""Shuffles, nearest Resizes and maps written channels last."""

import numpy as np
import pytest
from edgeae_export.rewrites.channels_last import to_channels_last
from edgeae_export.rewrites.steps import apply
from edgeae_export.rewrites.subpixel import to_subpixel

from tests.export.graphs import FLOAT64_TOLERANCE, assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)
GENERAL = ["Transpose", "Reshape", "Transpose", "Reshape", "Transpose"]
BY_ROWS = ["Transpose", "Reshape", "Transpose", "Reshape", "Concat", "Reshape", "Transpose"]
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize("strides", [(2,), (3,), (2, 3), (2, 2), (2, 2, 2), (1, 2, 3)])
def test_any_shuffle_is_written_channels_last(strides):
    rank = len(strides)
    nodes = [("ConvTranspose", ["x", "w"], ["up"], {"strides": list(strides)}), ("Relu", ["up"], ["y"], {})]
    model = graph(nodes, [4] + [3] * rank, {"w": weights(RNG, 4, 2, *strides)})
    last, (_, decision) = apply(model, [to_subpixel(), *to_channels_last])
    assert decision.why == "the shuffle channels last: a copy of whole blocks"
    assert operators(last) == ["Conv", "Relu", *GENERAL]
    assert_equal(model, last, weights(RNG, 2, 4, *[3] * rank))


@pytest.mark.parametrize(("size", "mode"), [([8, 3, "width"], "DCR"), ([8, 3, 3], "CRD")])
def test_a_shuffle_of_another_order_or_of_unknown_size_stays(size, mode):
    model = graph([("DepthToSpace", ["x"], ["y"], {"blocksize": 2, "mode": mode})], size, {})
    kept, (decision,) = apply(model, to_channels_last)
    assert decision.why == "its size is not known, or its mode is not DCR"
    assert operators(kept) == ["DepthToSpace"]


@pytest.mark.parametrize(
    ("phases", "order", "shape"),
    [
        ([0, 2, 2, 3, 4, 5], [0, 3, 4, 1, 5, 2], [0, 3, 8, 10]),  # the right one
        ([0, 3, 2, 2, 4, 5], [0, 3, 4, 1, 5, 2], [0, 2, 12, 10]),  # as well: the first axis has three phases
        ([0, 2, 2, 3, 4, 5], [0, 3, 5, 1, 4, 2], [0, 3, 10, 8]),
        ([0, 2, 2, 3, 4, 5], [0, 3, 1, 4, 5, 2], [0, 3, 8, 10]),
        ([0, 2, 2, 3, 4, 5], [0, 3, 4, 1, 5, 2], [0, 3, 4, 20]),
        ([0, 3, 2, 2, 5, 4], [0, 3, 4, 1, 5, 2], [0, 2, 15, 8]),
        ([0, 12, 4, 5], [0, 2, 3, 1], [0, 4, 60]),
        ([0, 2, 6, 4, 5], [0, 2, 3, 1, 4], [0, 6, 8, 5]),
        ([0, 240], [0, 1], [0, 240]),
    ],
)
def test_what_is_no_shuffle_is_no_concern(phases, order, shape):
    nodes = [
        ("Reshape", ["x", "phases"], ["p"], {}),
        ("Transpose", ["p"], ["i"], {"perm": order}),
        ("Reshape", ["i", "shape"], ["y"], {}),
    ]
    size = [240] if len(phases) == 2 else [12, 4, 5]
    model = graph(nodes, size, {"phases": np.array(phases), "shape": np.array(shape)})
    last, decisions = apply(model, to_channels_last)
    applied = order == [0, 3, 4, 1, 5, 2] and shape in ([0, 3, 8, 10], [0, 2, 12, 10])
    assert [decision.applied for decision in decisions] == [True] * applied
    assert operators(last) == (GENERAL if applied else ["Reshape", "Transpose", "Reshape"])
    assert_equal(model, last, weights(RNG, 2, *size))


@pytest.mark.parametrize(
    ("parts", "axis", "outputs", "rows"),
    [
        ((8, 8), 1, ("y",), True),
        ((4, 12), 1, ("y",), False),
        ((4, 4, 4, 4), 1, ("y",), False),
        ((16, 16), 2, ("y",), False),
        ((8, 8), 1, ("y", "c"), False),
    ],
)
def test_a_concat_of_the_row_phases_interleaves_them(parts, axis, outputs, rows):
    names = [f"part{index}" for index in range(len(parts))]
    nodes = [
        *(("Conv", ["x", f"{name}_w"], [name], {"pads": [1] * 4}) for name in names),
        ("Concat", names, ["c"], {"axis": axis}),
        ("DepthToSpace", ["c"], ["y"], {"blocksize": 2}),
    ]
    constants = {f"{name}_w": weights(RNG, size, 3, 3, 3) for name, size in zip(names, parts, strict=True)}
    model = graph(nodes, [3, 4, 5], constants, outputs)
    last, (decision,) = apply(model, to_channels_last)
    assert ("interleaved by one Concat" in decision.why) == rows
    written = BY_ROWS if rows else ["Concat", *GENERAL]
    assert operators(last) == ["Conv"] * len(parts) + written
    assert_equal(model, last, weights(RNG, 2, 3, 4, 5))


def test_a_general_shuffle_of_joined_phases_is_copied_whole():
    """Over three axes the rows lie further apart than one Concat can interleave them."""
    nodes = [
        ("Concat", ["x", "x"], ["c"], {"axis": 1}),
        ("Reshape", ["c", "phases"], ["p"], {}),
        ("Transpose", ["p"], ["i"], {"perm": [0, 4, 5, 1, 6, 2, 7, 3]}),
        ("Reshape", ["i", "shape"], ["y"], {}),
    ]
    constants = {"phases": np.array([0, 2, 2, 2, 1, 3, 3, 3]), "shape": np.array([0, 1, 6, 6, 6])}
    model = graph(nodes, [4, 3, 3, 3], constants)
    last, (decision,) = apply(model, to_channels_last)
    assert "a copy of whole blocks" in decision.why
    assert_equal(model, last, weights(RNG, 2, 4, 3, 3, 3))


@pytest.mark.parametrize(
    ("factors", "applied"), [((2, 2), True), ((1, 3), True), ((2, 1), True), ((1.5, 1), False), ((2.2, 1), False)]
)
def test_a_nearest_resize_repeats_pixels_and_rows(factors, applied):
    model = graph([("Resize", ["x", "", "s"], ["y"], NEAREST)], [3, 4, 6], {"s": np.float32([1, 1, *factors])})
    repeated, (decision,) = apply(model, to_channels_last)
    assert decision.applied == applied
    assert ("Resize" in operators(repeated)) != applied
    assert_equal(model, repeated, weights(RNG, 2, 3, 4, 6), float64=applied)


def mapped(gemm, shape=(-1, 3, 4, 2), *, activation="Relu", outputs=("y",), computed=False):
    """x [5] -> Gemm of 24 columns -> activation -> map."""
    made = [("ConstantOfShape", ["k"], ["b"], {})] if computed else []
    nodes = [*made, ("Gemm", ["x", "w", "b"], ["h" if activation else "a"], gemm)]
    nodes += [(activation, ["h"], ["a"], {})] if activation else []
    nodes.append(("Reshape", ["a", "shape"], ["y"], {}))
    constants = {"w": weights(RNG, *((24, 5) if gemm.get("transB") else (5, 24))), "shape": np.array(shape)}
    constants |= {"k": np.array([24])} if computed else {"b": weights(RNG, 24)}
    return graph(nodes, [5], constants, outputs)


@pytest.mark.parametrize("activation", ["Relu", None])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_map_is_made_channels_last(activation, transposed):
    model = mapped({"transB": transposed}, activation=activation)
    last, (decision,) = apply(model, to_channels_last)
    assert decision.applied
    assert operators(last) == ["Gemm", *([activation] if activation else []), "Reshape", "Transpose"]
    assert_equal(model, last, weights(RNG, 3, 5), tolerance=FLOAT64_TOLERANCE)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (mapped({}, outputs=("y", "h")), "its output is read elsewhere too"),
        (mapped({}, activation=None, outputs=("y", "a")), "its output is read elsewhere too"),
        (mapped({}, (-1, 1, 4, 2)), "the reshape after it makes other rows than the Gemm's"),
        (mapped({}, outputs=("y", "a")), None),
        (mapped({}, (-1, 12, 2)), None),
        (mapped({"alpha": 2.0}), None),
        (mapped({}, computed=True), None),
        (mapped({}, activation="Softmax"), None),
    ],
)
def test_another_map_stays(model, words):
    last, decisions = apply(model, to_channels_last)
    assert [decision.why for decision in decisions] == ([words] if words else [])
    assert operators(last) == operators(model)


def flattened(nodes, constants, input_shape=(6, 4, 5)):
    """A Gemm that reads what nodes make of `x`, as `f`."""
    return graph([*nodes, ("Gemm", ["f", "w", "b"], ["y"], {})], list(input_shape), constants)


@pytest.mark.parametrize("flat", [("Flatten", ["x"], ["f"], {}), ("Reshape", ["x", "s"], ["f"], {})])
def test_a_gemm_that_reads_a_flattened_map_has_its_rows_reordered(flat):
    constants = {"w": weights(RNG, 120, 7), "b": weights(RNG, 7), "s": np.array([-1, 120])}
    model = flattened([flat], constants)
    reordered, decisions = apply(model, to_channels_last)
    assert [decision.applied for decision in decisions] == [True]
    assert operators(reordered) == ["Transpose", "Reshape", "Gemm"]
    assert_equal(model, reordered, weights(RNG, 3, 6, 4, 5))


def test_a_flattened_map_that_others_read_or_rows_across_the_batch_are_left_alone():
    constants = {"w": weights(RNG, 120, 7), "b": weights(RNG, 7)}
    shared = graph(
        [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w", "b"], ["y"], {}), ("Relu", ["f"], ["z"], {})],
        [6, 4, 5], constants, ("y", "z"),
    )  # fmt: skip
    across = flattened([("Reshape", ["x", "s"], ["f"], {})], constants | {"w": weights(RNG, 20, 7), "s": [-1, 20]})
    for model in (shared, across):
        decisions = apply(model, to_channels_last)[1]
        assert [decision.applied for decision in decisions] == [False]


def test_one_channel_and_one_position_have_one_order():
    for shape in ((20, 1, 1), (1, 4, 5)):
        model = flattened([("Flatten", ["x"], ["f"], {})], {"w": weights(RNG, 20, 7), "b": weights(RNG, 7)}, shape)
        assert apply(model, to_channels_last)[1] == []
