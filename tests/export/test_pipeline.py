"""From a model to a bundle: whole, repeatable, refused when it does not compute what torch does."""

import hashlib
import re

import numpy as np
import pytest
import torch
from edgeae_export import Int8, export, int8_parts, pipeline
from edgeae_export import options as options_module
from edgeae_export.parity import Int8Limits
from edgeae_export.verdict import Comparison
from edgeae_runtime import Autoencoder, InputError, ParityError, open_bundle, verify


def digest(folder):
    """Every file's hash, by its place in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_an_export_is_a_verified_bundle(model, images, tmp_path, quantize):
    stages = []
    report = export(model, tmp_path / "bundle", quantize=quantize, calibration=images, on_progress=stages.append)
    assert sorted(digest(tmp_path / "bundle")) == [
        "README.md", "decoder.onnx", "encoder.onnx", "golden.npz", "manifest.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert all(check.passed for check in verify(tmp_path / "bundle"))
    assert all(check.passed for check in report.checks)
    manifest = open_bundle(tmp_path / "bundle").manifest
    precision = "int8" if quantize == "int8" else "float32"
    executed = {layer.precision for part in manifest.parts.values() for layer in part.layers}
    assert executed == ({"float32", "int8"} if quantize == "int8" else {"float32"})  # first and last layers stay float
    assert (manifest.document["quantization"] is None) == (quantize == "none")
    assert manifest.document["versions"]["torch"] == torch.__version__.split("+")[0]
    ae = Autoencoder.load(tmp_path / "bundle")
    with torch.inference_mode():
        expected = model.encoder(torch.from_numpy(images[:7].astype(np.float32) / 255)).numpy()
    tolerance = 1e-5 if quantize == "none" else 0.1 * np.ptp(expected)
    np.testing.assert_allclose(ae.encode(images[:7]), expected, atol=tolerance)
    assert any("parity" in stage for stage in stages)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "images of 1 x 16 x 16" in card
    assert f"| {precision} |" in card


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_decoder_that_gives_pixels(model, images, tmp_path, quantize):
    export(model, tmp_path / "bundle", quantize=quantize, calibration=images, pixels="uint8")
    ae = Autoencoder.load(tmp_path / "bundle")
    pixels = ae.reconstruct(images[:7])
    assert pixels.dtype == np.uint8
    with torch.inference_mode():
        expected = model.decoder(model.encoder(torch.from_numpy(images[:7].astype(np.float32) / 255))).numpy()
    assert np.abs(pixels / 255 - expected).max() < (0.5 / 255 + 1e-5 if quantize == "none" else 0.1)
    assert all(check.passed for check in verify(tmp_path / "bundle"))
    assert open_bundle(tmp_path / "bundle").manifest.parts["decoder"].output.dtype == "uint8"


def test_without_rewrites_the_graph_is_torchs(model, tmp_path):
    export(model, tmp_path / "bundle", rewrites=False)
    decoder = open_bundle(tmp_path / "bundle").manifest.document["parts"]["decoder"]
    assert decoder["plan"] == "as it is"
    assert decoder["operators"]["ConvTranspose"] == 2


def test_one_half_alone_may_be_int8(model, images, tmp_path):
    options = {"calibration": images, "int8": Int8(parts=("decoder",)), "target": "x86-vnni"}
    export(model, tmp_path / "bundle", quantize="int8", **options)
    parts = open_bundle(tmp_path / "bundle").manifest.parts
    assert {name: part.precision for name, part in parts.items()} == {"encoder": "float32", "decoder": "int8"}


@pytest.mark.slow
def test_max_drop_is_held_by_the_bundle(model, images, tmp_path):
    whole = export(model, tmp_path / "whole", quantize="int8", calibration=images, target="x86-vnni")
    limit = whole.manifest.document["quality"]["decoder_psnr_db"] + 3
    strict = export(
        model,
        tmp_path / "strict",
        quantize="int8",
        calibration=images,
        target="x86-vnni",
        int8=Int8(max_drop=f"{limit:.1f}dB"),
    )
    kept = [why for part in strict.parts.values() for why in part.compiled.kept.values()]
    assert any("too much quality" in why for why in kept)
    round_trip = next(check for check in strict.checks if check.what.startswith("round trip") and "held" in check.what)
    assert round_trip.limit == round(limit, 1) <= round_trip.measured
    assert strict.manifest.document["quantization"]["limits"]["round_trip_psnr_db"] == round(limit, 1)
    assert "layers of the" in strict.verdict


def measured(report, what):
    return next(check.measured for check in report.checks if check.what.startswith(what) and "held out" in check.what)


def test_layers_go_back_to_float_where_a_common_limit_would_fail(model, images, tmp_path, monkeypatch):
    options = {"quantize": "int8", "calibration": images, "target": "x86-vnni"}
    first = export(model, tmp_path / "a", **options)
    encoder, decoder = measured(first, "encoder latent"), measured(first, "decoder image")
    monkeypatch.setattr(options_module, "COMMON_LIMITS", Int8Limits(decoder + 2, 0.0, None))
    report = export(model, tmp_path / "b", **options)
    assert measured(report, "decoder image") >= decoder + 2
    assert f"held out had {decoder:.2f} dB PSNR of {decoder + 2:g} dB: so 1 of the " in report.verdict
    assert "int8 layers of the decoder went back to float (" in report.verdict
    assert "too much quality" in " ".join(report.parts["decoder"].compiled.kept.values())
    # The encoder has but one layer in int8, and cannot hold with it.
    assert report.parts["encoder"].compiled.precision == "float32"
    assert f"The encoder stays in float32: in int8, encoder latent, 16 held out had {encoder:.2f} dB" in report.verdict

    monkeypatch.setattr(options_module, "COMMON_LIMITS", Int8Limits(300.0, 0.0, None))
    with pytest.raises(ParityError, match=r"while any layer of the encoder runs in int8: encoder latent.*of 300 dB"):
        export(model, tmp_path / "c", **options)
    with pytest.raises(ParityError, match=r"--max-drop, such as .*--quantize-part decoder.*--quantize auto"):
        export(model, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()
    laxer = export(model, tmp_path / "c", int8=Int8(max_drop="20dB"), **options)
    assert laxer.manifest.document["quantization"]["limits"]["part_psnr_db"] == 20
    assert "error_rise" not in {check.metric for check in laxer.checks}


def test_auto_takes_float32_where_int8_does_not_hold(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(options_module, "COMMON_LIMITS", Int8Limits(300.0, 300.0, None))
    report = export(model, tmp_path / "bundle", quantize="auto", calibration=images, target="x86-vnni")
    assert {part.compiled.precision for part in report.parts.values()} == {"float32"}
    assert report.verdict.startswith(
        "Nothing was exported in int8. The encoder stays in float32: in int8, encoder latent"
    )
    assert report.manifest.document["quantization"] is None
    assert all(check.passed for check in verify(tmp_path / "bundle"))


def test_a_limit_of_the_user_that_int8_cannot_hold_is_refused(model, images, tmp_path):
    with pytest.raises(InputError, match=r"round trip, 16 held out had .* dB PSNR of 300 dB"):
        export(
            model, tmp_path / "b", quantize="int8", calibration=images, target="x86-vnni", int8=Int8(max_drop="300dB")
        )


def test_auto_takes_the_faster_form_of_each_part(model, images, tmp_path, monkeypatch):
    def timed(part, plain, float32, exported, inputs):
        time = 50.0 if part == "encoder" else 150.0
        return Comparison(part, 100.0, time, plain.ByteSize(), exported.ByteSize(), 0.03, float32.ByteSize())

    monkeypatch.setattr(int8_parts, "compare_with_float", timed)
    report = export(model, tmp_path / "bundle", quantize="auto", calibration=images)
    parts = open_bundle(tmp_path / "bundle").manifest.parts
    assert {name: part.precision for name, part in parts.items()} == {"encoder": "int8", "decoder": "float32"}
    assert re.search(r"encoder \d+ % of the size and 2.00x as fast", report.verdict)
    assert "The decoder stays in float32: int8 is 1.50x slower here" in report.verdict
    assert all(check.passed for check in verify(tmp_path / "bundle"))
    ae = Autoencoder.load(tmp_path / "bundle")
    assert ae.reconstruct(images[:3]).shape == (3, 1, 16, 16)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"target": "toaster"}, "expected one of host"),
        ({"int8": Int8(parts=("middle",))}, "expected some of"),
        ({"int8": Int8(max_drop="a little")}, "45dB"),
        ({"pixels": "uint16"}, "float32, uint8"),
        ({"rewrites": False}, "rewrites=False with int8"),
    ],
)
def test_options_that_are_none_are_refused(model, images, tmp_path, option, words):
    with pytest.raises(InputError, match=words):
        export(model, tmp_path / "bundle", quantize="int8", calibration=images, **option)
    assert list(tmp_path.iterdir()) == []


def test_what_ran_in_int8_and_what_was_rewritten_stands_in_the_manifest(model, images, tmp_path):
    export(model, tmp_path / "bundle", quantize="int8", calibration=images, target="raspberry-pi-4")
    document = open_bundle(tmp_path / "bundle").manifest.document
    assert document["target"]["name"] == "raspberry-pi-4"
    decoder = document["parts"]["decoder"]
    assert decoder["plan"] == "sub-pixel by rows"
    assert {"rule", "node", "applied", "why"} == set(decoder["rewrites"][0])
    assert any(entry["rule"] == "subpixel" and entry["applied"] for entry in decoder["rewrites"])
    assert "QLinearConv" in {layer["op"] for layer in decoder["layers"]}
    assert document["quantization"]["parts"]["decoder"]["ranges"]


@pytest.mark.slow
def test_the_same_export_gives_the_same_bytes(model, images, tmp_path):
    for name in ("a", "b"):
        export(model, tmp_path / name, quantize="int8", calibration=images, target="x86-vnni")
    first, second = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert first["decoder.onnx"] == second["decoder.onnx"]
    assert first == second


def test_a_float32_export_needs_no_images(model, tmp_path):
    export(model, tmp_path / "bundle")
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.latent.low is None  # no range was observed, none is claimed
    assert all(check.passed for check in verify(tmp_path / "bundle"))


def test_int8_without_images_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="needs calibration images"):
        export(model, tmp_path / "bundle", quantize="int8")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (np.zeros((10, 1, 15, 16), np.uint8), "15"),
        (np.zeros((0, 1, 16, 16), np.uint8), "at least two"),
        (np.zeros((1, 1, 16, 16), np.uint8), "at least two"),
        (np.full((10, 1, 16, 16), np.nan, np.float32), "nan"),
        (np.full((10, 1, 16, 16), 7, np.float32), "from 0 to 1"),
    ],
)
def test_bad_calibration_images_are_refused(model, tmp_path, calibration, words):
    with pytest.raises(InputError, match=words):
        export(model, tmp_path / "bundle", quantize="int8", calibration=calibration)
    assert list(tmp_path.iterdir()) == []


def test_unknown_quantisation(model, tmp_path):
    with pytest.raises(InputError, match="none, int8, auto"):
        export(model, tmp_path / "bundle", quantize="int4")


def test_a_bundle_is_replaced_only_with_leave(model, images, tmp_path):
    out = tmp_path / "bundle"
    export(model, out)
    before = digest(out)
    with pytest.raises(InputError, match="--overwrite"):
        export(model, out, quantize="int8", calibration=images)
    assert digest(out) == before
    export(model, out, quantize="int8", calibration=images, overwrite=True)
    assert digest(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_other_peoples_folders_are_left_alone(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("precious")
    with pytest.raises(InputError, match="not a bundle"):
        export(model, tmp_path / "photos", overwrite=True)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="is a file"):
        export(model, tmp_path / "file", overwrite=True)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "precious"


def test_a_failed_parity_leaves_nothing(model, images, tmp_path, monkeypatch):

    def wrong_trace(module, example, *names):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.01)
        traced = real_trace(module, example, *names)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.div_(1.01)
        return traced

    real_trace = pipeline.trace
    monkeypatch.setattr(pipeline, "trace", wrong_trace)
    with pytest.raises(ParityError, match="Nothing was written"):
        export(model, tmp_path / "bundle", calibration=images)
    assert list(tmp_path.iterdir()) == []


def test_a_rewrite_may_round_otherwise_as_far_as_the_models_noise(model, tmp_path):
    """A float32 limit of nothing would drop every rewrite that adds in another order, and ship a slower graph."""
    report = export(model, tmp_path / "bundle", target="x86-vnni")
    assert report.parts["decoder"].compiled.plan == "merged tail"
    decisions = [decision for part in report.parts.values() for decision in part.compiled.decisions]
    assert any(decision.applied and decision.rule == "subpixel" for decision in decisions)
    assert not [decision.why for decision in decisions if "dropped" in decision.why]
