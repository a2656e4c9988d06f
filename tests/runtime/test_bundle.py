"""Reading a bundle: what is damaged, forged or from elsewhere is refused with a typed error."""

import io
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, BundleError, InputError, IntegrityError, open_bundle, verify
from edgeae_runtime.bundle.manifest import parse_manifest
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.files.documents import Entries


def test_a_whole_bundle_opens(bundle):
    manifest = open_bundle(bundle).manifest
    assert manifest.image_shape == (1, 16, 16)
    assert manifest.latent.dim == 3
    assert {layer.op for layer in manifest.parts["encoder"].layers} <= {"Conv", "FusedConv", "Gemm"}
    assert {layer.precision for part in manifest.parts.values() for layer in part.layers} == {"float32"}


def test_int8_layers_are_listed(int8_bundle):
    layers = open_bundle(int8_bundle).manifest.parts["encoder"].layers
    assert {layer.precision for layer in layers} == {"float32", "int8"}
    assert {layer.op for layer in layers if layer.precision == "int8"} == {"QLinearConv", "QGemm"}


def test_nothing_there(tmp_path):
    with pytest.raises(BundleError, match="no bundle at"):
        open_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        open_bundle(tmp_path)


def test_a_file_is_no_bundle(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    with pytest.raises(BundleError, match="is a file, expected a bundle"):
        open_bundle(path)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "golden.npz"])
