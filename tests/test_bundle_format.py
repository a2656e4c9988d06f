"""docs/bundle.schema.json describes the manifests that there are, and refuses what the project's own reader refuses."""

import copy
import json
from pathlib import Path

import pytest
from edgeae_runtime.bundle.golden_limits import GOLDEN_METRICS, GOLDEN_OUTPUTS, MAX_GOLDEN
from edgeae_runtime.bundle.layers import PRECISIONS
from edgeae_runtime.bundle.manifest import PARTS, READABLE_VERSIONS, parse_manifest
from edgeae_runtime.bundle.parts import MAX_ELEMENTS, MAX_MODEL_BYTES
from edgeae_runtime.bundle.preprocessing import FITS
from edgeae_runtime.errors import BundleError

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "bundle.schema.json").read_text())
BUNDLES = sorted({ROOT / "examples" / "bundle", *(ROOT / "tests" / "runtime" / "bundles").iterdir()})
MANIFESTS = {bundle.name: json.loads((bundle / "manifest.json").read_text()) for bundle in BUNDLES}


@pytest.fixture(scope="module")
def valid():
    """Whether a document fits the schema."""
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator.check_schema(SCHEMA)
    return validator(SCHEMA).is_valid


def readable(document):
    try:
        parse_manifest(json.dumps(document).encode())
    except BundleError:
        return False
    return True


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_has_what_the_schema_requires(name):
    """Without any library: the keys that are required, wherever the schema names them."""
    document, part, file = MANIFESTS[name], SCHEMA["$defs"]["part"], SCHEMA["$defs"]["file"]
    assert set(SCHEMA["required"]) <= set(document)
    for key, entry in SCHEMA["properties"].items():
        assert key == "parts" or "required" not in entry or set(entry["required"]) <= set(document[key])
    for each in document["parts"].values():
        assert set(part["required"]) | set(file["required"]) <= set(each)
        for tensor in (*each["inputs"], *each["outputs"]):
            assert set(SCHEMA["$defs"]["tensor"]["required"]) <= set(tensor)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_is_valid(valid, name):
    assert readable(MANIFESTS[name])
    assert valid(MANIFESTS[name])


def test_the_schema_names_what_the_reader_knows():
    definitions, properties = SCHEMA["$defs"], SCHEMA["properties"]
    assert tuple(properties["format_version"]["enum"]) == READABLE_VERSIONS
    assert tuple(properties["parts"]["properties"]) == PARTS
    assert tuple(definitions["output"]["enum"]) == GOLDEN_OUTPUTS
    assert tuple(definitions["metric"]["enum"]) == GOLDEN_METRICS
    assert tuple(definitions["part"]["properties"]["precision"]["enum"]) == PRECISIONS
    assert tuple(properties["preprocessing"]["properties"]["resize"]["properties"]["fit"]["enum"]) == FITS
    assert definitions["file"]["properties"]["bytes"]["maximum"] == MAX_MODEL_BYTES - 1
    assert properties["latent"]["properties"]["dim"]["maximum"] == MAX_ELEMENTS
    assert properties["golden"]["properties"]["corners"]["properties"]["names"]["maxItems"] == MAX_GOLDEN


def places(value, path=()):
    """Where every entry of a document stands, with what it is."""
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(entry, (*path, key))


READ = ("format_version", "parts", "golden", "preprocessing", "latent")
FOR_PEOPLE = ("parameters", "operators", "plan", "rewrites", "kept_in_float")


@pytest.mark.parametrize("name", MANIFESTS)
def test_nothing_that_can_be_read_is_invalid(valid, name):
    """Each entry taken out, and put wrong, alone: whatever the reader can read is also valid."""
    refused, whole = 0, copy.deepcopy(MANIFESTS[name])
    for part in whole["parts"].values():  # one of a kind is enough
        part["variants"] = part.get("variants", [])[:1]
        for form in (part, *part["variants"]):
            form["layers"] = form["layers"][:1]
    for path in places(whole):
        if path[0] not in READ or any(key in FOR_PEOPLE for key in path):
            continue
        for wrong in (None, "", -1, [], {}, "gone"):
            document = copy.deepcopy(whole)
            inner = document
            for key in path[:-1]:
                inner = inner[key]
            if wrong == "gone":
                del inner[path[-1]]
            else:
                inner[path[-1]] = wrong
            if readable(document):
                assert valid(document), (path, wrong)
            else:
                refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("format_version",), 4),
        (("parts",), {}),
        (("parts", "middle"), {}),
        (("parts", "encoder", "file"), "../encoder.onnx"),
        (("parts", "encoder", "sha256"), "E" * 64),
        (("parts", "encoder", "bytes"), MAX_MODEL_BYTES),
        (("parts", "encoder", "precision"), "int4"),
        (("parts", "encoder", "inputs"), []),
        (("parts", "decoder", "inputs", 0, "dtype"), "uint8"),
        (("parts", "decoder", "outputs", 0, "shape"), [1, 1, 16, 16]),
        (("golden", "limits", "image"), {}),
        (("golden", "limits", "image"), {"median": 1.0}),
        (("golden", "limits", "other"), {"max_abs": 1.0}),
        (("preprocessing", "pad"), [1, 1, 1]),
        (("preprocessing", "scale"), "1/255"),
        (("preprocessing", "resize"), {"fit": "zoom"}),
        (("latent", "prior"), "uniform"),
        (("parts", "decoder", "variants", 0, "name"), "default"),
        (("parts", "decoder", "variants", 0, "name"), "../x"),
        (("parts", "decoder", "variants", 0, "file"), "decoder.onnx"),
        (("parts", "decoder", "variants", 0, "file"), "variants/../decoder.onnx"),
        (("parts", "decoder", "variants", 0, "file"), "variants/a/b.onnx"),
        (("parts", "decoder", "variants", 0, "file"), "/variants/b.onnx"),
        (("parts", "decoder", "variants", 0, "sha256"), "E" * 64),
        (("parts", "decoder", "variants", 0, "limits", "image"), {}),
        (("parts", "decoder", "variants", 0, "psnr_db"), "high"),
        (("parts", "decoder", "variants"), {}),
    ],
)
def test_what_cannot_be_is_refused_by_both(valid, path, wrong):
    document = copy.deepcopy(MANIFESTS["variants"])
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    assert not readable(document)
    assert not valid(document)
