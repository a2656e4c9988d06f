"""The bundle is proven on corners as well: black, white, noise, single pixels, zeros as a latent."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from edgeae_export import export
from edgeae_export.corners import GOLDEN_CORNERS, GOLDEN_LATENTS, torch_corners
from edgeae_export.reference import make_reference
from edgeae_runtime import ParityError, open_bundle, verify
from edgeae_runtime.parity import psnr_each
from onnx import numpy_helper
from torch import nn


@pytest.fixture
def reference(model, images):
    return make_reference(model.encoder, model.decoder, images.astype(np.float32) / 255)


def test_each_corner_has_a_limit_of_its_own(model, reference):
    corners = torch_corners(model.encoder, model.decoder, reference, bounded=True)
    assert not corners.notice
    latent = corners.outputs["latent"]
    assert len(latent.names) == len(corners.images)
    assert latent.names[:3] == ("black", "white", "one bright pixel")
    assert (latent.noise >= reference.noise["latent"]).all()
    assert latent.noise.max() < 1e-4
    assert len(corners.latents) == len(corners.outputs["image"].names) > len(corners.images)
    np.testing.assert_array_equal(corners.latents[: len(corners.images)], latent.expected)


def test_where_rounding_decides_the_limit_is_wide(images):
    class Standardised(nn.Module):  # of a constant image nothing is left but rounding
        def forward(self, x):
            flat = x.flatten(1)
            return (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-12)

    decoder = nn.Sequential(nn.Linear(256, 256), nn.Unflatten(1, (1, 16, 16)))
    reference = make_reference(Standardised(), decoder, images.astype(np.float32) / 255)
    latent = torch_corners(Standardised(), decoder, reference, bounded=True).outputs["latent"]
    noise = dict(zip(latent.names, latent.noise, strict=True))
    assert noise["mid-grey"] > 0.01
    assert noise["noise"] < 1e-4  # and no other corner's limit is


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_the_golden_vectors_hold_some(model, images, tmp_path, quantize, pixels):
    options = {"calibration": images, "pixels": pixels, "target": "x86-vnni", "variants": False}
    report = export(model, tmp_path / "bundle", quantize=quantize, **options)
    assert sum("corners" in check.what for check in report.checks) == 4
    opened = open_bundle(tmp_path / "bundle")
    golden, told = opened.read_golden(), opened.manifest.golden_corners
    assert golden.corners is not None
    assert told.images == len(golden.corners.image) == GOLDEN_CORNERS
    assert len(told.names) == len(golden.corners.latent) == len(golden.corners.decoded)
    assert len(told.names) == GOLDEN_CORNERS + GOLDEN_LATENTS <= 8
    assert not golden.corners.image[told.names.index("black")].any()
    assert not golden.corners.latent[told.names.index("latent of zeros")].any()
    checks = verify(tmp_path / "bundle")
    assert [check.what for check in checks[3:]] == [
        "encoder latent, 5 corners", "decoder image, 8 corners", "round trip, 5 corners",
    ]  # fmt: skip
    assert all(check.passed for check in checks)


def test_a_variational_encoder_has_its_log_variance_on_corners(images, tmp_path):
    from benchmarks.zoo.architectures import OTHER_MODELS, build

    other = next(each for each in OTHER_MODELS if each.name == "VAE, dense")
    inputs = np.pad(images, ((0, 0), (0, 0), (6, 6), (6, 6)))
    export(build(other, steps=2), tmp_path / "bundle", calibration=inputs)
    assert open_bundle(tmp_path / "bundle").read_golden().corners.log_variance.shape == (GOLDEN_CORNERS, 10)
    assert any(check.what.startswith("encoder log-variance, 5 corners") for check in verify(tmp_path / "bundle"))


def test_rows_have_corners_around_what_was_observed(tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((60, 3)) @ rng.standard_normal((3, 12))).astype(np.float32)
    torch.manual_seed(0)
    halves = nn.Sequential(nn.Linear(12, 4), nn.Tanh()).eval(), nn.Linear(4, 12).eval()
    export(halves, tmp_path / "bundle", calibration=rows)
    assert "the highest of each number" in open_bundle(tmp_path / "bundle").manifest.golden_corners.names
    assert all(check.passed for check in verify(tmp_path / "bundle"))


class Reciprocal(nn.Module):
    """Infinity for black images, in torch itself."""

    def forward(self, x):
        return x / x.amax((1, 2, 3), keepdim=True)


def test_what_torch_itself_cannot_do_is_left_out_and_told(model, images, tmp_path):
    model.encoder = nn.Sequential(Reciprocal(), *model.encoder).eval()
    report = export(model, tmp_path / "bundle", calibration=np.maximum(images, 1))
    assert len(report.notices) == 1
    assert "for some inputs that no held-out image shows: black. There" in report.notices[0]
    names = open_bundle(tmp_path / "bundle").manifest.golden_corners.names
    assert "black" not in names
    assert "white" in names


def test_a_model_that_refuses_corners_is_exported(images, tmp_path):
    class Strict(nn.Module):
        def forward(self, z):
            if not torch.compiler.is_exporting():
                assert float(z.abs().max()) > 0, "zeros make no sense here"
            return z * 1.5

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    decoder = nn.Sequential(Strict(), nn.Linear(3, 256), nn.Unflatten(1, (1, 16, 16))).eval()
    report = export((encoder, decoder), tmp_path / "bundle", calibration=images)
    assert "latent of zeros" in report.notices[0]
    assert all(check.passed for check in verify(tmp_path / "bundle"))


def nan_for_zeros(graph):
    """The same graph, giving NaN where the largest number of its input is zero: on no real image's latent."""
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    source, output = graph.graph.input[0].name, graph.graph.output[0].name
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = "inner"
    values = {"axes": np.array([1]), "shape": np.array([-1, 1, 1, 1])}
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    graph.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMax", [source, "axes"], ["peak"], keepdims=1),
            onnx.helper.make_node("Div", ["peak", "peak"], ["flat_one"]),
            onnx.helper.make_node("Reshape", ["flat_one", "shape"], ["one"]),
            onnx.helper.make_node("Mul", ["inner", "one"], [output]),
        ]
    )
    return graph


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_an_int8_graph_that_fails_on_a_corner_alone_is_refused(model, images, tmp_path, monkeypatch, pixels):
    from edgeae_export import int8_parts as int8

    right = int8.compile_int8

    def wrong(graph, *rest):
        compiled = right(graph, *rest)
        decodes = graph.graph.input[0].name == "latent"
        return replace(compiled, model=nan_for_zeros(compiled.model)) if decodes else compiled

    monkeypatch.setattr(int8, "compile_int8", wrong)
    with pytest.raises(ParityError, match="corners"):
        export(model, tmp_path / "bundle", quantize="int8", calibration=images, pixels=pixels, target="x86-vnni")
    assert not (tmp_path / "bundle").exists()


def test_the_device_sees_a_graph_that_fails_on_a_corner_alone(model, images, tmp_path):
    export(model, tmp_path / "bundle", calibration=images)
    folder = tmp_path / "bundle"
    raw = nan_for_zeros(onnx.load(folder / "decoder.onnx")).SerializeToString()
    (folder / "decoder.onnx").write_bytes(raw)
    document = json.loads((folder / "manifest.json").read_text())
    document["parts"]["decoder"].update(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(document))
    failed = [check for check in verify(folder) if not check.passed]
    assert [check.what for check in failed] == ["decoder image, 8 corners"]
    assert failed[0].where.startswith("latent of zeros")


def test_the_psnr_of_a_row_never_takes_a_peak_below_its_own():
    one, other = np.array([[10.0, 0.0]], np.float32), np.array([[0.0, 0.0]], np.float32)
    assert psnr_each(one, other, 1.0)[0] == pytest.approx(10 * np.log10(2))
    assert psnr_each(one, other, 100.0)[0] == pytest.approx(10 * np.log10(1e4 / 50))
    assert psnr_each(other, other, 0.0)[0] == np.inf
