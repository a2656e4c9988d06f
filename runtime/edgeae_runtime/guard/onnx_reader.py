"""Reading an ONNX file without onnx: protobuf's wire format, and of onnx.proto3 the fields that an exported graph has.

What is not listed here is refused, so that nothing can reach ONNX Runtime that was not read: no unknown field, no
number that could be written shorter, no field twice where one is meant (protobuf would merge them), no message,
attribute or data type beside the listed ones. Weights are not looked at: a file of any size is read in the time of its
fields.

Source: protobuf.dev/programming-guides/encoding, and onnx/onnx.proto3 (the numbers below are its field numbers).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_NODES = 10_000
MAX_INITIALISERS = 10_000
MAX_FIELDS = 1 << 16
"""Most fields of a graph: nodes, initialisers, inputs, outputs, and what is said of the values between."""
MAX_SMALL_FIELDS = 4096
"""Most fields of any other message, such as the inputs of a node."""
MAX_TEXT = 1024
"""Most bytes of a name."""
MAX_AXES = 8
MAX_CONSTANT = 1024
"""Most numbers of a constant that can name a shape; larger ones are weights, whose values nobody asks for."""
MAX_REALS = 16
"""The same of floating point: factors by which axes are resized."""

DTYPES = {1: "f4", 2: "u1", 3: "i1", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8"}
"""TensorProto.DataType of each numpy dtype; no strings, no complex numbers, nothing of less than 8 bits."""

_VARINT, _BYTES, _FIXED32 = 0, 2, 5
# A field is named; `*` before it allows it more than once, `!` refuses it and says what it would be.
_MODEL = {
    8: "ir", 18: "text", 26: "text", 34: "text", 40: "int", 50: "text", 58: "graph", 66: "*opset",
    114: "!settings of its own", 162: "!a training graph", 202: "!functions of its own",
}  # fmt: skip
_OPSET = {10: "domain", 16: "version"}
_GRAPH = {
    10: "*node", 18: "text", 42: "*initialiser", 82: "text", 90: "*input", 98: "*output", 106: "*value",
    122: "!sparse tensors",
}  # fmt: skip
_NODE = {10: "*input", 18: "*output", 26: "name", 34: "op", 42: "*attribute", 50: "text", 58: "domain"}
_ATTRIBUTE = {
    10: "name", 21: "f", 24: "i", 34: "s", 42: "t", 61: "*floats", 64: "*ints", 74: "*strings", 106: "text",
    160: "type", 50: "!a graph within a node", 90: "!graphs within a node", 178: "!sparse tensors",
    186: "!sparse tensors",
}  # fmt: skip
_TENSOR = {8: "dims", 16: "dtype", 66: "name", 74: "raw", 98: "text",
           106: "!data outside its file", 112: "!data outside its file"}  # fmt: skip
_VALUE = {10: "name", 18: "type", 26: "text"}
_TYPE, _TENSOR_TYPE, _SHAPE, _DIM = {10: "tensor"}, {8: "dtype", 18: "shape"}, {10: "*dim"}, {8: "size", 18: "name"}
_KINDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}  # AttributeProto.AttributeType

_Place = tuple[int, int]  # where a message or a text begins and ends; of a number, the number and 0


class NotReadableError(ValueError):
    """The file is no ONNX graph of the kind that is exported; the message completes "the graph has …"."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant: an initialiser, or an attribute."""

    shape: tuple[int, ...]
    dtype: int
    """A key of `DTYPES`."""
    value: NDArray[np.generic] | None
    """Its numbers, where they are at most `MAX_CONSTANT`."""


Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Tensor


