"""Bundles from strangers: only bounded graphs of known operators reach ONNX Runtime, and mutated ones never crash."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, BundleError, IntegrityError, verify
from edgeae_runtime.errors import TimeLimitError
from edgeae_runtime.guard.graph_guard import check_graph
from edgeae_runtime.guard.onnx_reader import MAX_NODES
from edgeae_runtime.guard.operators import MAX_OPSET
from edgeae_runtime.sessions.providers import create_session

FLOAT, INT8, INT64 = 1, 3, 7


def varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, payload):
    """A protobuf field: a number, or bytes."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def value(name, shape, dtype=FLOAT):
    sizes = b"".join(field(1, field(2, size.encode()) if isinstance(size, str) else field(1, size)) for size in shape)
    return field(1, name.encode()) + field(2, field(1, field(1, dtype) + field(2, sizes)))


def tensor(name, array, dtype=FLOAT):
    return (
        b"".join(field(1, size) for size in array.shape)
        + field(2, dtype)
        + field(8, name.encode())
        + field(9, array.tobytes())
    )


def ints(name, *numbers):
    return field(1, name.encode()) + field(20, 7) + b"".join(field(8, number) for number in numbers)


def integer(name, number):
    return field(1, name.encode()) + field(3, number) + field(20, 2)


def node(op, inputs, outputs, *attributes, more=b""):
    return (
        b"".join(field(1, name.encode()) for name in inputs)
        + b"".join(field(2, name.encode()) for name in outputs)
        + field(4, op.encode())
        + b"".join(field(5, attribute) for attribute in attributes)
        + more
    )


def model(*nodes, constants=(), shape=("batch", 4), gives=("batch", 4), graph=b"", more=b"", opset=18):
    """A graph from x to y."""
    raw = b"".join(field(1, each) for each in nodes) + b"".join(field(5, each) for each in constants)
    raw += field(11, value("x", shape)) + field(12, value("y", gives)) + graph
    return field(1, 10) + field(7, raw) + field(8, field(1, b"") + field(2, opset)) + more


RELU = node("Relu", ["x"], ["y"])
NUMBERS = np.arange(4, dtype=np.float32)


def sizes(name, *numbers):
    return tensor(name, np.array(numbers, np.int64), INT64)


def test_an_honest_graph_passes_and_runs():
    raw = model(node("Add", ["x", "c"], ["y"]), constants=[tensor("c", NUMBERS)])
    check_graph(raw, "decoder")
    session = create_session(raw, "cpu", threads=1, spinning=False)
    assert session.run(None, {"x": np.ones((3, 4), np.float32)})[0].shape == (3, 4)


EXTERNAL = {
    "a location": field(5, field(8, b"w") + field(14, 1)),
    "an entry": field(5, field(8, b"w") + field(13, field(1, b"location") + field(2, b"/etc/passwd"))),
    "in an attribute": field(1, field(5, field(1, b"value") + field(20, 4) + field(5, field(14, 1)))),
    "in a graph of a node": field(1, field(5, field(6, field(5, field(14, 1))))),
    "sparse": field(15, field(1, field(14, 1))),
}


@pytest.mark.parametrize("kind", EXTERNAL)
def test_data_outside_the_file_is_refused_wherever_it_hides(kind):
    with pytest.raises(BundleError, match=r"outside its file|within a node|sparse"):
        check_graph(model(RELU, graph=EXTERNAL[kind]), "decoder")


