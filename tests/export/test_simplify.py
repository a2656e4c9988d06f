"""Simplification is re-checked: what changes results is dropped, with a notice."""

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from edgeae_export.graph.running import clean, runner
from edgeae_export.graph.simplify import simplify
from edgeae_export.graph.trace import trace
from torch import nn

from tests.export.graphs import graph


@pytest.fixture
def traced(model):
    return trace(model.encoder, torch.zeros(3, 1, 16, 16), "image", ["latent"])


@pytest.fixture
def inputs(images):
    return images[:13].astype(np.float32) / 255


def test_it_simplifies_and_keeps_the_results(inputs):
    class Wasteful(nn.Module):
        def forward(self, x):
            return (x.flatten(1).unsqueeze(1).squeeze(1) + 0.0 + torch.zeros(3).sum()) * torch.ones(256).cumsum(0)

    wasteful = trace(Wasteful().eval(), torch.zeros(3, 1, 16, 16), "image", ["latent"])
    simplified, report = simplify(wasteful, inputs, 1e-4)
    assert not report.notice
    assert sum(report.operators_after.values()) <= sum(report.operators_before.values())
    np.testing.assert_allclose(runner(simplified)(inputs), runner(wasteful)(inputs), rtol=1e-6)


def changing(graph, perform_optimization):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    weight = other.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    return other, True


def failing(graph, perform_optimization):
    raise RuntimeError("out of ideas")


def freezing(graph, perform_optimization):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return other, True


WRONG = {changing: "changed the outputs by", failing: "out of ideas", freezing: "inputs or outputs"}
"""Simplifiers, and what is said of them."""


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_simplifier_is_dropped(wrong, traced, inputs, monkeypatch):
    monkeypatch.setattr(onnxsim, "simplify", wrong)
    kept, report = simplify(traced, inputs, 1e-6)
    assert kept is traced
    assert WRONG[wrong] in report.notice


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_where_optimising_is_wrong_constants_are_folded_alone(wrong, traced, inputs, monkeypatch):
    real = onnxsim.simplify

    def wrong_unless_careful(graph, perform_optimization):
        return (wrong if perform_optimization else real)(graph, perform_optimization=perform_optimization)

    monkeypatch.setattr(onnxsim, "simplify", wrong_unless_careful)
    kept, report = simplify(traced, inputs, 1e-6)
    assert kept is not traced
    assert not report.notice


def test_copies_of_a_constant_are_stored_once():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((40, 40)).astype(np.float32)
    nodes = [
        ("MatMul", ["x", "one"], ["h"], {}),
        ("MatMul", ["h", "two"], ["g"], {}),
        ("MatMul", ["g", "three"], ["y"], {}),
    ]
    model = graph(nodes, [40], {"one": weight, "two": weight.copy(), "three": weight.T.copy()})
    x = rng.standard_normal((3, 40)).astype(np.float32)
    before = runner(model)(x)
    clean(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["one", "three"]
    np.testing.assert_array_equal(runner(model)(x), before)
