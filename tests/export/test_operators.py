"""The runtime's list of operators, and its rules for their sizes, against ONNX's own schemas and test cases."""

import numpy as np
import onnx
import onnx.backend.test.case.node
import pytest
from edgeae_export.graph.running import OPSET, clean
from edgeae_runtime.guard.graph_guard import _Walk
from edgeae_runtime.guard.onnx_reader import DTYPES, NotReadableError, Tensor, read_graph
from edgeae_runtime.guard.operators import KINDS, MAX_OPSET, MIN_OPSET, OPERATORS
from edgeae_runtime.guard.shapes import MANY
from onnx import numpy_helper

NOT_HERE = (  # forms that torch's exporter does not write, so that the guard does not let them pass
    "blocked", "training_mode", "_old", "batchwise", "tf_crop_and_resize", "dcr_mode_example", "crd_mode_example",
    "random", "expanded", "training_dropout",
)  # fmt: skip
PYTHON_TYPES = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "TENSOR": Tensor,
    "INTS": tuple,
    "FLOATS": tuple,
    "STRINGS": tuple,
}


def schemas(op):
    """The forms of an operator in the operator sets that the guard knows."""
    forms = [s for s in onnx.defs.get_all_schemas_with_history() if (s.domain, s.name) == ("", op) and not s.deprecated]
    versions = {
        max((s.since_version for s in forms if s.since_version <= opset), default=0)
        for opset in range(MIN_OPSET, MAX_OPSET + 1)
    }
    return [form for form in forms if form.since_version in versions]


@pytest.mark.parametrize("op", OPERATORS)
def test_each_operator_is_onnx_s_own(op):
    operator, forms = OPERATORS[op], schemas(op)
    assert forms
    for name in operator.attributes:
        kinds = {str(form.attributes[name].type).split(".")[-1] for form in forms if name in form.attributes}
        assert kinds, f"{op} has no {name}"
        assert {PYTHON_TYPES[kind] for kind in kinds} == {KINDS.get(name, int)}
    least, most = operator.inputs
    assert least == min(form.min_input for form in forms)
    assert most == min(max(form.max_input for form in forms), MANY) or (most == MANY and forms[0].max_input > 1000)
    assert operator.outputs <= max(form.max_output for form in forms)


def test_no_operator_runs_another_graph():
    for op in OPERATORS:
        for form in schemas(op):
            assert not any("GRAPH" in str(attribute.type) for attribute in form.attributes.values())


def as_constants(case):
    """A test case's graph with its inputs as constants, so that all sizes are known."""
    inputs, outputs = case.data_sets[0]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.input[:]
    for value, array in zip(case.model.graph.input, inputs, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    model.opset_import[0].version = OPSET
    clean(model)
    return model, outputs


def cases():
    for case in onnx.backend.test.case.node.collect_testcases(None):
        nodes = case.model.graph.node
        arrays = [array for each in case.data_sets[0] for array in each]
        known = all(node.op_type in OPERATORS and not node.domain for node in nodes) and not case.model.functions
        if (
            known
            and len(case.model.opset_import) == 1
            and all(isinstance(array, np.ndarray | np.generic) for array in arrays)
        ):
            yield case


def test_sizes_and_folded_numbers_are_those_of_onnx_s_test_cases():
    shapes, numbers, tried = 0, 0, set()
    for case in cases():
        if any(part in case.name for part in NOT_HERE):
            continue
        try:
            model, outputs = as_constants(case)
            graph = read_graph(model.SerializeToString())
        except (NotReadableError, ValueError, TypeError):  # data types of less than 8 bits, strings
            continue
        graph.outputs.clear()
        walk = _Walk(graph, case.name)
        walk.check()
        for value, expected in zip(case.model.graph.output, outputs, strict=True):
            found = walk.values[value.name]
            assert found.most >= expected.size, case.name
            assert found.shape in (None, expected.shape), case.name
            assert np.dtype(DTYPES[found.dtype]) == expected.dtype, case.name
            shapes += found.shape is not None
            if found.value is not None:
                numbers += 1
                close = np.isclose(found.value.astype(float), expected.astype(float), rtol=1e-3, equal_nan=True)
                assert close.all(), case.name
        tried |= {node.op_type for node in case.model.graph.node}
    assert shapes > 800
    assert numbers > 150
    assert set(OPERATORS) - tried <= {"Cast", "CastLike", "GlobalLpPool"}  # those have no case of a plain dtype