HIDDEN = {  # what protobuf reads as another field than a careless reader does
    "a key of five bytes": b"\xba\x80\x80\x80\x10" + varint(2) + b"ab",  # field 7 + 2^29
    "a long key": b"\xba\x80\x00" + varint(2) + b"ab",
    "a long number": b"\x28\x81\x00",
    "a second graph": field(7, field(1, RELU)),
    "functions": field(25, b""),
    "training": field(20, b""),
    "settings": field(14, field(1, b"ort_config") + field(2, b"{}")),
    "an unknown field": field(99, b"x"),
    "a fixed64": b"\x09" + b"x" * 8,
    "a group": b"\x0b\x0c",
    "a name twice": field(2, b"a") + field(2, b"b"),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_could_hide_is_refused(kind):
    with pytest.raises(BundleError, match="not a well-formed ONNX graph"):
        check_graph(model(RELU, more=HIDDEN[kind]), "decoder")
    with pytest.raises(BundleError):
        check_graph(HIDDEN[kind] + model(RELU), "decoder")


def test_the_form_of_onnxruntime_is_refused_by_both():
    polyglot = b"\x08\x0a\x09\x00ORTM\0\0\0" + model(RELU)
    with pytest.raises(BundleError, match="ONNX Runtime's own"):
        check_graph(polyglot, "decoder")
    with pytest.raises(BundleError, match=r"does not accept|No graph"):
        create_session(b"\x18\0\0\0ORTM" + b"\0" * 64, "cpu", threads=1, spinning=False)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (model(node("Relu", ["x"], ["y"], more=field(7, b"my.own"))), r"operators of 'my\.own'"),
        (model(RELU, more=field(8, field(1, b"my.own") + field(2, 1))), r"operators of 'my\.own'"),
        (model(RELU, more=field(8, field(1, b"ai.onnx") + field(2, 1))), "one operator set"),
        (model(RELU, opset=MAX_OPSET + 1), rf"to {MAX_OPSET}.*Update"),
        (model(node("EPContext", ["x"], ["y"])), "no operator that exported graphs use"),
        (model(node("RandomNormalLike", ["x"], ["y"])), "no operator that exported graphs use"),
        (model(node("If", ["x"], ["y"])), "no operator that exported graphs use"),
        (model(node("Relu", ["x"], ["y"], integer("axis", 1))), "attribute axis"),
        (model(node("Softmax", ["x"], ["y"], ints("axis", 1))), "attribute axis"),
        (model(node("Relu", ["z"], ["y"])), "reads z, which nothing"),
        (model(node("Relu", ["x"], ["z"])), "output y that no node gives"),
        (model(node("Relu", ["x"], ["y"]), node("Relu", ["x"], ["y"])), "there already"),
        (model(node("Relu", ["x", "x"], ["y"])), "number of inputs"),
        (model(RELU, gives=("batch", 5)), "promises"),
        (model(RELU, constants=[tensor("x", NUMBERS)]), "constant as well"),
        (model(RELU, constants=[tensor("c", NUMBERS)[:-4]]), "not a well-formed"),
        (model(RELU, constants=[tensor("c", NUMBERS, dtype=8)]), "data type 8"),
        (model(RELU, constants=[field(1, 1 << 40) + field(2, 1) + field(8, b"c")]), "in 0 bytes"),
        (model(RELU, constants=[tensor("c", NUMBERS), tensor("c", NUMBERS)]), "one name"),
        (model(RELU, graph=field(1, field(1, b"\xff"))), "UTF-8"),
    ],
)
def test_what_no_exported_graph_has_is_refused(raw, said):
    with pytest.raises(BundleError, match=said):
        check_graph(raw, "decoder")


def doubling(times):
    nodes = [node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], integer("axis", 0)) for i in range(times)]
    return [node("Relu", ["x"], ["v0"]), *nodes, node("ReduceMax", [f"v{times}"], ["y"])]