@dataclass(frozen=True, slots=True)
class Node:
    """A node: an operator of the standard domain, and what it reads and gives; `""` is an optional one left out."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute]


@dataclass(slots=True)
class Graph:
    """A whole graph; a size of -1 in a shape may vary: it is the batch."""

    opset: int
    nodes: list[Node] = field(default_factory=list)
    initialisers: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    """Of the inputs and outputs."""
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


def read_graph(raw: bytes) -> Graph:
    """The graph of an ONNX file.

    Raises:
        NotReadableError: it is not well-formed, or holds what no exported graph has.
    """
    try:
        return _Reader(raw).model()
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise NotReadableError("a field beyond its end, or a name that is not UTF-8") from error


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.attributes: dict[bytes, tuple[str, Attribute]] = {}  # graphs repeat few attributes many times

    def model(self) -> Graph:
        if self.raw[4:8] == b"ORTM":
            raise NotReadableError("the form of ONNX Runtime's own files")
        one, many = self._message(0, len(self.raw), _MODEL, MAX_SMALL_FIELDS)
        if "graph" not in one:
            raise NotReadableError("no nodes at all")
        graph = Graph(0)
        _, parts = self._message(*one["graph"], _GRAPH, MAX_FIELDS)
        nodes, initialisers = parts.get("node", []), parts.get("initialiser", [])
        for found, most, what in ((nodes, MAX_NODES, "nodes"), (initialisers, MAX_INITIALISERS, "initialisers")):
            if len(found) > most:
                raise NotReadableError(f"{len(found)} {what}, more than {most}")
        for place in initialisers:
            name, tensor = self._tensor(*place)
            if not name or name in graph.initialisers:
                raise NotReadableError("two initialisers of one name")
            graph.initialisers[name] = tensor
        graph.nodes = [self._node(*place) for place in nodes]
        graph.inputs = self._values(parts.get("input", []), graph.dtypes)
        graph.outputs = self._values(parts.get("output", []), graph.dtypes)
        self._values(parts.get("value", []), {})
        graph.opset = self._opset(many.get("opset", []))
        return graph

    def _opset(self, places: list[_Place]) -> int:
        """The version of the standard operators."""
        found: dict[str, int] = {}
        for place in places:
            one, _ = self._message(*place, _OPSET)
            domain = self._text(*one.get("domain", (0, 0)))
            if domain not in ("", "ai.onnx", "com.microsoft"):
                raise NotReadableError(f"operators of {domain!r}")
            found[domain.removeprefix("ai.onnx")] = one.get("version", (0, 0))[0]
        if "" not in found or len(found) != len(places):
            raise NotReadableError("no one operator set")
        return found[""]

    def _node(self, place: int, end: int) -> Node:
        raw = self.raw
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Attribute] = {}
        op = ""
        told = 0  # a bit for each field that may be there once
        for key, start, stop in self._fields(place, end, MAX_SMALL_FIELDS):
            if key == 10:
                inputs.append(raw[start:stop].decode())
            elif key == 18:
                outputs.append(raw[start:stop].decode())
            elif key == 42:
                name, value = self._attribute(start, stop)
                if name in attributes:
                    raise NotReadableError(f"an attribute {name!r} twice")
                attributes[name] = value
            elif key not in _NODE or told >> key & 1:
                raise _unknown(_NODE, key)
            else:
                told |= 1 << key
                if start == stop:
                    continue
                text = raw[start:stop].decode()
                if key == 34:
                    op = text
                elif key == 58 and text not in ("", "ai.onnx"):
                    raise NotReadableError(f"operators of {text!r}")
            if stop - start > MAX_TEXT and key != 42:
                raise NotReadableError("names without end")
        return Node(op, inputs, outputs, attributes)

    def _attribute(self, place: int, end: int) -> tuple[str, Attribute]:
        raw = self.raw[place:end] if end - place < 128 else b""
        if raw and (known := self.attributes.get(raw)):
            return known
        name, kind, told = "", "", 0
        given: dict[str, list[_Place]] = {}
        for key, start, stop in self._fields(place, end, MAX_SMALL_FIELDS):
            field_name = _ATTRIBUTE.get(key, "!")
            if field_name[0] == "!" or (told >> key & 1 and field_name[0] != "*"):
                raise _unknown(_ATTRIBUTE, key)
            told |= 1 << key
            if key == 10:
                name = self._text(start, stop)
            elif key == 160:
                kind = _KINDS.get(start, "")
            elif key != 106:
                given.setdefault(field_name.lstrip("*"), []).append((start, stop))
        if not name or not kind or (given and [*given] != [kind]):
            raise NotReadableError(f"an attribute {name!r} of a kind that no operator here has")
        read = name, self._content(kind, given.get(kind, []))
        if raw:
            self.attributes[raw] = read
        return read

    def _content(self, kind: str, places: list[_Place]) -> Attribute:
        """What an attribute is; where nothing is given, it is protobuf's default."""
        raw = self.raw
        first, last = places[0] if places else (0, 0)
        if kind == "i":
            return _signed(first)
        if kind == "ints":
            return tuple([_signed(number) for number, _ in places])
        if kind == "f":
            return float(struct.unpack_from("<f", raw, first)[0]) if places else 0.0
        if kind == "floats":
            return tuple([float(struct.unpack_from("<f", raw, start)[0]) for start, _ in places])
        if kind == "s":
            return self._text(first, last)
        if kind == "strings":
            return tuple([self._text(start, stop) for start, stop in places])
        if not places:
            raise NotReadableError("a constant without a value")
        return self._tensor(first, last)[1]

    def _tensor(self, place: int, end: int) -> tuple[str, Tensor]:
        raw, dims = self.raw, []
        name = ""
        dtype = start = stop = told = 0
        for key, first, last in self._fields(place, end, MAX_SMALL_FIELDS):
            if key == 8:
                dims.append(first if first < 1 << 63 else _signed(first))
                continue
            if _TENSOR.get(key, "!")[0] == "!" or told >> key & 1:
                raise _unknown(_TENSOR, key)
            told |= 1 << key
            if key == 16:
                dtype = first
            elif key == 74:
                start, stop = first, last
            elif first != last:
                text = self._text(first, last)
                name = text if key == 66 else name
        size = WIDTHS.get(dtype)
        if size is None:
            raise NotReadableError(f"a constant of data type {dtype}")
        count = math.prod(dims)
        if len(dims) > MAX_AXES or (dims and min(dims) < 0) or count * size != stop - start:
            raise NotReadableError(f"a constant of shape {dims[:9]} in {stop - start} bytes")
        shape, value = tuple(dims), None
        if count <= _MOST_KNOWN[dtype]:
            value = np.frombuffer(raw, _DTYPES[dtype], count, start).reshape(shape)
        return name, Tensor(shape, dtype, value)

    def _values(self, places: list[_Place], dtypes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of inputs, outputs, or values between; puts their data types into `dtypes`."""
        found: dict[str, tuple[int, ...]] = {}
        for place in places:
            one, _ = self._message(*place, _VALUE)
            name = self._text(*one.get("name", (0, 0)))
            if "type" not in one or name in found or not name:
                raise NotReadableError(f"a value {name!r} without a type, or twice")
            of_type, _ = self._message(*one["type"], _TYPE)
            tensor, _ = self._message(*of_type["tensor"], _TENSOR_TYPE) if "tensor" in of_type else ({}, {})
            dtypes[name] = tensor.get("dtype", (0, 0))[0]
            if dtypes[name] not in DTYPES:
                raise NotReadableError(f"a value {name!r} that is no tensor of numbers")
            sizes = self._message(*tensor["shape"], _SHAPE)[1].get("dim", []) if "shape" in tensor else []
            found[name] = tuple(self._size(*size) for size in sizes)
        return found

    def _size(self, place: int, end: int) -> int:
        one, _ = self._message(place, end, _DIM)
        if "size" not in one:
            return -1
        size = _signed(one["size"][0])
        if not 0 < size < 1 << 31 or "name" in one:
            raise NotReadableError(f"a size of {size}")
        return size

    def _text(self, start: int, stop: int) -> str:
        if stop - start > MAX_TEXT:
            raise NotReadableError("names without end")
        return self.raw[start:stop].decode()

    def _message(
        self, place: int, end: int, known: dict[int, str], most: int = MAX_SMALL_FIELDS
    ) -> tuple[dict[str, _Place], dict[str, list[_Place]]]:
        """The fields of a message by name: those that may be there once, and those that may be repeated."""
        one: dict[str, _Place] = {}
        many: dict[str, list[_Place]] = {}
        told = set()
        for key, start, stop in self._fields(place, end, most):
            name = known.get(key, "!")
            if name[0] == "*":
                many.setdefault(name[1:], []).append((start, stop))
            elif name[0] == "!" or key in told:
                raise _unknown(known, key)
            else:
                told.add(key)
                one[name] = start, stop
                if key & 7 == _BYTES and name in ("text", "name", "domain"):
                    self.raw[start:stop].decode()  # ONNX Runtime's Python would fail on what is not UTF-8
        return one, many

    def _fields(self, place: int, end: int, most: int) -> list[tuple[int, int, int]]:
        """Key, and the number or where the content begins and ends, of each field between two places.

        Keys of more than two bytes belong to no field of ONNX: a longer one could hide a number from one reader.
        """
        raw = self.raw
        found = []
        while place < end:
            key = raw[place]
            place += 1
            if key > 127:
                high = raw[place]
                place += 1
                if not 0 < high < 128:
                    raise NotReadableError("a field number that ONNX does not have")
                key = key & 127 | high << 7
            wire = key & 7
            if wire == _BYTES:
                size = raw[place]
                place += 1
                if size > 127:
                    size, place = _varint(raw, place - 1)
                found.append((key, place, place + size))
                place += size
            elif wire == _VARINT:
                number = raw[place]
                place += 1
                if number > 127:
                    number, place = _varint(raw, place - 1)
                found.append((key, number, 0))
            elif wire == _FIXED32:
                found.append((key, place, place + 4))
                place += 4
            else:
                raise NotReadableError("a kind of field that ONNX does not use")
            if len(found) > most:  # within the loop, so that the time is bounded as well
                raise NotReadableError(f"more than {most} fields in one message")
        if place != end:
            raise NotReadableError("a field beyond its end")
        return found


_DTYPES = {number: np.dtype("<" + dtype) for number, dtype in DTYPES.items()}
_MOST_KNOWN = {number: MAX_CONSTANT if dtype.kind in "iu" else MAX_REALS for number, dtype in _DTYPES.items()}
WIDTHS = {number: dtype.itemsize for number, dtype in _DTYPES.items()}


def _unknown(known: dict[int, str], key: int) -> NotReadableError:
    name = known.get(key, "!")
    if name[0] != "!":
        return NotReadableError(f"a field (number {key >> 3}) twice")
    return NotReadableError(name[1:] or f"a field (number {key >> 3}) that no exported graph has")


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits, in its shortest form, and the place after it."""
    result = shift = 0
    while True:
        byte = raw[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 128:
            if (not byte and shift) or result >> 64:
                raise NotReadableError("a number that is not in its shortest form")
            return result, place
        shift += 7
        if shift > 63:
            raise NotReadableError("a number of too many bytes")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
