"""Plans: each rewrite under its module's name, and which ConvTransposes are taken in which form."""

import importlib
import pkgutil

import edgeae_export.rewrites
import numpy as np
import pytest
from edgeae_export.rewrites.plans import FLOAT_PLANS, FOLDING, INT8_PLANS, PIXEL_PLANS, fold, rewrite
from edgeae_export.targets import MIN_INPUTS

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, weights

RNG = np.random.default_rng(0)
PLANS = (*FLOAT_PLANS, *INT8_PLANS, *PIXEL_PLANS[: -len(INT8_PLANS)])
MERGED_TAIL = FLOAT_PLANS[0]


def test_every_rewrite_has_its_modules_name_and_is_in_a_plan():
    names = [module.name for module in pkgutil.iter_modules(edgeae_export.rewrites.__path__)]
    rules = {name: getattr(importlib.import_module(f"edgeae_export.rewrites.{name}"), "RULE", None) for name in names}
    taken = {step.rule for step in FOLDING} | {step.rule for plan in PLANS for step in plan.steps}
    assert taken == {name for name, rule in rules.items() if rule} == {rule for rule in rules.values() if rule}


def decoder(strides=(2, 2), outputs=1, conv_strides=(1, 1), read_twice=False, pictures=1):
    """ConvTranspose -> Relu -> Conv -> ConvTranspose."""
    nodes = [
        ("ConvTranspose", ["x", "w1"], ["up"], {"strides": list(strides), "pads": [1] * 4}),
        ("Relu", ["up"], ["h"], {}),
        ("Conv", ["h", "w2"], ["c"], {"strides": list(conv_strides)}),
        ("ConvTranspose", ["c", "w3"], ["last"], {"strides": [2, 2]}),
        *([("ReduceMean", ["h"], ["mean"], {}), ("Add", ["last", "mean"], ["y"], {})] if read_twice else []),
    ]
    constants = {
        "w1": weights(RNG, MIN_INPUTS, 3, 4, 4), "w2": weights(RNG, outputs, 3, 3, 3),
        "w3": weights(RNG, outputs, pictures, 4, 4),
    }  # fmt: skip
    return graph(nodes, [MIN_INPUTS, 5, 5], constants, outputs=("y" if read_twice else "last",))


@pytest.mark.parametrize(
    ("changes", "merges"),
    [
        ({}, True),
        ({"strides": (2, 1)}, False),
        ({"strides": (1, 1)}, False),
        ({"read_twice": True}, False),
        ({"outputs": 32}, False),  # too many to be spread
        ({"conv_strides": (2, 2)}, False),
    ],
)
def test_a_sub_pixel_form_merges_with_a_convolution_behind_it(changes, merges):
    model = decoder(**changes)
    rewritten, decisions = rewrite(model, MERGED_TAIL)
    assert {each.rule for each in decisions if each.applied} == ({"subpixel", "below_shuffle"} if merges else set())
    assert any("faster as it is" in each.why for each in decisions if each.node == "last")
    assert_equal(model, rewritten, weights(RNG, 2, MIN_INPUTS, 5, 5))


@pytest.mark.parametrize(
    ("outputs", "pictures", "rule"),
    [(MIN_INPUTS, 1, "col2im"), (MIN_INPUTS - 1, 1, "subpixel"), (MIN_INPUTS, 5, "subpixel")],
)
def test_in_int8_the_last_is_split_where_its_product_runs_in_int8(outputs, pictures, rule):
    model = decoder(outputs=outputs, pictures=pictures)
    for plan in INT8_PLANS[:-1]:
        rewritten, decisions = rewrite(model, plan)
        told = [(each.node, each.rule, each.applied) for each in decisions if each.node in ("up", "last")]
        assert sorted(told) == [("last", rule, True), ("up", "subpixel", True)]
        assert_equal(model, rewritten, weights(RNG, 2, MIN_INPUTS, 5, 5))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_plans_compute_the_same(plan):
    nodes = [
        ("Gemm", ["x", "a", "c"], ["flat"], {}),
        ("Reshape", ["flat", "shape"], ["map"], {}),
        ("Relu", ["map"], ["h0"], {}),
        ("ConvTranspose", ["h0", "w1"], ["up1"], {"strides": [2, 2], "pads": [1] * 4}),
        ("Relu", ["up1"], ["h1"], {}),
        ("Resize", ["h1", "", "scales"], ["big"],
         {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Conv", ["big", "w2"], ["h2"], {"pads": [1] * 4}),
        ("ConvTranspose", ["h2", "w3"], ["up2"], {"strides": [2, 2], "pads": [1] * 4}),
        ("Conv", ["up2", "w4"], ["logits"], {"pads": [1] * 4}),
        ("LeakyRelu", ["logits"], ["y"], {}),
    ]  # fmt: skip
    constants = {
        "a": weights(RNG, 3, 128), "c": weights(RNG, 128), "shape": np.array([-1, 8, 4, 4]),
        "scales": np.array([1, 1, 2, 2], np.float32), "w1": weights(RNG, 8, 6, 4, 4), "w2": weights(RNG, 6, 6, 3, 3),
        "w3": weights(RNG, 6, 4, 4, 4), "w4": weights(RNG, 1, 4, 3, 3),
    }  # fmt: skip
    model = graph(nodes, [3], constants)
    folded, _ = fold(model)
    rewritten, decisions = rewrite(folded, plan)
    assert any(each.applied for each in decisions) == (plan.steps != ())
    assert_equal(model, rewritten, weights(RNG, 2, 3), tolerance=FOLDED_TOLERANCE)