def test_one_changed_byte_is_found(broken, name):
    raw = bytearray((broken / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (broken / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match=f"{name} is not the file that was exported"):
        _read_everything(broken)


@pytest.mark.parametrize("name", ["encoder.onnx", "golden.npz"])
def test_truncation_and_extension_are_found(broken, name):
    raw = (broken / name).read_bytes()
    for other in (raw[:-1], raw + b"\0", b""):
        (broken / name).write_bytes(other)
        with pytest.raises(IntegrityError, match="another size"):
            _read_everything(broken)


def test_a_missing_file_is_named(broken):
    (broken / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"no file decoder\.onnx"):
        Autoencoder.load(broken)


def test_links_out_of_the_bundle_are_not_followed(broken, tmp_path):
    outside = tmp_path / "outside.onnx"
    (broken / "decoder.onnx").rename(outside)
    (broken / "decoder.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="link that leads out"):
        Autoencoder.load(broken)
    with pytest.raises(BundleError, match="link that leads out"):
        open_bundle(broken, root=broken).read_part("decoder")
    open_bundle(broken, root=tmp_path).read_part("decoder")  # as a cache that keeps content beside its snapshots
    outside.write_bytes(b"x")
    with pytest.raises(IntegrityError, match="another size"):  # wherever a link leads, the hash decides
        open_bundle(broken, root=tmp_path).read_part("decoder")


def test_links_inside_the_bundle_are_followed(broken):
    data = broken / "..data"  # as a volume of configuration is mounted
    data.mkdir()
    for name in ("manifest.json", "decoder.onnx", "golden.npz"):
        (broken / name).rename(data / name)
        (broken / name).symlink_to(f"..data/{name}")
    Autoencoder.load(broken)


@pytest.mark.parametrize("name", ["manifest.json", "decoder.onnx", "golden.npz"])
def test_what_is_no_regular_file_is_refused_without_waiting(broken, name):
    (broken / name).unlink()
    os.mkfifo(broken / name)
    with pytest.raises(BundleError, match="no regular file"):
        verify(broken)


def test_a_circle_of_links_is_refused(broken):
    (broken / "decoder.onnx").unlink()
    (broken / "decoder.onnx").symlink_to("decoder.onnx")
    with pytest.raises(BundleError):
        Autoencoder.load(broken)


@pytest.mark.parametrize("name", ["../decoder.onnx", "/etc/passwd", "sub/decoder.onnx", "..", "", "a\\b", ".hidden"])
def test_paths_out_of_the_bundle_are_refused(edit_manifest, name):
    path = edit_manifest(lambda document: document["parts"]["decoder"].update(file=name))
    with pytest.raises(BundleError, match="plain file name"):
        open_bundle(path)


def test_versions_are_told_with_the_remedy(edit_manifest):
    with pytest.raises(BundleError, match=r"format version 99.*update edgeae-runtime"):
        open_bundle(edit_manifest(lambda document: document.update(format_version=99)))
    with pytest.raises(BundleError, match=r"format version 0.*export the bundle again"):
        open_bundle(edit_manifest(lambda document: document.update(format_version=0)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("parts"), "lacks 'parts'"),
        (lambda d: d.update(parts={}), "neither an encoder nor a decoder"),
        (lambda d: d["parts"].update(other=d["parts"]["encoder"]), "'other' in parts"),
        (lambda d: d["parts"]["encoder"].update(bytes="many"), "parts.encoder.bytes"),
        (lambda d: d["parts"]["encoder"].update(bytes=True), "parts.encoder.bytes"),
        (lambda d: d["parts"]["encoder"].update(bytes=-1), "parts.encoder.bytes"),
        (lambda d: d["parts"]["encoder"].update(bytes=1 << 40), "parts.encoder.bytes"),
        (lambda d: d["parts"]["encoder"].update(sha256="0"), "sha256"),
        (lambda d: d["parts"]["encoder"].update(precision="int4"), "'int4'"),
        (lambda d: d["parts"]["encoder"]["inputs"][0].update(shape=["batch"]), "shape"),
        (lambda d: d["parts"]["encoder"]["inputs"][0].update(shape=["batch", 1, 16, 0]), "shape"),
        (lambda d: d["parts"]["encoder"]["inputs"][0].update(shape=["batch", 1, 16, 17]), "different image shapes"),
        (lambda d: d["parts"]["encoder"]["inputs"][0].update(range=[1, 0]), "range"),
        (lambda d: d["parts"]["encoder"].update(inputs=[]), "0 inputs"),
        (lambda d: d["latent"].update(dim=4), "latents of"),
        (lambda d: d["latent"].update(low=[0.0]), "1 latent coordinates"),
        (lambda d: d["preprocessing"].update(pad=[1, 1]), "pad"),
        (lambda d: d["golden"].update(limits={}), "golden.limits"),
        (lambda d: d["golden"]["limits"].update(image={}), "no limit"),
        (lambda d: d["golden"]["limits"].update(image={"max_abs": "x"}), "finite number"),
        (lambda d: d["golden"]["limits"].update(image={"rmse": 1}), "'rmse'"),
    ],
)
def test_a_wrong_field_is_named(edit_manifest, change, words):
    with pytest.raises(BundleError) as caught:
        open_bundle(edit_manifest(change))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format_version": NaN}', b"[" * 100_000, b'{"format_version": 1}'],
)
def test_what_is_no_manifest_is_refused(raw):
    with pytest.raises(BundleError):
        parse_manifest(raw)


def test_a_huge_manifest_is_not_read(broken):
    with (broken / "manifest.json").open("ab") as file:
        file.truncate(1 << 30)  # sparse: costs no disk
    with pytest.raises(BundleError, match="larger than"):
        open_bundle(broken)


def test_a_forged_graph_is_refused_by_type(replace_file):
    with pytest.raises(BundleError, match="not a well-formed ONNX graph"):
        Autoencoder.load(replace_file("decoder.onnx", b"not a graph at all"))
    with pytest.raises(BundleError, match="no nodes"):
        Autoencoder.load(replace_file("decoder.onnx", b"\x08\x0a"))  # well-formed, but an empty model


def test_swapped_halves_are_found(replace_file, bundle):
    with pytest.raises(BundleError, match="inputs and outputs"):
        Autoencoder.load(replace_file("decoder.onnx", (bundle / "encoder.onnx").read_bytes()))


def test_golden_arrays_with_pickles_are_refused(replace_file, tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, image=np.array([{"a": 1}], dtype=object), latent=np.zeros((1, 3)), decoded=np.zeros(1))
    with pytest.raises(BundleError, match="golden"):
        open_bundle(replace_file("golden.npz", path.read_bytes())).read_golden()


def test_golden_arrays_of_a_wrong_shape_are_refused(replace_file, tmp_path):
    path = tmp_path / "other.npz"
    zeros = np.zeros((2, 1, 16, 16), np.float32)
    np.savez(path, image=zeros, latent=np.zeros((3, 3), np.float32), decoded=zeros)
    with pytest.raises(BundleError, match="has shape"):
        open_bundle(replace_file("golden.npz", path.read_bytes())).read_golden()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("latent", "low"), [10**400, 0, 0]),
        (("latent", "low"), [1e308, 0, 0]),
        (("latent", "low"), [1e30, 0, 0]),  # above the highest
        (("latent", "low"), None),
        (("preprocessing", "scale"), 10**400),
        (("preprocessing", "pad"), [10**9, 0, 0, 0]),
        (("preprocessing", "pad"), [10**30, 0, 0, 0]),
        (("preprocessing", "source_size"), [15, 14]),
        (("preprocessing", "source_size"), None),
        (("golden", "limits", "image", "max_abs"), 10**400),
        (("parts", "encoder", "inputs", 0, "shape"), ["batch", 3, 60000, 60000]),
        (("parts", "encoder", "inputs", 0, "range"), [0, 10**400]),
        (("latent", "shape"), [10**30]),
        (("format_version",), 10**400),
    ],
)
def test_numbers_that_cannot_be_are_refused(edit_manifest, where, value):
    def change(document):
        for key in where[:-1]:
            document = document[key]
        document[where[-1]] = value

    with pytest.raises(BundleError, match=r"manifest\.json|format version"):
        open_bundle(edit_manifest(change))


