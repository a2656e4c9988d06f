"""Real graphs whose value_info promises another shape than they give: told as the bundle's fault, at the first call."""

import numpy as np
import pytest
from edgeae_runtime import BundleError, open_bundle
from edgeae_runtime.part import LoadedPart
from edgeae_runtime.sessions.providers import create_session

onnx = pytest.importorskip("onnx")

FLAT = ("Flatten", "image", "flat")
ZERO = [  # which only running tells
    ("Mul", "image", "nought", "nothing"), ("ReduceSum", "nothing", "sum"), ("Reshape", "sum", "one", "row"),
    ("Cast", "row", "zero"),
]  # fmt: skip
KINDS = {
    "four numbers": [*ZERO, FLAT, ("Add", "zero", "four", "end"), ("Slice", "flat", "start", "end", "one", "latent")],
    "no numbers": [*ZERO, FLAT, ("Slice", "flat", "start", "zero", "one", "latent")],
    "an item fewer": [
        *ZERO, FLAT, ("Add", "zero", "minus", "end"), ("Slice", "flat", "start", "end", "start", "some"),
        ("Slice", "some", "start", "three", "one", "latent"),
    ],
    "batch by batch": [FLAT, ("Transpose", "flat", "turned"), ("MatMul", "flat", "turned", "latent")],
    "scalar": [("ReduceSum", "image", "latent")],
    "one axis": [*ZERO, FLAT, ("Add", "zero", "minus", "end"), ("Reshape", "flat", "end", "latent")],
}  # fmt: skip


def graph(steps):
    """The bytes of an encoder that promises [batch, 3]."""
    helper, kind = onnx.helper, onnx.TensorProto
    numbers = {"one": 1, "four": 4, "start": 0, "minus": -1, "three": 3}
    constants = [helper.make_tensor(name, kind.INT64, [1], [value]) for name, value in numbers.items()]
    constants.append(helper.make_tensor("nought", kind.FLOAT, [1], [0]))
    attributes = {"Cast": {"to": kind.INT64}, "ReduceSum": {"keepdims": 0}, "Transpose": {"perm": [1, 0]}}
    nodes = [helper.make_node(op, names[:-1], names[-1:], **attributes.get(op, {})) for op, *names in steps]
    image = helper.make_tensor_value_info("image", kind.FLOAT, ["batch", 1, 16, 16])
    latent = helper.make_tensor_value_info("latent", kind.FLOAT, ["batch", 3])
    made = helper.make_graph(nodes, "encoder", [image], [latent], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 100])
def test_what_a_graph_gives_is_compared_with_the_manifest(bundle, kind, chunk):
    spec = open_bundle(bundle).manifest.parts["encoder"]
    session = create_session(graph(KINDS[kind]), "cpu", threads=1, spinning=False)

    def run():
        part = LoadedPart("encoder", spec, session, "cpu")
        part.chunk = chunk
        return part(np.zeros((2, 1, 16, 16), np.float32))

    with pytest.raises(BundleError, match="encoder's graph"):
        run()
