"""Bundles of 8-bit pixels at both ends: bytes in, bytes out."""

import json

import numpy as np
import onnx
import pytest
import torch
from edgeae_export import Int8, OwnModel, export
from edgeae_export.graph.executed import executed_layers, optimized
from edgeae_export.graph.pixels import take_uint8
from edgeae_export.int8.calibration import calibrate
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.quantize import quantize as quantize_graph
from edgeae_export.int8.ranges import starting_ranges
from edgeae_export.targets import PRESETS
from edgeae_export.value_range import ValueRange
from edgeae_runtime import Autoencoder, InputError
from edgeae_runtime.bundle.reader import open_bundle
from edgeae_runtime.verification import verify
from torch import nn

from tests.export.graphs import graph, weights
from tests.export.nets import decoder_net


class FirstLayerCounts(nn.Module):
    """An encoder whose first layer has enough outputs for int8."""

    def __init__(self, channels=1, stride=2):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256 if stride == 2 else 1024, 6),
        )  # fmt: skip
        self.decoder = decoder_net(6, channels)

    def encode(self, images):
        return self.encoder(images)

    def decode(self, latents):
        return self.decoder(latents)


def torch_of(module, images):
    with torch.inference_mode():
        return module(torch.from_numpy(images.astype(np.float32) / 255)).numpy()


@pytest.fixture(scope="module")
def bundles(images, tmp_path_factory):
    """The same model from float32 and from uint8, in float32 and in int8."""
    folder, model = tmp_path_factory.mktemp("pixels"), FirstLayerCounts().eval()
    for pixels in ("float32", "uint8"):
        for quantize in ("none", "int8"):
            export(
                model, folder / f"{pixels}-{quantize}", quantize=quantize, calibration=images[:40], pixels=pixels,
                target="x86-vnni",
            )  # fmt: skip
    return model, folder


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_bytes_in_and_bytes_out(bundles, images, quantize):
    model, folder = bundles
    ae = Autoencoder.load(folder / f"uint8-{quantize}")
    spec = ae.manifest.parts["encoder"].input
    assert (spec.dtype, spec.range, spec.shape) == ("uint8", (0.0, 255.0), (None, 1, 16, 16))
    assert json.loads((folder / f"uint8-{quantize}" / "manifest.json").read_text())["format_version"] == 3
    expected = torch_of(model.encoder, images[:7])
    tolerance = 1e-5 if quantize == "none" else 0.1 * np.ptp(expected)
    np.testing.assert_allclose(ae.encode(images[:7]), expected, atol=tolerance)
    rebuilt = ae.reconstruct(images[:7])
    assert rebuilt.dtype == np.uint8
    assert np.abs(rebuilt / 255 - torch_of(nn.Sequential(model.encoder, model.decoder), images[:7])).max() < 0.1
    assert all(check.passed for check in verify(folder / f"uint8-{quantize}"))


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_the_quality_is_that_of_the_bundle_of_floats(bundles, quantize):
    psnr = {
        pixels: open_bundle(bundles[1] / f"{pixels}-{quantize}").manifest.document["quality"] for pixels in
        ("float32", "uint8")
    }  # fmt: skip
    found, wanted = (psnr[pixels]["reconstruction_mse"] for pixels in ("uint8", "float32"))
    assert found == pytest.approx(wanted, rel=0.02)
    assert psnr["uint8"]["decoder_psnr_db"] > min(psnr["float32"]["decoder_psnr_db"], 58) - 2


def test_in_int8_the_first_layer_runs_from_the_bytes_themselves(bundles):
    graph = onnx.load(bundles[1] / "uint8-int8" / "encoder.onnx")
    assert [layer.precision for layer in executed_layers(graph)][:2] == ["int8", "int8"]
    executed = [node.op_type for node in optimized(graph).graph.node]
    before_first = executed[: executed.index("QLinearConv")]
    assert not {"QuantizeLinear", "DequantizeLinear", "Cast", "Mul"} & set(before_first)
    first = next(node for node in optimized(graph).graph.node if node.op_type == "QLinearConv")
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in optimized(graph).graph.initializer}
    assert constants[first.input[1]] == np.float32(1 / 255)
    assert constants[first.input[2]] == 0


def test_a_layer_that_stays_in_float_is_not_rounded_by_onnxruntime(images):
    """After a DequantizeLinear ONNX Runtime would quantise its weights by itself."""
    rng = np.random.default_rng(0)
    constants = {"w": weights(rng, 32, 1, 3, 3), "b": weights(rng, 32), "v": weights(rng, 32, 32, 3, 3)}
    nodes = [("Conv", ["x", "w", "b"], ["h"], {}), ("Relu", ["h"], ["r"], {}), ("Conv", ["r", "v"], ["y"], {})]
    model = take_uint8(graph(nodes, [1, 16, 16], constants))
    sites = find_sites(model)
    assert sites.layers == ("y",)
    ranges = starting_ranges(model, sites, calibrate(model, sites.tensors, images[:16] / np.float32(255)), 100.0)
    quantized = quantize_graph(model, sites, ranges, PRESETS["x86-vnni"])
    assert {layer.name: layer.precision for layer in executed_layers(quantized)} == {"h": "float32", "y": "int8"}


def test_floats_are_rounded_to_pixels(bundles, images):
    ae = Autoencoder.load(bundles[1] / "uint8-int8")
    expected = ae.encode(images[:5])
    assert np.array_equal(ae.encode(images[:5] / np.float32(255)), expected)
    assert np.array_equal(ae.encode((images[:5] + 0.3).clip(0, 255) / 255), expected)
    for wrong in (images[:5].astype(np.float32), -images[:5] / np.float32(255), np.full((1, 1, 16, 16), np.nan)):
        if wrong.min() < 0 or wrong.max() > 1 or np.isnan(wrong).any():
            with pytest.raises(InputError):
                ae.encode(wrong)