LARGE = np.float32(0).reshape(())
GROWING = {
    "Expand": [[node("Expand", ["x", "s"], ["y"])], [sizes("s", 1 << 28, 4)]],
    "Expand, computed": [[node("Mul", ["s", "s"], ["t"]), node("Expand", ["x", "t"], ["y"])], [sizes("s", 1 << 14, 1)]],
    "Tile": [[node("Tile", ["x", "s"], ["y"])], [sizes("s", 1 << 20, 1 << 10)]],
    "Pad": [[node("Pad", ["x", "s"], ["y"])], [sizes("s", 1 << 30, 0, 0, 0)]],
    "ConstantOfShape": [[node("ConstantOfShape", ["s"], ["y"])], [sizes("s", 1 << 30)]],
    "Range": [[node("Range", ["a", "b", "c"], ["y"])], [sizes("a"), sizes("b"), sizes("c")]],
    "Resize": [
        [node("Resize", ["x", "", "", "s"], ["y"])],
        [sizes("s", 1 << 15, 1 << 15)],
    ],
    "OneHot": [[node("Cast", ["x"], ["i"], integer("to", 7)), node("OneHot", ["i", "s", "v"], ["y"])],
               [sizes("s", 1 << 30), tensor("v", NUMBERS[:2])]],
    "a size that the input tells": [
        [node("Cast", ["x"], ["s"], integer("to", 7)), node("ConstantOfShape", ["s"], ["y"])],
        [],
    ],
    "Concat, doubling": [doubling(40), []],
    "outer sums, unknown sizes": [
        [node("NonZero", ["x"], ["a"]), *(node("Add", [n, n], [m]) for n, m in zip("abcd", "bcde", strict=True)),
         node("Add", ["e", "e"], ["y"])],
        [],
    ],
    "Einsum": [
        [node("Einsum", ["c", "c"], ["y"], field(1, b"equation") + field(4, b"a,b->ab") + field(20, 3))],
        [tensor("c", np.zeros(1 << 15, np.float32))],
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", GROWING)
def test_what_could_grow_without_end_is_refused(kind):
    nodes, constants = GROWING[kind]
    with pytest.raises(BundleError, match=r"holds more than|depends on what the graph computes|do not fit"):
        check_graph(model(*nodes, constants=constants), "decoder")


def test_work_without_end_is_refused():
    nodes = [node("MatMul", [f"v{i}" if i else "c", "c"], [f"v{i + 1}"]) for i in range(40)]
    large = tensor("c", np.zeros((1024, 1024), np.float32))
    with pytest.raises(BundleError, match="takes more than"):
        check_graph(model(*nodes, node("Relu", ["x"], ["y"]), constants=[large]), "decoder")


@pytest.mark.parametrize("divisor", ["computed", "-1", "0"])
@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_whole_numbers_are_divided_by_known_ones_only(op, divisor):
    """The lowest int64 by -1 ends the process (seen with ONNX Runtime 1.32)."""
    nodes = [
        node("Cast", ["x"], ["i"], integer("to", INT64)),
        node(op, ["i", "i" if divisor == "computed" else "c"], ["q"]),
        node("Cast", ["q"], ["y"], integer("to", FLOAT)),
    ]
    constants = [sizes("c", int(divisor) if divisor != "computed" else 2)]
    with pytest.raises(BundleError, match="divides whole numbers"):
        check_graph(model(*nodes, constants=constants), "decoder")
    nodes[1] = node(op, ["i", "c"], ["q"])
    check_graph(model(*nodes, constants=[sizes("c", 2)]), "decoder")
    check_graph(model(node(op, ["x", "x"], ["y"], *([integer("fmod", 1)] if op == "Mod" else []))), "decoder")


def test_tensors_of_nothing_are_refused():
    nothing = tensor("c", np.zeros((4, 0), np.float32))
    nodes = [node("MatMul", ["x", "c"], ["n"]), node("Softmax", ["n"], ["m"]), RELU]
    with pytest.raises(BundleError, match="no elements"):
        check_graph(model(*nodes, constants=[nothing]), "decoder")


def test_so_many_nodes_are_refused_before_they_are_read():
    nodes = [node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(MAX_NODES + 1)]
    with pytest.raises(BundleError, match="more than 10000"):
        check_graph(model(*nodes), "decoder")
    with pytest.raises(BundleError, match="more than"):
        check_graph(model(graph=field(1, b"") * 3_000_000), "decoder")  # 6 MB of nothing


def test_sizes_that_shapes_tell_are_followed():
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["n"], integer("axis", 0)),
        node("Concat", ["n", "rest"], ["t"], integer("axis", 0)),
        node("Expand", ["c", "t"], ["y"]),
    ]
    constants = [sizes("first", 0), sizes("rest", 4), tensor("c", NUMBERS)]
    check_graph(model(*nodes, constants=constants), "decoder")


