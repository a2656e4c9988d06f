"""Further forms of a part: read, verified and chosen like the part itself; and what `tune` chooses among them."""

import copy
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, BundleError, InputError, IntegrityError, ParityError, open_bundle, verify
from edgeae_runtime.bundle.manifest import MAX_MANIFEST_BYTES, parse_manifest
from edgeae_runtime.bundle.tuning import TUNING_FILE, Choice, read_tuning, tuning_document, why_stale
from edgeae_runtime.bundle.variants import MAX_VARIANTS
from edgeae_runtime.command.cli import main
from edgeae_runtime.measure import tune as tuning
from edgeae_runtime.measure.bench import bench_bundle
from edgeae_runtime.measure.timing import Latency

BUNDLE = Path(__file__).parent / "bundles" / "variants"
FORM = "float32-folded"
"""A form of the decoder, whose default is in int8."""


@pytest.fixture
def bundle(tmp_path):
    """A copy of the bundle with variants."""
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


@pytest.fixture
def golden():
    return open_bundle(BUNDLE).read_golden()


@pytest.fixture
def fastest(monkeypatch):
    """Makes `tune` find one form the fastest, on one thread."""

    def choose(form):
        def interleave(calls):
            fast, slow = Latency(np.ones(7), np.ones(7)), Latency(np.full(7, 2.0), np.full(7, 2.0))
            return {name: fast if name == f"{form}, 1" else slow for name in calls}

        monkeypatch.setattr(tuning, "interleave", interleave)

    return choose


def edit(bundle, change):
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return bundle


def keep(bundle, form, part="decoder", provider="cpu"):
    """Leave a record as `tune` would."""
    record = tuning_document(open_bundle(bundle), provider, {part: Choice(form)})
    (bundle / TUNING_FILE).write_text(json.dumps(record))
    return record


def test_every_form_computes_the_same_and_is_loaded_by_its_name(golden):
    part = open_bundle(BUNDLE).manifest.parts["decoder"]
    assert len(part.forms) > 3
    for form in part.forms:
        ae = Autoencoder.load(BUNDLE, variants={"decoder": form})
        assert ae.variants == {"encoder": "default", "decoder": form}
        assert part.form(form).precision == ("float32" if form.startswith("float32") else "int8")
        exact = part.form(form).precision == "float32"
        np.testing.assert_allclose(ae.decode(golden.latent), golden.decoded, atol=1e-5 if exact else 0.05)
        assert (np.abs(ae.decode(golden.latent) - golden.decoded).max() > 1e-4) is not exact


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"decoder": "other"}, ["'other'", FORM, "default"]),
        ({"encoder": FORM}, ["float32-as-it-is"]),
        ({"middle": "default"}, ["'middle'", "encoder, decoder"]),
        ({"decoder": None}, ["expected parts and forms"]),
        ("default", ["expected parts and forms"]),
        (["decoder"], ["expected parts and forms"]),
    ],
)
def test_a_form_that_there_is_not_is_refused(variants, words):
    with pytest.raises(InputError) as caught:
        Autoencoder.load(BUNDLE, variants=variants)
    for word in words:
        assert word in str(caught.value)


def test_a_copy_runs_the_same_form(bundle, golden):
    ae = Autoencoder.load(bundle, variants={"decoder": FORM})
    keep(bundle, "int8-folded")
    again = copy.deepcopy(ae)
    assert again.variants == ae.variants
    np.testing.assert_array_equal(again.decode(golden.latent), ae.decode(golden.latent))


def test_verify_holds_every_form_to_its_limits():
    manifest, titles = open_bundle(BUNDLE).manifest, {check.what for check in verify(BUNDLE)}
    for part, what in (("encoder", "encoder latent"), ("decoder", "decoder image")):
        for form in manifest.parts[part].forms[1:]:
            assert {f"{what}, {form}", f"round trip, {part} {form}"} <= titles
            assert any(title.startswith(f"{what}, {form}, ") and title.endswith("corners") for title in titles)


def test_a_form_that_computes_something_else_fails_alone(bundle):
    """Well-formed and with its right hash: another form's limits do not cover it."""

    def swap(document):
        first, second = (
            next(v for v in document["parts"]["decoder"]["variants"] if v["name"] == name)
            for name in ("int8-folded", FORM)
        )
        for key in ("file", "sha256", "bytes"):
            first[key], second[key] = second[key], first[key]

    failed = {check.what for check in verify(edit(bundle, swap)) if not check.passed}
    assert f"decoder image, {FORM}" in failed
    assert all(FORM in what for what in failed)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_byte_of_a_form_is_refused_wherever_it_is_read(bundle, place):
    path = bundle / "variants" / f"decoder-{FORM}.onnx"
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    Autoencoder.load(bundle)  # which does not read it
    keep(bundle, FORM)
    for read in (
        lambda: Autoencoder.load(bundle, variants={"decoder": FORM}),
        lambda: Autoencoder.load(bundle),
        lambda: verify(bundle),
    ):
        with pytest.raises(IntegrityError, match=FORM):
            read()