def test_contiguous_bytes_reach_the_graph_without_a_copy(bundles, images, monkeypatch):
    ae = Autoencoder.load(bundles[1] / "uint8-int8", parts="encoder")
    part, fed = ae._loaded["encoder"], []
    session = part._session

    class Watching:
        def run(self, names, feed, options):
            fed.append(feed["image"])
            return session.run(names, feed, options)

    monkeypatch.setattr(part, "_session", Watching())
    batch = images[:4]
    ae.encode(batch)
    assert np.shares_memory(fed[0], batch)
    ae.encode(batch[:, :, ::-1])
    assert fed[1].flags.c_contiguous
    assert fed[1].dtype == np.uint8
    assert np.array_equal(fed[1], batch[:, :, ::-1])


def test_streams_warm_ups_and_interpolations_take_both(bundles, images):
    ae = Autoencoder.load(bundles[1] / "uint8-int8")
    ae.warmup()
    expected = ae.reconstruct(images[:6])
    assert np.array_equal(np.concatenate(list(ae.stream([images[:3], images[3:6]], "reconstruct"))), expected)
    assert ae.interpolate(images[0], images[1], steps=3).dtype == np.uint8
    assert np.array_equal(ae.encode(images[0]), ae.encode(images[:1])[0])


def test_images_between_pixels_are_rounded_before_anything_is_measured(pictures, tmp_path):
    export(FirstLayerCounts().eval(), tmp_path / "bundle", calibration=pictures, pixels="uint8")
    golden = open_bundle(tmp_path / "bundle").read_golden()
    for images in (golden.image, golden.corners.image):
        assert np.array_equal(np.rint(images * 255).astype(np.float32) / np.float32(255), images)
    assert all(check.passed for check in verify(tmp_path / "bundle"))


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "stride"), [(3, 2), (3, 1)])
def test_colour_pictures(channels, stride, tmp_path):
    pictures = np.random.default_rng(1).integers(0, 256, (60, channels, 16, 16), dtype=np.uint8)
    model = FirstLayerCounts(channels, stride).eval()
    export(model, tmp_path / "bundle", quantize="int8", calibration=pictures, pixels="uint8", target="x86-vnni")
    graph = onnx.load(tmp_path / "bundle" / "encoder.onnx")
    assert executed_layers(graph)[0].precision == "int8"
    assert all(check.passed for check in verify(tmp_path / "bundle"))


@pytest.mark.slow
def test_a_model_with_its_own_range_takes_bytes_too(images, tmp_path):
    own_model = OwnModel(value_range=ValueRange.between(-1, 1))
    model = FirstLayerCounts().eval()
    export(model, tmp_path / "bundle", quantize="int8", calibration=images[:40], pixels="uint8", own_model=own_model)
    assert all(check.passed for check in verify(tmp_path / "bundle"))


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "quantize"), [(1, "int8"), (3, "int8"), (3, "none")])
def test_cameras_give_channels_last(channels, quantize, tmp_path):
    pictures = np.random.default_rng(2).integers(0, 256, (60, channels, 16, 24), dtype=np.uint8)
    model = nn.Module()
    torch.manual_seed(0)
    model.encoder = nn.Sequential(nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 96, 4))
    model.decoder = nn.Sequential(nn.Linear(4, channels * 384), nn.Unflatten(1, (channels, 16, 24)), nn.Sigmoid())
    options = {"quantize": quantize, "calibration": pictures, "pixels": "uint8", "target": "x86-vnni"}
    options["int8"] = Int8(parts=("encoder",))
    export(model.eval(), tmp_path / "first", **options)
    export(model.eval(), tmp_path / "last", layout="nhwc", **options)
    first, last = (Autoencoder.load(tmp_path / name) for name in ("first", "last"))
    spec = last.manifest.parts["encoder"].input
    assert (spec.shape, spec.layout, last.manifest.image_shape) == (
        (None, 16, 24, channels),
        "nhwc",
        (channels, 16, 24),
    )
    frames = np.ascontiguousarray(np.moveaxis(pictures[:5], 1, -1))
    expected = first.encode(pictures[:5])
    for given in (frames, pictures[:5], frames / 255):
        assert np.array_equal(last.encode(given), expected)
    assert np.array_equal(last.encode(frames[0]), expected[0])
    assert np.array_equal(last.encode(pictures[0]), expected[0])
    if channels == 1:
        assert np.array_equal(last.encode(frames[0, :, :, 0]), expected[0])
    with pytest.raises(InputError):
        last.encode(frames[:, :, :-1])
    assert last.reconstruct(frames).shape == (5, channels, 16, 24)
    last.warmup()
    assert all(check.passed for check in verify(tmp_path / "last"))
    assert f"16 x 24 x {channels}, which the graph takes as they are" in (tmp_path / "last" / "README.md").read_text()
    if quantize == "int8":
        executed = [node.op_type for node in optimized(onnx.load(tmp_path / "last" / "encoder.onnx")).graph.node]
        assert "Transpose" not in executed[: executed.index("QLinearConv")]


@pytest.mark.parametrize("options", [{"layout": "nhwc"}, {"layout": "hwcn", "pixels": "uint8"}])
def test_a_layout_is_refused_where_it_cannot_be(options, images, tmp_path):
    with pytest.raises(InputError, match="layout"):
        export(FirstLayerCounts().eval(), tmp_path / "bundle", calibration=images[:40], **options)