def test_a_permutation_of_another_rank_never_reaches_onnxruntime():
    """Its optimiser writes out of bounds then, while loading (seen with 1.32)."""
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"], integer("axis", 0)),
        node("Transpose", ["d"], ["t"], ints("perm", 0, 2, 1)),
        RELU,
    ]
    constants = [tensor("w", np.zeros((16, 8, 2, 2), np.int8), INT8), tensor("s", np.ones(16, np.float32))]
    with pytest.raises(BundleError, match=r"\(Transpose\) that has inputs or attributes that do not fit"):
        check_graph(model(*nodes, constants=constants), "decoder")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x3a", b"\x3a" + b"\xff" * 10 + b"\x01", b"\x3b", b"\x38\x01", b"\x00\x00", b"\x3a\x05ab"],
)
def test_what_is_not_well_formed_is_refused(raw):
    with pytest.raises(BundleError, match="not a well-formed"):
        check_graph(raw, "decoder")


def test_every_cut_of_a_graph_is_refused(bundle):
    raw = (bundle / "decoder.onnx").read_bytes()
    for end in (*range(0, 600), *range(600, len(raw), 97)):
        with pytest.raises(BundleError):
            check_graph(raw[:end], "decoder")


def test_our_own_graphs_pass(bundle, int8_bundle):
    for path in (bundle, int8_bundle):
        for part in ("encoder", "decoder"):
            check_graph((path / f"{part}.onnx").read_bytes(), part)


def test_a_forged_reference_never_reaches_onnxruntime(replace_file, bundle):
    raw = (bundle / "decoder.onnx").read_bytes() + field(7, EXTERNAL["an entry"])
    with pytest.raises(BundleError, match="twice"):
        Autoencoder.load(replace_file("decoder.onnx", raw))


def test_what_kills_the_process_that_verifies_is_an_integrity_error(bundle, monkeypatch):
    from edgeae_runtime import apart

    monkeypatch.setattr(apart, "_START", "import os; os.abort() # {path}")
    with pytest.raises(IntegrityError, match="signal 6"):
        verify(bundle)
    monkeypatch.setattr(apart, "_START", "print('x' * (1 << 21)) # {path}")
    with pytest.raises(IntegrityError, match="ended the process"):
        verify(bundle)
    monkeypatch.setattr(apart, "_START", "print({{'checks': [1]}}) # {path}")
    with pytest.raises(IntegrityError, match="ended the process"):
        verify(bundle)


def test_a_graph_that_never_ends_is_given_up(bundle, monkeypatch):
    from edgeae_runtime import apart

    monkeypatch.setattr(apart, "_START", "while True: pass # {path}")
    with pytest.raises(TimeLimitError, match=r"within 0\.5 s"):
        verify(bundle, timeout_s=0.5)


@pytest.mark.skipif("EDGEAE_PYTHON" in os.environ, reason="an emulator does not bound its guest's address space")
def test_memory_of_the_process_that_verifies_is_bounded(bundle, monkeypatch):
    from edgeae_runtime import apart

    monkeypatch.setattr(apart, "MEMORY", 1 << 24)  # less than it holds already
    with pytest.raises((IntegrityError, BundleError)):
        verify(bundle)


def test_verify_runs_nothing_from_the_current_folder(bundle, tmp_path, monkeypatch):
    for name in ("json", "numpy", "edgeae_runtime"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert verify(bundle)


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_bundles_give_typed_errors_or_right_answers(seed):
    script = Path(__file__).parent / "fuzz.py"
    command = [
        sys.executable,
        str(script),
        "--cases",
        "600",
        "--seed",
        str(seed),
        "--seconds",
        "60",
        "--megabytes",
        "4096",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout[done.stdout.index("{") :])
    assert outcomes["refused"] > 100
    assert "EP Error" not in done.stdout  # the library prints nothing


def test_floats_are_read_as_they_are_written():
    alpha = field(1, b"alpha") + varint(2 << 3 | 5) + struct.pack("<f", 0.25) + field(20, 1)
    check_graph(model(node("LeakyRelu", ["x"], ["y"], alpha)), "decoder")
