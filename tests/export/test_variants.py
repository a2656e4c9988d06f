"""Further forms of the parts: every distinct exact one, each held to what the part was held to."""

import json

import numpy as np
import pytest
from edgeae_export import export
from edgeae_export.bundle import variants as forms_module
from edgeae_export.options import Int8
from edgeae_runtime import Autoencoder, open_bundle, verify


@pytest.fixture(scope="module")
def exported(tmp_path_factory, images, new_model):
    """An int8 bundle for another machine, and the report of its export."""
    out = tmp_path_factory.mktemp("variants") / "bundle"
    return out, export(new_model(), out, quantize="int8", calibration=images, target="arm64")


def forms_of(out, part="decoder"):
    return open_bundle(out).manifest.parts[part].forms


def test_for_another_machine_forms_of_both_precisions_go_along(exported):
    out, report = exported
    manifest = open_bundle(out).manifest
    assert manifest.document["format_version"] == 3
    kinds = {form.split("-")[0] for form in forms_of(out)}
    assert kinds == {"default", "float32", "int8"}
    assert all(check.passed for check in verify(out))
    added = sum(path.stat().st_size for path in (out / "variants").iterdir())
    assert f"{len(list((out / 'variants').iterdir()))} variants add {added / 1000:.0f} kB" in report.verdict
    assert {path.name for path in (out / "variants").iterdir()} == {
        variant.record.file.split("/")[1] for part in manifest.parts.values() for variant in part.variants
    }


def test_alike_graphs_go_along_once(exported):
    out, _ = exported
    for part in open_bundle(out).manifest.parts.values():
        hashes = [part.record.sha256, *(variant.record.sha256 for variant in part.variants)]
        assert len(set(hashes)) == len(hashes)


def test_the_recorded_psnr_is_that_of_the_form(exported, images):
    """Of a float32 form far above that of one in int8, and what the form really gives."""
    out, _ = exported
    part = open_bundle(out).manifest.parts["decoder"]
    golden = open_bundle(out).read_golden()
    for form in part.forms:
        decoded = Autoencoder.load(out, variants={"decoder": form}).decode(golden.latent)
        here = -10 * np.log10(np.mean((decoded.astype(np.float64) - golden.decoded) ** 2))
        assert abs(here - part.form(form).psnr_db) < 6
        assert (part.form(form).psnr_db > 100) is form.startswith("float32")


def test_here_and_where_they_are_not_wanted_there_are_none(model, images, tmp_path):
    for name, options in (
        ("here", {}),
        ("none", {"target": "arm64", "variants": False}),
        ("plain", {"rewrites": False}),
    ):
        export(model, tmp_path / name, calibration=images, **options)
        assert not (tmp_path / name / "variants").exists()
        assert json.loads((tmp_path / name / "manifest.json").read_text())["format_version"] == 2
    export(model, tmp_path / "wanted", variants=True)
    assert forms_of(tmp_path / "wanted")[1:]
    assert all(form.startswith("float32") for form in forms_of(tmp_path / "wanted")[1:])


def test_a_part_that_was_not_to_be_quantised_has_no_int8_forms(model, images, tmp_path):
    export(model, tmp_path / "b", quantize="int8", int8=Int8(("decoder",)), calibration=images, target="arm64")
    assert not any(form.startswith("int8") for form in forms_of(tmp_path / "b", "encoder"))
    assert any(form.startswith("int8") for form in forms_of(tmp_path / "b"))


def test_forms_give_pixels_where_the_part_does(model, images, tmp_path):
    export(model, tmp_path / "b", calibration=images, target="arm64", pixels="uint8")
    assert forms_of(tmp_path / "b")[1:]
    for form in forms_of(tmp_path / "b"):
        assert Autoencoder.load(tmp_path / "b", variants={"decoder": form}).reconstruct(images[:2]).dtype == np.uint8
    assert all(check.passed for check in verify(tmp_path / "b"))


def test_a_form_that_fails_a_check_is_left_out_and_told(model, images, tmp_path, monkeypatch):
    real = forms_module.exact_candidates

    def one_is_wrong(simplified, plans, *arguments):
        found = real(simplified, plans, *arguments)
        if "sub-pixel" in found and "merged tail" in found:
            for tensor in found["sub-pixel"].graph.graph.initializer:
                if tensor.raw_data and tensor.data_type == 1:
                    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 1.01).tobytes()
        return found

    monkeypatch.setattr(forms_module, "exact_candidates", one_is_wrong)
    report = export(model, tmp_path / "b", target="arm64")
    assert "float32-sub-pixel" not in forms_of(tmp_path / "b")
    assert any("float32-sub-pixel of the decoder is left out: decoder image" in told for told in report.notices)


def test_the_same_export_gives_the_same_forms(exported, images, tmp_path, model):
    out, _ = exported
    export(model, tmp_path / "again", quantize="int8", calibration=images, target="arm64")
    for path in out.rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes()
