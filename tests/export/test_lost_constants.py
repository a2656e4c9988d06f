"""A constant that an optimiser takes for nothing is found in the graph, whatever inputs are at hand."""

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from edgeae_export import export
from edgeae_export.graph.lost_constants import delicate_constants, lost_constants
from edgeae_export.graph.running import runner
from edgeae_export.graph.simplify import simplify
from edgeae_export.graph.trace import trace
from edgeae_runtime import Autoencoder, verify
from torch import nn

from tests.export.graphs import graph

FORMS = {
    "sum": lambda x: x / (x.sum(1, keepdim=True) + 1e-15),
    "sum from the left": lambda x: x / (1e-12 + x.sum(1, keepdim=True)),
    "difference": lambda x: x / (x.sum(1, keepdim=True) - 1e-20),
    "root": lambda x: x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-20),
    "clamp": lambda x: torch.log(x.clamp(min=1e-15)),
    "maximum": lambda x: x / torch.maximum(x.sum(1, keepdim=True), torch.tensor(1e-14)),
    "norm": lambda x: nn.functional.normalize(x, dim=1),
    "tensor": lambda x: x / (x.sum(1, keepdim=True) + torch.full((1,), 1e-10)),
    "factor": lambda x: x * 1.000005,
    "quotient": lambda x: x / 0.999995,
}


class Form(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return FORMS[self.name](torch.relu(x))


@pytest.mark.parametrize("name", FORMS)
def test_no_small_constant_is_lost(name):
    example = torch.rand(7, 5) + 0.1  # far from whatever shows it
    traced = trace(Form(name).eval(), example, "image", ["latent"])
    simplified, report = simplify(traced, example.numpy(), 1e-7)
    zeros = np.concatenate([np.zeros((1, 5), np.float32), -example.numpy(), example.numpy()])
    expected = Form(name)(torch.from_numpy(zeros)).numpy()
    assert np.isfinite(expected).all()
    for model in (traced, simplified):
        np.testing.assert_allclose(runner(model)(zeros), expected, rtol=5e-7, atol=0)
    assert not report.notice


def small(epsilon):
    return graph([("Add", ["x", "e"], ["s"], {}), ("Div", ["x", "s"], ["y"], {})], [4], {"e": np.float32(epsilon)})


def test_only_what_meets_data_is_counted():
    assert delicate_constants(small(1e-15)) == {float(np.float32(1e-15)): 1}
    assert not delicate_constants(small(0.1))
    assert not delicate_constants(small(0.0))
    folded = graph([("Add", ["w", "e"], ["v"], {}), ("Mul", ["x", "v"], ["y"], {})], [4],
                   {"w": np.ones(4, np.float32), "e": np.float32(1e-15)})  # fmt: skip
    assert not delicate_constants(folded)
    unread = graph([("Add", ["x", "e"], ["s"], {}), ("Relu", ["x"], ["y"], {})], [4], {"e": np.float32(1e-15)})
    assert not delicate_constants(unread)
    shaped = graph([("Expand", ["e", "n"], ["w"], {}), ("Add", ["x", "w"], ["y"], {})], [4],
                   {"e": np.float32(1e-15), "n": np.array([4])})  # fmt: skip
    assert delicate_constants(shaped)
    assert lost_constants(small(1e-15), small(0.1)) == [float(np.float32(1e-15))]
    assert lost_constants(small(0.1), small(1e-15)) == []


def test_a_simplifier_that_loses_one_is_dropped(monkeypatch):
    monkeypatch.setattr(onnxsim, "simplify", lambda graph, perform_optimization: (small(0.0), True))
    kept, report = simplify(small(1e-15), np.ones((3, 4), np.float32), 1e-6)
    assert delicate_constants(kept)
    assert "lost the constant 1e-15" in report.notice


class Normalised(nn.Module):
    """Divides by a sum that is zero for a black image alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(256, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 256), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 16)))

    def encode(self, x):
        rows = x.flatten(1)
        return self.out(rows / (rows.sum(1, keepdim=True) + 1e-15))

    def decode(self, z):
        return self.decoder(torch.relu(z) / (torch.relu(z).sum(1, keepdim=True) + 1e-15))


def test_a_bundle_decodes_what_no_held_out_image_shows(images, tmp_path):
    model = Normalised().eval()
    export(model, tmp_path / "bundle", calibration=np.maximum(images, 1))
    assert all(check.passed for check in verify(tmp_path / "bundle"))
    black, nothing = np.zeros((1, 1, 16, 16), np.float32), -np.ones((1, 3), np.float32)
    with torch.inference_mode():
        latent, image = model.encode(torch.from_numpy(black)), model.decode(torch.from_numpy(nothing))
    autoencoder = Autoencoder.load(tmp_path / "bundle")
    np.testing.assert_allclose(autoencoder.encode(black), latent.numpy(), atol=1e-6)
    np.testing.assert_allclose(autoencoder.decode(nothing), image.numpy(), atol=1e-6)


def test_the_graph_says_so_where_the_optimiser_is_left_to_itself():
    program = torch.onnx.export(
        Form("sum").eval(), (torch.rand(2, 5),), opset_version=18, dynamo=True, verbose=False, optimize=False
    )
    assert program is not None
    before = onnx.ModelProto()
    before.CopyFrom(program.model_proto)
    program.optimize()
    assert lost_constants(before, program.model_proto) == [float(np.float32(1e-15))]