def test_a_folder_or_file_of_forms_that_leads_out_is_not_followed(bundle, tmp_path):
    (bundle / "variants").rename(tmp_path / "elsewhere")
    (bundle / "variants").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leads out"):
        Autoencoder.load(bundle, variants={"decoder": FORM})
    assert Autoencoder.load(bundle, variants={"decoder": FORM}, root=tmp_path).variants["decoder"] == FORM


def test_without_its_folder_the_parts_still_load_and_verify_says_what_is_missing(bundle, golden):
    keep(bundle, FORM)
    shutil.rmtree(bundle / "variants")
    with pytest.warns(RuntimeWarning, match=f"variants/decoder-{FORM}.onnx.*default form"):
        ae = Autoencoder.load(bundle)
    assert ae.variants == {"encoder": "default", "decoder": "default"}
    np.testing.assert_allclose(ae.decode(golden.latent), golden.decoded, atol=0.05)
    with pytest.warns(UserWarning, match="without 6 of its variants"):
        assert all(check.passed for check in verify(bundle))
    with pytest.raises(BundleError, match="has no file"):
        Autoencoder.load(bundle, variants={"decoder": FORM})


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["variants"].append(part["variants"][0]),
        lambda part: part["variants"].extend({**part["variants"][0], "name": f"v{i}"} for i in range(3)),
        lambda part: part.update(
            variants=[
                {**part["variants"][0], "name": f"v{i}", "file": f"variants/{i}.onnx"} for i in range(MAX_VARIANTS + 1)
            ]
        ),
        lambda part: part["variants"][0]["limits"].pop("image"),
        lambda part: part["variants"][0].update(corners=None),
        lambda part: part["variants"][0]["corners"]["limits"].pop("image"),
        lambda part: part["variants"][0]["corners"]["limits"]["image"].update(psnr_db=[1.0]),
        lambda part: part["variants"][0].update(file="decoder.onnx"),
        lambda part: part["variants"][0].update(file="variants/../decoder.onnx"),
        lambda part: part["variants"][0].update(file="variants/\x1b[2J.onnx"),
        lambda part: part["variants"][0].update(name="a" * 49),
        lambda part: part["variants"][0].update(bytes=1 << 40),
    ],
)
def test_a_manifest_with_forms_that_cannot_be_is_refused(change):
    document = json.loads((BUNDLE / "manifest.json").read_text())
    part = copy.deepcopy(document["parts"]["decoder"])
    change(part)
    document["parts"]["decoder"] = part
    raw = json.dumps(document).encode()
    assert len(raw) < MAX_MANIFEST_BYTES
    with pytest.raises(BundleError) as caught:
        parse_manifest(raw)
    assert "\x1b" not in str(caught.value)


def test_records_write_what_they_read():
    manifest = open_bundle(BUNDLE).manifest
    for name, part in manifest.parts.items():
        for variant, told in zip(part.variants, manifest.document["parts"][name]["variants"], strict=True):
            written = json.loads(json.dumps(variant.as_document()))
            assert written == {key: told[key] for key in written}


# What tune chooses


def test_tune_keeps_what_is_fastest_and_load_takes_it(bundle, fastest):
    fastest(FORM)
    document = tuning.tune(bundle)
    assert document["parts"]["decoder"] == {"form": FORM, "threads": 1}
    assert {row["form"] for row in document["measured"]["decoder"]} == set(
        open_bundle(bundle).manifest.parts["decoder"].forms
    )
    assert Autoencoder.load(bundle).variants["decoder"] == FORM
    assert Autoencoder.load(bundle, variants={"decoder": "default"}).variants["decoder"] == "default"
    assert Autoencoder.load(bundle, threads=1).variants["decoder"] == FORM
    assert why_stale(open_bundle(bundle)) == ""


def test_a_winner_that_fails_its_golden_vectors_here_is_not_kept(bundle, fastest):
    def impossible(document):
        form = next(each for each in document["parts"]["decoder"]["variants"] if each["name"] == FORM)
        form["limits"]["image"] = {"max_abs": 0.0}

    fastest(FORM)
    assert tuning.tune(edit(bundle, impossible))["parts"]["decoder"]["form"] == "default"


def test_where_no_form_is_right_nothing_is_kept(bundle, fastest):
    def impossible(document):
        part = document["parts"]["decoder"]
        for limits in (document["golden"]["limits"], *(form["limits"] for form in part["variants"])):
            limits["image"] = {"max_abs": 0.0}

    fastest(FORM)
    with pytest.raises(ParityError, match="No form of the decoder computes here"):
        tuning.tune(edit(bundle, impossible))
    assert not (bundle / TUNING_FILE).exists()


