"""Small graphs to rewrite, and their evaluation in float32 by ONNX Runtime and in float64 by ONNX's reference."""

import numpy as np
import onnx
from edgeae_export.graph.running import IR_VERSION, OPSET, runner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

FLOAT32_TOLERANCE = 2e-5
"""Relative to the largest output: sums of some hundred float32 products in two different orders."""
FLOAT64_TOLERANCE = 1e-12
FOLDED_TOLERANCE = 1e-6
"""In float64, for rewrites that compute new weights and round each to float32 once."""


def graph(nodes, input_shape, constants, outputs=("y",)):
    """A float32 model from nodes: `x` with a dynamic batch -> `outputs`."""
    made = helper.make_graph(
        [helper.make_node(op, list(inputs), list(out), name=out[0], **attrs) for op, inputs, out, attrs in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *input_shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def in_float64(model):
    """The same graph in double precision, for the reference evaluator."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float64), tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return ReferenceEvaluator(wide)


def assert_equal(before, after, x, *, float64=True, tolerance=FLOAT64_TOLERANCE):
    """Both graphs compute the same: in float32 by ONNX Runtime, in float64 (to `tolerance`) by the reference."""
    expected, got = runner(before)(x), runner(after)(x)
    scale = max(np.abs(expected).max(), 1e-3)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=FLOAT32_TOLERANCE * scale, rtol=0)
    if float64:
        wide = [in_float64(model).run(None, {"x": x.astype(np.float64)})[0] for model in (before, after)]
        np.testing.assert_allclose(wide[1], wide[0], atol=tolerance * scale, rtol=0)


def operators(model):
    """The operators of a graph, in order."""
    return [node.op_type for node in model.graph.node]


def weights(rng, *shape):
    """Small normal numbers."""
    return rng.standard_normal(shape).astype(np.float32)
