"""What the exporter writes, every runtime loads: it asks the runtime's own guard, before anything is written."""

import onnx
import pytest
from edgeae_export.graph.running import OPSET, check_guarded, clean
from edgeae_export.pipeline import export
from edgeae_runtime import InputError
from edgeae_runtime.guard.graph_guard import check_graph
from edgeae_runtime.guard.operators import OPERATORS
from onnx import TensorProto, helper


def graph_of(nodes, initializers=()):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["batch", 4])], [value("y", TensorProto.FLOAT, None)], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def test_an_operator_that_runtimes_refuse_is_told_before_anything_is_written(model, images, monkeypatch, tmp_path):
    monkeypatch.delitem(OPERATORS, "Sigmoid")
    with pytest.raises(InputError, match=r"\(Sigmoid\).*none is written"):
        export(model, tmp_path / "bundle", calibration=images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("op", ["RandomNormalLike", "Loop", "EPContext"])
def test_what_no_runtime_loads_is_refused(op):
    with pytest.raises(InputError, match="none is written"):
        check_guarded(graph_of([helper.make_node(op, ["x"], ["y"])]).SerializeToString(), "decoder")


def test_constants_are_written_in_the_one_form_that_the_guard_reads():
    written_out = helper.make_tensor("c", TensorProto.FLOAT, [1, 4], [0.0, 1.0, 2.0, 3.0])
    assert written_out.float_data
    attribute = helper.make_node("Constant", [], ["d"], value=helper.make_tensor("v", TensorProto.INT64, [1], [7]))
    nodes = [attribute, helper.make_node("Cast", ["d"], ["e"], to=TensorProto.FLOAT)]
    graph = graph_of([*nodes, helper.make_node("Sum", ["x", "c", "e"], ["y"])], [written_out])
    del graph.graph.output[0].type.tensor_type.shape.dim[:]
    graph.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 4]))
    clean(graph)
    check_graph(graph.SerializeToString(), "decoder")
    assert onnx.numpy_helper.to_array(graph.graph.initializer[0]).tolist() == [[0, 1, 2, 3]]