def test_forms_that_are_only_wrong_together_are_not_chosen_together(bundle, fastest, monkeypatch):
    real = tuning.round_trip_passes
    monkeypatch.setattr(tuning, "round_trip_passes", lambda *given: given[-1]["decoder"].form != FORM and real(*given))
    fastest(FORM)
    assert tuning.tune(bundle)["parts"]["decoder"]["form"] == "default"


def test_forms_of_a_lower_quality_are_left_out(bundle, fastest):
    fastest("int8-folded")
    assert tuning.tune(bundle)["parts"]["decoder"]["form"] == "int8-folded"
    document = tuning.tune(bundle, min_psnr_db=100)
    forms = [row["form"] for row in document["measured"]["decoder"]]
    assert forms
    assert all(form.startswith("float32") for form in forms)
    assert document["parts"]["decoder"]["form"].startswith("float32")
    with pytest.raises(InputError, match="No form of the encoder has a recorded PSNR of 199 dB"):
        tuning.tune(bundle, min_psnr_db=199)


@pytest.mark.slow
def test_each_objective_measures_what_it_says(bundle):
    for objective, unit in (("throughput", "us per call of 64"), ("memory", "MiB")):
        document = tuning.tune(bundle, objective=objective)
        assert (document["objective"], document["unit"]) == (objective, unit)
        assert all(row["median"] > 0 for row in document["measured"]["decoder"])
    assert {row["threads"] for row in document["measured"]["decoder"]} == {1}
    with pytest.raises(InputError, match="latency, throughput, memory"):
        tuning.tune(bundle, objective="heat")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d["machine"].update(onnxruntime="1.0.0"), r"ONNX Runtime '1\.0\.0', now"),
        (lambda d: d["machine"].update(processor="\x1b[2J"), r"the processor '\\x1b\[2J', now"),
        (lambda d: d.update(manifest_sha256="0" * 64), "another bundle"),
        (lambda d: d.update(schema_version=1), "another version"),
        (lambda d: d.clear(), "cannot be read"),
    ],
)
def test_verify_says_when_a_choice_is_stale(bundle, change, why):
    record = keep(bundle, FORM)
    assert Autoencoder.load(bundle).variants["decoder"] == FORM
    change(record)
    (bundle / TUNING_FILE).write_text(json.dumps(record))
    assert Autoencoder.load(bundle).variants["decoder"] == "default"
    with pytest.warns(RuntimeWarning, match=f"is not used: .*{why}.*tune again"):
        verify(bundle)


def test_a_choice_that_holds_is_no_matter_for_verify(bundle):
    keep(bundle, FORM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verify(bundle)


@pytest.mark.parametrize("form", ["other", "../decoder.onnx", "", 1, None, ["default"], "default\0", "a" * 100_000])
def test_a_poisoned_record_can_at_worst_choose_another_listed_form(bundle, form):
    record = keep(bundle, FORM)
    record["parts"]["decoder"]["form"] = form
    (bundle / TUNING_FILE).write_text(json.dumps(record))
    assert read_tuning(open_bundle(bundle), "cpu") == {}
    assert Autoencoder.load(bundle).variants["decoder"] == "default"


def test_what_was_tuned_for_one_provider_is_not_used_for_another(bundle):
    keep(bundle, FORM, provider="cuda")
    assert Autoencoder.load(bundle).variants["decoder"] == "default"


@pytest.mark.slow
def test_bench_shows_every_form(bundle):
    document = bench_bundle(bundle, parts=["decoder"], batches=[1], variants=True)
    timed = [row["variant"] for row in document["rows"]]
    assert timed[:-1] == list(open_bundle(bundle).manifest.parts["decoder"].forms)


def test_the_commands(bundle, call, refused, fastest, tmp_path):
    fastest(FORM)
    done = call(main, "tune", bundle, "--json", tmp_path / "tuned.json", "--min-psnr", "40dB")
    assert done.returncode == 0, done.stderr
    assert f"{FORM}, 1 thread, from now on" in done.stdout
    assert json.loads((tmp_path / "tuned.json").read_text())["parts"]["decoder"]["form"] == FORM
    assert json.loads(call(main, "tune", bundle, "--json", "-").stdout)["schema"] == "edgeae-tuning"
    refused(call(main, "tune", bundle, "--min-psnr", "190"), "190 dB")
    refused(call(main, "tune", bundle, "--min-psnr", "nan"), "--min-psnr")
    refused(call(main, "tune", bundle, "--objective", "heat"), "--objective")
    shutil.rmtree(bundle / "variants")
    done = call(main, "verify", bundle)
    assert done.returncode == 0
    assert "warning: The bundle is without 6 of its variants" in done.stderr
