"""A look into an ONNX file before ONNX Runtime sees it: nothing outside the file, no foreign operators.

A file from a stranger could name other files to read (external data) or operators of a library. Both are refused here,
by walking the file's structure (protobuf's wire format, and the field numbers of onnx.proto3) without reading the
weights; a file that is not well-formed does not reach ONNX Runtime at all.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeae_runtime.errors import BundleError

DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
MAX_OPSET = 24
"""The newest operator set that the supported ONNX Runtimes know; exports use an older one."""
MAX_DEPTH = 16  # graphs within attributes of nodes of graphs …
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Message -> field number -> message: the path to everything that holds tensors, nodes or domains.
_CHILDREN = {
    "model": {7: "graph", 8: "opset", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "opset": {},
}
_NODE_DOMAIN, _OPSET_DOMAIN, _OPSET_VERSION, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 7, 1, 2, 13, 14


def check_graph(raw: bytes, name: str) -> None:
    """Refuse a graph that is malformed or refers to anything outside itself.

    Args:
        raw: the whole file.
        name: the part it is, for the message.

    Raises:
        BundleError: it is not well-formed, has external data, functions, operators from elsewhere, or too new ones.
    """
    try:
        _check(memoryview(raw), "model", name, 0)
    except (IndexError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"The {name}'s file is not a well-formed ONNX graph. Copy the bundle again, or export it again."
        ) from error


def _check(message: memoryview, kind: str, name: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise IndexError("nested too deeply")
    children = _CHILDREN[kind]
    for number, wire, value in _fields(message):
        if kind == "model" and number == 25:
            raise _refused(name, "functions of its own")
        if number in children:
            if wire != _BYTES or not isinstance(value, memoryview):
                raise IndexError("a message where none can be")
            _check(value, children[number], name, depth + 1)
        elif kind == "tensor" and (number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0)):
            raise _refused(name, "data outside its file")
        elif (kind, number) in (("node", _NODE_DOMAIN), ("opset", _OPSET_DOMAIN)):
            domain = bytes(value).decode("utf-8") if isinstance(value, memoryview) else "?"
            if domain not in DOMAINS:
                raise _refused(name, f"operators of {domain!r}")
        elif kind == "opset" and number == _OPSET_VERSION and isinstance(value, int) and value > MAX_OPSET:
            raise BundleError(
                f"The {name} uses operator set {value}, this edgeae-runtime knows up to {MAX_OPSET}. "
                "Update edgeae-runtime and ONNX Runtime."
            )


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of each field of a message.

    Raises:
        IndexError: the message ends within a field, or a field cannot be.
    """
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, place = _varint(message, place)
        elif wire == _BYTES:
            size, place = _varint(message, place)
            value, place = message[place : place + size], place + size
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            value, place = message[place : place + size], place + size
        else:
            raise IndexError("a wire type that ONNX does not use")
        if place > end or number == 0:
            raise IndexError("a field beyond the end")
        yield number, wire, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return result, place
        shift += 7
        if shift > 63:
            raise IndexError("a number of too many bytes")


def _refused(name: str, what: str) -> BundleError:
    return BundleError(
        f"The {name}'s graph refers to {what}, expected standard operators and all weights inside the file. "
        "The bundle is refused: export it again, from a source you trust."
    )