def test_what_a_stranger_wrote_is_cut_and_escaped(edit_manifest):
    path = edit_manifest(lambda document: document["parts"]["encoder"].update(precision="\x1b[2J" + "x" * 4_000_000))
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


def test_a_file_is_not_read_before_its_size_is_right(edit_manifest):
    path = edit_manifest(lambda document: document["parts"]["decoder"].update(bytes=(1 << 30) - 1))
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="another size"):
        Autoencoder.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def npz(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name.replace("__", "."), raw)
    return buffer.getvalue()


def npy(array, **header):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": array.shape} | header
    )
    return buffer.getvalue() + array.tobytes()


GOOD = np.zeros((2, 3), np.float32)
LYING = {
    "3 TiB": npy(GOOD, shape=(10**12, 3)),
    "negative": npy(GOOD, shape=(-2, 3)),
    "no whole numbers": npy(GOOD, shape=(2.5, 3)),
    "a scalar": npy(GOOD, shape=()),
    "another dtype": npy(GOOD, descr="<f8"),
    "objects": npy(GOOD, descr="|O"),
    "no Python": b"\x93NUMPY\x01\x00\x10\x00" + b"((((((((((((((((",
    "unhashable": b"\x93NUMPY\x01\x00\x10\x00" + b"{[]: 1, {}: 2} \n ",
    "a long header": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 100,
    "another version": b"\x93NUMPY\x09\x00",
    "short": npy(GOOD)[:-1],
    "long": npy(GOOD) + b"x",
    "empty": b"",
}


@pytest.mark.parametrize("kind", LYING)
def test_golden_headers_that_lie_are_refused_before_the_data(replace_file, kind):
    image = npy(np.zeros((2, 1, 16, 16), np.float32))
    raw = npz(image__npy=image, decoded__npy=image, latent__npy=LYING[kind])
    with pytest.raises(BundleError):
        open_bundle(replace_file("golden.npz", raw)).read_golden()


def test_golden_members_are_those_of_the_names_alone(replace_file):
    image, latent = npy(np.zeros((2, 1, 16, 16), np.float32)), npy(GOOD)
    good = {"image__npy": image, "decoded__npy": image, "latent__npy": latent}
    open_bundle(replace_file("golden.npz", npz(**good))).read_golden()
    with pytest.raises(BundleError, match="expected only"):  # numpy would read this one for "image"
        open_bundle(replace_file("golden.npz", npz(image=b"\0" * 100_000_000, **good))).read_golden()


def test_the_manifest_is_strict_json(bundle):
    json.loads((bundle / "manifest.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def _read_everything(path):
    opened = open_bundle(path)
    opened.read_golden()
    Autoencoder.from_bundle(opened)


def test_records_write_what_they_read(bundle):
    manifest = open_bundle(bundle).manifest
    for name, part in manifest.parts.items():
        written = part.as_document()
        assert written == {key: manifest.document["parts"][name][key] for key in written}
    assert manifest.latent.as_document() == {"shape": [3]} | manifest.document["latent"]  # format 1 has vectors only


@pytest.mark.parametrize(
    "document",
    [
        {"source_size": [28, 28], "resize": None, "pad": [2, 2, 2, 2], "scale": 1 / 255},
        {"source_size": None, "resize": {"size": [9, 8], "fit": "crop", "channels": 3}, "pad": [0] * 4, "scale": 0.5},
        {"source_size": None, "resize": {"fit": "stretch"}, "pad": [0] * 4, "scale": 1.0},
        {"source_size": None, "pad": [0] * 4, "scale": 1 / 255},
    ],
)
def test_preprocessing_is_written_as_it_was_read(document):
    written = Preprocessing.of(Entries(document, BundleError)).as_document()
    assert json.dumps(written) == json.dumps(document)


@pytest.mark.parametrize("error", [BundleError, InputError])
def test_a_reader_raises_the_error_it_was_told_and_names_the_place(error):
    root = Entries({"a": {"b": [1, True], "c": 10**400}, "x" * 10_000: 1, "n": None}, error)
    for take, words in (
        (lambda: root.take("z", str), "lacks 'z' in the document"),
        (lambda: root.take("a", list), "has dict for a, expected list"),
        (lambda: root.within("a").whole_numbers("b", 0), "[1, True] for a.b, expected whole numbers from 0"),
        (lambda: root.within("a").number("c"), "for a.c, expected a finite number"),
        (lambda: root.within("a").each_of("b", int), "has bool for a.b, expected int"),
        (lambda: root.within("n"), "has NoneType for n, expected dict"),
        (lambda: root.take("x" * 10_000, str), "expected str"),
        (lambda: Entries.parse(b"[1]", error), "has list for the document, expected dict"),
        (lambda: Entries.parse(b"[" * 100_000, error), "is not valid JSON"),
    ):
        with pytest.raises(error) as caught:
            take()
        assert words in str(caught.value)
        assert len(str(caught.value)) <= 500
    assert root.maybe_within("n").document == {}
