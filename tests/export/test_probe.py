"""Every step is compared with the one before, on real inputs and on corners; what differs or raises is dropped."""

from dataclasses import replace

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
from edgeae_export.rewrites import candidates
from edgeae_export.rewrites.affine_folding import fold_affine
from edgeae_export.rewrites.candidates import exact_candidates
from edgeae_export.rewrites.channels_last import to_channels_last
from edgeae_export.rewrites.col2im import split_col2im
from edgeae_export.rewrites.plans import FOLDED, FOLDING, INT8_PLANS, fold
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
def test_one_bad_rewrite_does_not_lose_the_others(failure):
    model, x = uneven_decoder()

    def wrongly(found):
        if failure == "raises":
            raise IndexError("index 448 is out of bounds")
        graph, told = found.graph, split_col2im.replace(found)
        for value in graph.initializers.values():
            if value.name.endswith("columns_weight"):
                value.const_value = ir.tensor(0 * value.const_value.numpy(), name=value.name)
        return told

    bad = replace(split_col2im, replace=wrongly)
    plan = replace(INT8_PLANS[0], steps=tuple(bad if step is split_col2im else step for step in INT8_PLANS[0].steps))
    candidate = exact_candidates(model, [plan], x, TOLERANCE)[plan.name]
    dropped = [each for each in candidate.decisions if each.rule == "col2im" and "dropped" in each.why]
    assert dropped
    assert ("IndexError" if failure == "raises" else "changed the outputs") in dropped[0].why
    # So that a fit of this plan leaves it out as well.
    assert candidate.plan.steps == tuple(step for step in plan.steps if step is not bad)
    assert "DepthToSpace" not in operators(candidate.graph)  # the sub-pixel form, channels last
    assert "Col2Im" not in operators(candidate.graph)
    np.testing.assert_allclose(runner(candidate.graph)(x[:7]), runner(model)(x[:7]), atol=TOLERANCE)


def test_a_fold_that_raises_is_dropped_too(monkeypatch):
    def raises(node):
        raise onnx.shape_inference.InferenceError("dimension mismatch")

    monkeypatch.setattr(candidates, "FOLDING", (*FOLDING, replace(fold_affine, match=raises)))
    model, x = uneven_decoder()
    forms = exact_candidates(model, [FOLDED], x, TOLERANCE)
    decisions = [decision for each in forms.values() for decision in each.decisions]
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
    rewritten, decisions = apply(model, [fold_affine, *to_channels_last])
    for changed in (rewritten, equalize(model, x, 0.5)):
        np.testing.assert_allclose(runner(changed)(x[:CHECKED]), expected, atol=TOLERANCE)
    assert all("other rows" in each.why or not each.applied for each in decisions)
    for name, candidate in exact_candidates(model, INT8_PLANS, x, TOLERANCE).items():
        np.testing.assert_allclose(runner(candidate.graph)(x[:7]), expected[:7], atol=TOLERANCE, err_msg=name)
        # Left alone by their conditions, not caught by the comparison.
        assert not any("dropped" in each.why for each in candidate.decisions)


def test_rows():
    for (model, _), keeps in ((frames(), [False, False]), (uneven_decoder(), [True])):
        assert [keeps_rows(node) for node in of_type(opened(model).graph, "Reshape")] == keeps


@pytest.mark.parametrize("failure", ["raises", "differs"])
def test_an_equalisation_that_is_not_exact_is_dropped(monkeypatch, failure):
    model, x = uneven_decoder()
    folded, _ = fold(model)
    assert equalizable(folded)

    def bad(editor, node, scale):
        if failure == "raises":
            raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(equalize_module, "_multiply_inputs", bad)
    assert equalize(folded, x, 0.5) is folded
