"""int8 activations: the same numbers as uint8 ones, and only where a target wants them."""

import numpy as np
import onnx
import pytest
from edgeae_export import export
from edgeae_export.graph.running import runner
from edgeae_export.int8.signed_bytes import in_signed_bytes, in_unsigned_bytes
from edgeae_runtime import open_bundle, verify
from onnx import numpy_helper

from tests.export.conftest import SmallModel

ONE_STEP = 1.01
"""Of the coarsest scale: float rounding may fall to the other side of half a step."""


def dtypes(model):
    """The types of the activations' zero points."""
    constants = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer}
    return {constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("signed")
    for target in ("x86-vnni", "raspberry-pi-5"):
        export(SmallModel(), folder / target, quantize="int8", calibration=images, target=target, variants=False)
    return folder


def graph_of(bundle, part):
    return onnx.load(bundle / f"{part}.onnx")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_boards_get_signed_bytes_that_give_the_same(bundles, part):
    unsigned, signed = (graph_of(bundles / target, part) for target in ("x86-vnni", "raspberry-pi-5"))
    assert dtypes(unsigned) == {np.dtype(np.uint8)}
    assert dtypes(signed) == {np.dtype(np.int8)}
    shape = [axis.dim_value or 7 for axis in unsigned.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).random(shape, np.float32)
    scales = [numpy_helper.to_array(t) for t in signed.graph.initializer if t.name.startswith("activation_scale")]
    difference = np.abs(runner(unsigned)(x) - runner(signed)(x))
    assert difference.max() <= ONE_STEP * max(scales)
    assert np.mean(difference > 1e-5) < 0.01


def test_what_runs_in_int8_is_told_as_of_the_unsigned_form(bundles):
    parts = [open_bundle(bundles / target).manifest.parts for target in ("x86-vnni", "raspberry-pi-5")]
    for part in ("encoder", "decoder"):
        told = [{layer.name: layer.precision for layer in each[part].layers} for each in parts]
        assert told[0] == told[1]
        assert "int8" in told[1].values()
    assert all(check.passed for check in verify(bundles / "raspberry-pi-5"))


def test_there_and_back_is_the_same(bundles):
    graph = graph_of(bundles / "x86-vnni", "decoder")
    again = in_unsigned_bytes(in_signed_bytes(graph))
    x = np.random.default_rng(0).random([4, graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value], np.float32)
    np.testing.assert_array_equal(runner(graph)(x), runner(again)(x))
    float32 = in_signed_bytes(in_signed_bytes(graph))
    assert dtypes(float32) == {np.dtype(np.int8)}


def test_an_encoder_of_bytes_stays_unsigned(tmp_path, images):
    options = {"calibration": images, "target": "raspberry-pi-5", "variants": False, "pixels": "uint8"}
    export(SmallModel(), tmp_path / "bundle", quantize="int8", **options)
    assert np.dtype(np.int8) not in dtypes(graph_of(tmp_path / "bundle", "encoder"))
    assert dtypes(graph_of(tmp_path / "bundle", "decoder")) == {np.dtype(np.int8), np.dtype(np.uint8)}  # pixels last
    assert all(check.passed for check in verify(tmp_path / "bundle"))
