"""A product and the bias added to it, joined."""

import numpy as np
import pytest
from edgeae_export.rewrites.matmul_bias import join_bias
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bias_first", [True, False])
def test_a_bias_joins_the_product_before_it(bias_first):
    sums = ["b", "m"] if bias_first else ["m", "b"]
    nodes = [("MatMul", ["x", "w"], ["m"], {}), ("Add", sums, ["s"], {}), ("Relu", ["s"], ["y"], {})]
    model = graph(nodes, [5], {"w": weights(RNG, 5, 7), "b": weights(RNG, 7)})
    joined, (decision,) = apply(model, [join_bias])
    assert decision.applied
    assert operators(joined) == ["Gemm", "Relu"]
    assert_equal(model, joined, weights(RNG, 3, 5))


MATMUL = ("MatMul", ["x", "w"], ["m"], {})
ADD = ("Add", ["m", "b"], ["y"], {})


@pytest.mark.parametrize(
    ("nodes", "shape", "bias"),
    [
        ([MATMUL, ADD], [5], (1,)),  # one number for all columns
        ([MATMUL, ADD], [5], (2, 7)),  # other numbers for each row
        ([MATMUL, ADD], [5], (3, 1, 7)),
        ([MATMUL, ADD], [6, 5], (7,)),
        ([MATMUL, ("Add", ["m", "m"], ["y"], {})], [5], (7,)),
        ([MATMUL, ("Add", ["m", "b"], ["s"], {}), ("Add", ["m", "s"], ["y"], {})], [5], (7,)),
        ([MATMUL, ("Sub", ["m", "b"], ["y"], {})], [5], (7,)),
        ([("ConstantOfShape", ["k"], ["v"], {}), ("MatMul", ["x", "v"], ["m"], {}), ADD], [5], (7,)),
        ([("MatMul", ["x", "three"], ["m"], {}), ADD], [5], (7,)),
    ],
)
def test_other_sums_are_no_concern(nodes, shape, bias):
    constants = {
        "w": weights(RNG, 5, 7),
        "b": weights(RNG, *bias),
        "k": np.array([5, 7]),
        "three": weights(RNG, 2, 5, 7),
    }
    kept, decisions = apply(graph(nodes, shape, constants), [join_bias])
    assert decisions == []
    assert "Gemm" not in operators(kept)
