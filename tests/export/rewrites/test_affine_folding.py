"""A Gemm and the convolution of its map, folded into one."""

import numpy as np
import pytest
from edgeae_export.rewrites import affine_folding
from edgeae_export.rewrites.affine_folding import fold_affine
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)
GEMM = ("Gemm", ["x", "a", "c"], ["flat"], {"transB": 1})
RESHAPE = ("Reshape", ["flat", "shape"], ["map"], {})
RELU = ("Relu", ["up"], ["y"], {})


def layer(op, inputs=("map", "w", "b"), **attrs):
    attrs = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3], **attrs}
    if op == "ConvTranspose":
        attrs["output_padding"] = [1, 1]
    return (op, list(inputs), ["up"], attrs)


def affine_graph(*nodes, latent=2, group=1):
    constants = {
        "a": weights(RNG, 16 * 16, latent), "c": weights(RNG, 16 * 16), "shape": np.array([-1, 16, 4, 4]),
        "w": weights(RNG, 16, 16 // group, 3, 3), "b": weights(RNG, 16), "k": np.array([16, 16, 3, 3]),
        "half": np.array([-1, 16, 4, 2]), "16": np.array([16]), "4": np.array([4]), "-1": np.array([-1]),
        "zero": np.array([0]),
    }  # fmt: skip
    return graph(nodes, [latent], constants)


@pytest.mark.parametrize(("group", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_affine_layers_fold_for_a_small_latent(op, group, dilation):
    attrs = {"group": group, "dilations": [dilation] * 2, "pads": [dilation] * 4}
    model = affine_graph(GEMM, RESHAPE, layer(op, **attrs), RELU, latent=1, group=group)
    folded, (decision,) = apply(model, [fold_affine])
    assert decision.applied
    assert operators(folded) == ["Gemm", "Relu", "Reshape"]
    plain = op == "Conv" or group == 1  # ONNX's reference has no grouped ConvTranspose
    assert_equal(model, folded, weights(RNG, 3, 1), float64=plain, tolerance=FOLDED_TOLERANCE)


def test_whether_it_pays_is_known_before_anything_is_convolved(monkeypatch):
    monkeypatch.setattr(affine_folding, "_convolved", None)
    kept, (decision,) = apply(affine_graph(GEMM, RESHAPE, layer("ConvTranspose"), RELU, latent=8), [fold_affine])
    assert decision.why == ("it would not pay: 38,912 multiply-adds would become 8,192, and 4,352 weights 8,192")
    assert "ConvTranspose" in operators(kept)


SCALED = ("Gemm", ["x", "a", "c"], ["flat"], {"transB": 1, "alpha": 2.0})
COMPUTED = ("ConstantOfShape", ["k"], ["v"], {})
HALVES = ("Reshape", ["flat", "half"], ["map"], {})
READ_TOO = ("Add", ["up", "mean"], ["y"], {})


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([SCALED, RESHAPE, layer("Conv"), RELU], "not constant"),
        ([COMPUTED, GEMM, RESHAPE, layer("Conv", ["map", "v"]), RELU], "not constant"),
        ([GEMM, RESHAPE, layer("Conv", pads=[1, 1, 0, 0]), RELU], "same on both sides"),
        ([GEMM, RESHAPE, ("Conv", ["map", "w"], ["up"], {"auto_pad": "SAME_UPPER"}), RELU], "same on both sides"),
        ([GEMM, RESHAPE, ("ConvTranspose", ["map", "w"], ["up"], {"output_shape": [7, 7]}), RELU], "same on both"),
        ([GEMM, RESHAPE, layer("Conv"), ("ReduceMean", ["map"], ["mean"], {}), READ_TOO], "read elsewhere"),
        ([GEMM, RESHAPE, layer("Conv"), ("ReduceMean", ["flat"], ["mean"], {}), READ_TOO], "read elsewhere"),
        ([GEMM, HALVES, layer("Conv"), RELU], "other rows"),
        ([("Shape", ["x"], ["s"], {}), ("NonZero", ["s"], ["n"], {}), ("Size", ["n"], ["rows"], {}),
          ("Unsqueeze", ["rows", "zero"], ["r"], {}), ("Concat", ["-1", "16", "r", "4"], ["to"], {"axis": 0}),
          GEMM, ("Reshape", ["flat", "to"], ["map"], {}), layer("Conv"), RELU], "size of the map is not known"),
    ],
)  # fmt: skip
def test_what_it_leaves_alone_and_why(nodes, words):
    kept, (decision,) = apply(affine_graph(*nodes), [fold_affine])
    assert not decision.applied
    assert words in decision.why
    assert "Reshape" in operators(kept)


def test_something_nonlinear_between_is_no_concern():
    between = ("Relu", ["map"], ["mid"], {})
    assert apply(affine_graph(GEMM, RESHAPE, between, layer("Conv", ["mid", "w"]), RELU), [fold_affine])[1] == []
