"""From a module to a clean graph."""

import numpy as np
import onnx
import pytest
import torch
from edgeae_export.graph.running import IR_VERSION, OPSET, runner
from edgeae_export.graph.trace import trace
from edgeae_runtime import InputError
from torch import nn


def test_the_graph_is_pinned_clean_and_dynamic(model):
    graph = trace(model.encoder, torch.zeros(2, 1, 16, 16), "image", ["latent"])
    assert graph.ir_version == IR_VERSION
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    assert [value.name for value in graph.graph.input] == ["image"]
    assert [value.name for value in graph.graph.output] == ["latent"]
    for value in (*graph.graph.input, *graph.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    text = graph.SerializeToString()
    assert b".py" not in text  # no source lines of whoever exported it
    assert len(text) < 1.5 * sum(p.numel() * 4 for p in model.encoder.parameters()) + 4000


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_it_computes_what_torch_does(model, batch):
    graph = trace(model.decoder, torch.zeros(2, 3), "latent", ["image"])
    latents = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = model.decoder(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(runner(graph)(latents), expected, atol=1e-6)  # a few roundings of values below one


def test_a_frozen_batch_is_refused():
    class Frozen(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1) * 2

    with pytest.raises(InputError, match="batch"):
        trace(Frozen().eval(), torch.zeros(2, 4, 4), "image", ["latent"])


def test_what_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(InputError, match="cannot trace Branching"):
        trace(Branching().eval(), torch.zeros(2, 4), "image", ["latent"])


def test_the_module_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    trace(model.encoder, torch.zeros(2, 1, 16, 16), "image", ["latent"])
    assert not model.encoder.training
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())


def test_external_data_and_custom_operators_are_refused(model):
    from edgeae_export.graph.running import check_self_contained

    graph = trace(model.encoder, torch.zeros(2, 1, 16, 16), "image", ["latent"])
    custom = onnx.ModelProto()
    custom.CopyFrom(graph)
    custom.graph.node[0].domain = "my.own"
    with pytest.raises(InputError, match=r"my\.own"):
        check_self_contained(custom)
    external = onnx.ModelProto()
    external.CopyFrom(graph)
    external.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(InputError, match="not self-contained"):
        check_self_contained(external)


class DividesByLittle(nn.Module):
    """A linear attention's normaliser: 0 / (0 + 1e-15) is 0, and 0 / 0 is not."""

    def forward(self, x):
        weights = torch.relu(x - 0.5)
        return weights / (weights.sum(-1, keepdim=True) + 1e-15)


def test_an_epsilon_that_torch_optimises_away_is_kept():
    example = torch.linspace(-2, 1, 4 * 3 * 5).reshape(4, 3, 5)
    graph = trace(DividesByLittle().eval(), example, "image", ["latent"])
    np.testing.assert_allclose(runner(graph)(example.numpy()), DividesByLittle()(example).numpy(), atol=1e-6)
