"""Changes to an ONNX file that keep its structure: fields left out, doubled, moved, given other numbers or names.

It knows where messages lie within messages, and nothing else, so that it also writes what no exporter would.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# Message -> field number -> message. onnx.proto3's own numbers.
CHILDREN = {
    "model": {7: "graph", 8: "opset", 14: "text", 25: "graph"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "other"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "value": {2: "type"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "dim"},
}
NUMBERS = (*range(8), 16, 64, 127, 128, 1 << 16, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
OPERATORS = (
    "Relu", "Transpose", "Reshape", "Concat", "MatMul", "Conv", "ConvTranspose", "Gemm", "Slice", "Gather", "Expand",
    "Tile", "Pad", "Resize", "Split", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Shape", "Range", "ConstantOfShape",
    "OneHot", "Einsum", "TopK", "Loop", "If", "Scan", "RandomNormal", "DequantizeLinear", "QuantizeLinear",
    "QLinearConv", "MaxPool", "AveragePool", "BatchNormalization", "Col2Im", "DepthToSpace", "SpaceToDepth",
    "ReduceSum", "Softmax", "LayerNormalization", "GridSample", "LSTM", "NonZero", "ScatterND", "GatherND", "CumSum",
    "Where", "Identity",
)  # fmt: skip
ATTRIBUTES = (
    "axis",
    "perm",
    "pads",
    "strides",
    "dilations",
    "kernel_shape",
    "group",
    "to",
    "alpha",
    "mode",
    "equation",
)


@dataclass
class Field:
    number: int
    wire: int
    content: int | bytes | list[Field]


def parse(raw: bytes, kind: str) -> list[Field]:
    fields, place = [], 0
    while place < len(raw):
        key, place = _varint(raw, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(raw, place)
            fields.append(Field(number, wire, value))
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, place = _varint(raw, place)
        content = raw[place : place + size]
        child = CHILDREN.get(kind, {}).get(number)
        fields.append(Field(number, wire, parse(content, child) if child else content))
        place += size
    return fields


def write(fields: list[Field]) -> bytes:
    raw = b""
    for field in fields:
        raw += varint(field.number << 3 | field.wire)
        if isinstance(field.content, int):
            raw += varint(field.content)
        else:
            content = write(field.content) if isinstance(field.content, list) else field.content
            raw += (varint(len(content)) if field.wire == 2 else b"") + content
    return raw


def mutate_fields(raw: bytes, rng: random.Random) -> bytes:
    """One to three changes somewhere in the tree."""
    tree = parse(raw, "model")
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(tree, rng)
    return write(tree)


def _change(tree: list[Field], rng: random.Random) -> None:
    everywhere = [(tree, index) for index in range(len(tree))]
    for siblings, index in everywhere:
        content = siblings[index].content
        if isinstance(content, list):
            everywhere += [(content, place) for place in range(len(content))]
    # Nodes' and attributes' fields are few among those of weights: each depth has the same chance.
    siblings, index = rng.choice(everywhere)
    field = siblings[index]
    action = rng.randrange(8)
    if action == 0:
        del siblings[index]
    elif action == 1:
        siblings.insert(rng.randrange(len(siblings) + 1), Field(field.number, field.wire, _copy(field.content)))
    elif action == 2:
        siblings.insert(index, siblings.pop(rng.randrange(len(siblings))))
    elif action == 3:
        field.number = rng.choice((field.number + 1, rng.randrange(1, 30), field.number + (1 << 29)))
    elif isinstance(field.content, int):
        field.content = rng.choice((*NUMBERS, field.content + 1, max(field.content - 1, 0)))
    elif isinstance(field.content, bytes):
        field.content = _text(field.content, rng)
    else:
        donors = [s[i] for s, i in everywhere if isinstance(s[i].content, list) and s[i].number == field.number]
        field.content = _copy(rng.choice(donors).content)


def _text(content: bytes, rng: random.Random) -> bytes:
    if len(content) < 40 and rng.random() < 0.7:
        return rng.choice((*OPERATORS, *ATTRIBUTES, "", "image", "latent", "x" * 3000)).encode()
    data = bytearray(content)
    action = rng.randrange(3)
    if data and action == 0:
        data[rng.randrange(len(data))] = rng.randrange(256)
    elif action == 1:
        del data[rng.randrange(len(data) + 1) :]
    else:
        data += rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


def _copy(content: int | bytes | list[Field]) -> int | bytes | list[Field]:
    if isinstance(content, list):
        return [Field(each.number, each.wire, _copy(each.content)) for each in content]
    return content


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = raw[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 128:
            return result, place
        shift += 7


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])
