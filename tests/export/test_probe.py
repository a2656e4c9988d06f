"""Every step is compared with the one before, on real inputs and on corners; what differs or raises is dropped."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgeae_export.graph.editing import opened
from edgeae_export.graph.probe import CHECKED, Probe, observed_corners, picture_corners
from edgeae_export.graph.running import runner
from edgeae_export.graph.values import keeps_rows, of_type
from edgeae_export.int8 import equalize as equalize_module
from edgeae_export.int8.equalize import equalizable, equalize
from edgeae_export.rewrites import fold_affine, plans, to_channels_last
from edgeae_export.rewrites.candidates import exact_candidates
from edgeae_export.rewrites.plans import FOLDED, INT8_PLANS, fold
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import graph, operators, weights
from tests.export.test_fit import uneven_decoder

RNG = np.random.default_rng(0)
TOLERANCE = 1e-4
"""Of outputs around one: a hundred roundings."""


def offset(amount, threshold):
    """y = x where x is below the threshold, and more above it: no input below tells the two apart."""
    constants = {"t": np.float32(threshold), "a": np.float32(amount)}
    return graph(
        [("Sub", ["x", "t"], ["d"], {}), ("Relu", ["d"], ["r"], {}), ("Mul", ["r", "a"], ["m"], {}),
         ("Add", ["x", "m"], ["y"], {})], [4], constants,
    )  # fmt: skip


REAL = RNG.uniform(0.2, 0.8, (20, 4)).astype(np.float32)


def test_what_differs_on_corners_alone_is_found():
    assert not Probe(offset(0, 0.85), REAL, 1e-6).difference(offset(0, 0.85))
    found = Probe(offset(0, 0.85), REAL, 1e-6).difference(offset(1, 0.85))  # twice a real one is above
    assert "changed the outputs" in found
    assert "corner" in found
    found = Probe(offset(0, 0.5), REAL, 1e-6).difference(offset(1, 0.5))
    assert "changed the outputs" in found
    assert "corner" not in found


def test_nan_on_a_corner_and_graphs_that_do_not_run_are_found():
    def ratio(epsilon):
        return graph([("Add", ["x", "e"], ["s"], {}), ("Div", ["x", "s"], ["y"], {})], [4], {"e": np.float32(epsilon)})

    assert "NaN or infinity on a corner" in Probe(ratio(1e-15), REAL, 1e-5).difference(ratio(0))  # zeros are one
    assert not Probe(ratio(1e-15), REAL, 1e-5).difference(ratio(1e-15))
    wrong = graph([("Reshape", ["x", "shape"], ["y"], {})], [4], {"shape": np.array([2, 3])})
    assert "does not run" in Probe(offset(0, 1), REAL, 1e-5).difference(wrong)


def test_corners_never_loosen_the_limit_of_real_inputs():
    huge = np.full((1, 4), 1e30, np.float32)  # whose rounding alone is 1e23
    probe = Probe(offset(0, 1), REAL, 1e-5, huge)
    moved = graph([("Add", ["x", "c"], ["y"], {})], [4], {"c": np.float32(1e-3)})
    assert "changed the outputs" in probe.difference(moved)


def test_corners_are_few_finite_and_the_same_each_time():
    for make, values in ((picture_corners, RNG.random((20, 3, 8, 8), np.float32)), (observed_corners, REAL)):
        (names, first), (_, second) = make(values), make(values)
        assert 10 <= len(names) == len(first) <= 16
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, second)
    names, corners = picture_corners(RNG.random((20, 1, 8, 8), np.float32))
    assert corners.min() == 0
    assert corners.max() == 1
    assert {"black", "white", "noise", "one bright pixel"} <= set(names)


@pytest.mark.parametrize("failure", ["raises", "differs"])
def test_one_bad_rewrite_does_not_lose_the_others(monkeypatch, failure):
    model, x = uneven_decoder()

    def bad(graph):
        if failure == "raises":
            raise IndexError("index 448 is out of bounds")
        decisions = right(graph)
        for name, value in graph.initializers.items():
            if name.endswith("columns_weight"):
                value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=name)
        return decisions

    right = plans.split_col2im
    monkeypatch.setattr(plans, "split_col2im", bad)
    candidate = exact_candidates(model, INT8_PLANS, x, TOLERANCE)["sub-pixel by rows"]
    dropped = [each for each in candidate.decisions if each.rule == "col2im" and "dropped" in each.why]
    assert dropped
    assert ("IndexError" if failure == "raises" else "changed the outputs") in dropped[0].why
    assert candidate.plan.left_out == {"col2im"}  # so that a fit of this plan leaves it out as well
    assert "DepthToSpace" not in operators(candidate.graph)  # the sub-pixel form, channels last
    assert "Col2Im" not in operators(candidate.graph)
    np.testing.assert_allclose(runner(candidate.graph)(x[:7]), runner(model)(x[:7]), atol=TOLERANCE)


def test_a_fold_that_raises_is_dropped_too(monkeypatch):
    def bad(graph):
        raise onnx.shape_inference.InferenceError("dimension mismatch")

    monkeypatch.setitem(plans.FOLDING, "affine_folding", bad)
    model, x = uneven_decoder()
    candidates = exact_candidates(model, [FOLDED], x, TOLERANCE)
    decisions = [decision for each in candidates.values() for decision in each.decisions]
    assert any(each.rule == "affine_folding" and "InferenceError" in each.why for each in decisions)


def frames(rows=4, channels=16, latent=8):
    """A decoder that folds its frames into the batch: Gemm [n, rows * channels * 49] -> Reshape [rows * n, ...]."""
    nodes = [
        ("Gemm", ["x", "a", "c"], ["flat"], {"transB": 1}),
        ("Relu", ["flat"], ["h"], {}),
        ("Reshape", ["h", "shape"], ["map"], {}),
        ("ConvTranspose", ["map", "w1", "b1"], ["u1"], {"strides": [2, 2], "pads": [1] * 4}),
        ("Relu", ["u1"], ["h1"], {}),
        ("ConvTranspose", ["h1", "w2", "b2"], ["u2"], {"strides": [2, 2], "pads": [1] * 4}),
        ("Reshape", ["u2", "back"], ["y"], {}),
    ]
    constants = {
        "a": weights(RNG, rows * channels * 49, latent), "c": weights(RNG, rows * channels * 49),
        "shape": np.array([-1, channels, 7, 7]), "back": np.array([-1, rows, 1, 28, 28]),
        "w1": weights(RNG, channels, 16, 4, 4) / 16, "b1": weights(RNG, 16),
        "w2": weights(RNG, 16, 1, 4, 4) / 16, "b2": weights(RNG, 1),
    }  # fmt: skip
    return graph(nodes, [latent], constants), weights(RNG, 40, latent)


def tokens():
    """Dense layers on tokens: Gemm [49 n, 32] -> Reshape [n, 7, 7, 32] -> map."""
    nodes = [
        ("Reshape", ["x", "rows"], ["r"], {}),
        ("Gemm", ["r", "a", "c"], ["wide"], {}),
        ("Relu", ["wide"], ["h"], {}),
        ("Reshape", ["h", "grid"], ["g"], {}),
        ("Conv", ["g", "w", "b"], ["y"], {"pads": [1] * 4}),
    ]
    constants = {
        "rows": np.array([-1, 4]), "a": weights(RNG, 4, 32), "c": weights(RNG, 32),
        "grid": np.array([-1, 32, 7, 7]), "w": weights(RNG, 8, 32, 3, 3) / 16, "b": weights(RNG, 8),
    }  # fmt: skip
    return graph(nodes, [49, 4], constants), weights(RNG, 40, 49, 4)


@pytest.mark.parametrize("made", [frames, tokens, lambda: frames(channels=64, latent=2)])
def test_a_reshape_that_makes_other_rows_is_no_concern_of_the_rewrites(made):
    model, x = made()
    expected = runner(model)(x[:CHECKED])
    decisions = []
    for step in (fold_affine, to_channels_last):
        rewritten, told = apply(model, [step])
        decisions += told
        np.testing.assert_allclose(runner(rewritten)(x[:CHECKED]), expected, atol=TOLERANCE)
    np.testing.assert_allclose(runner(equalize(model, x, 0.5))(x[:CHECKED]), expected, atol=TOLERANCE)
    assert all("other rows" in each.why or not each.applied for each in decisions)
    for name, candidate in exact_candidates(model, INT8_PLANS, x, TOLERANCE).items():
        np.testing.assert_allclose(runner(candidate.graph)(x[:7]), expected[:7], atol=TOLERANCE, err_msg=name)
        assert not candidate.plan.left_out  # left alone by their preconditions, not caught by the comparison


def test_rows():
    assert [keeps_rows(node) for node in of_type(opened(frames()[0]).graph, "Reshape")] == [False, False]
    assert [keeps_rows(node) for node in of_type(opened(uneven_decoder()[0]).graph, "Reshape")] == [True]


@pytest.mark.parametrize("failure", ["raises", "differs"])
def test_an_equalisation_that_is_not_exact_is_dropped(monkeypatch, failure):
    model, x = uneven_decoder()
    folded, _ = fold(model)
    assert equalizable(folded)

    def bad(edit, layer, scale):
        if failure == "raises":
            raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(equalize_module, "_multiply_inputs", bad)
    assert equalize(folded, x, 0.5) is folded
