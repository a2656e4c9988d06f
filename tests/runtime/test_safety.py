"""Bundles from strangers: what reaches outside the file is refused, and mutated ones never crash the process."""

import subprocess
import sys
from pathlib import Path

import pytest
from edgeae_runtime import Autoencoder, BundleError
from edgeae_runtime.graph_guard import MAX_OPSET, check_graph


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, payload):
    """A protobuf field: a number, or bytes."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


EXTERNAL = field(7, field(5, field(8, b"w") + field(14, 1)))
EXTERNAL_ENTRY = field(7, field(5, field(13, field(1, b"location") + field(2, b"/etc/passwd"))))
IN_ATTRIBUTE = field(7, field(1, field(5, field(5, field(14, 1)))))
IN_SUBGRAPH = field(7, field(1, field(5, field(6, field(5, field(14, 1))))))
SPARSE = field(7, field(15, field(1, field(14, 1))))


@pytest.mark.parametrize("raw", [EXTERNAL, EXTERNAL_ENTRY, IN_ATTRIBUTE, IN_SUBGRAPH, SPARSE])
def test_data_outside_the_file_is_refused_wherever_it_hides(raw):
    with pytest.raises(BundleError, match="data outside its file"):
        check_graph(raw, "decoder")


def test_foreign_operators_functions_and_new_opsets_are_refused():
    with pytest.raises(BundleError, match=r"operators of 'my\.own'"):
        check_graph(field(7, field(1, field(7, b"my.own"))), "decoder")
    with pytest.raises(BundleError, match=r"operators of 'my\.own'"):
        check_graph(field(8, field(1, b"my.own") + field(2, 1)), "decoder")
    with pytest.raises(BundleError, match="functions of its own"):
        check_graph(field(25, b""), "decoder")
    with pytest.raises(BundleError, match=rf"up to {MAX_OPSET}.*Update"):
        check_graph(field(8, field(2, MAX_OPSET + 1)), "decoder")


def nested(depth):
    raw = b""
    for _ in range(depth):
        raw = field(1, field(5, field(6, raw)))
    return field(7, raw)


@pytest.mark.parametrize(
    "raw",
    [b"\x3a", b"\x3a" + b"\xff" * 10 + b"\x01", b"\x3b", b"\x38\x01", b"\x00\x00", b"\x3a\x05ab", nested(40)],
)
def test_what_is_not_well_formed_is_refused(raw):
    with pytest.raises(BundleError, match="not a well-formed"):
        check_graph(raw, "decoder")


def test_our_own_graphs_pass(bundle, int8_bundle):
    for path in (bundle, int8_bundle):
        for part in ("encoder", "decoder"):
            check_graph((path / f"{part}.onnx").read_bytes(), part)


def test_a_forged_reference_never_reaches_onnxruntime(replace_file, bundle):
    raw = (bundle / "decoder.onnx").read_bytes() + EXTERNAL
    with pytest.raises(BundleError, match="data outside"):
        Autoencoder.load(replace_file("decoder.onnx", raw))


def test_mutated_bundles_give_typed_errors_or_right_answers():
    script = Path(__file__).parent / "fuzz.py"
    command = [sys.executable, str(script), "--cases", "600", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"refused"' in done.stdout
    assert "EP Error" not in done.stdout  # the library prints nothing
