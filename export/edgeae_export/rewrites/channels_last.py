"""Shuffles and maps written channels last, so that ONNX Runtime's int8 convolutions meet no Transpose.

ONNX Runtime runs QLinearConv channels last and cancels Transposes that meet, but it has no rule for DepthToSpace, and
none for a Reshape to a map. With the Conv's channels ordered (row phase, column phase, channel), the shuffle is

    Transpose to channels last, Reshape [N, H, W, b, b*C], Transpose (0, 1, 3, 2, 4), Reshape [N, b*H, b*W, C], and back

whose outer Transposes cancel and whose middle one copies whole blocks. When `phase_split` made one Conv per row phase,
the rows are interleaved by one Concat instead. Shuffles over one or three axes, or of unequal strides, are written
alike. A Gemm that makes a map has its columns reordered to channels last, and one that reads a flattened map its rows
(128 channels of 4x4: an encoder of 32 us took 1 us less). A nearest Resize by whole factors, which ONNX Runtime
computes channels last element by element, becomes two Concats of a map with itself: the bytes of 64 channels of 32x32
took 11 us instead of 67.

It may be done where

1. a shuffle's size is known, and its phases stand before its channels, as in DepthToSpace's mode DCR;
2. a Reshape, a Transpose and a Reshape are just what `subpixel` writes; any other are no concern;
3. a Concat before it joins the row phases and nothing else; blocks are copied where it does not;
4. a Resize is a nearest one by whole factors, of a map of known size;
5. a Gemm is plain, and nothing else reads what the Reshape reads;
6. the Reshape makes one map of each of its rows, or one row of each map.

It pays in int8; in float32 ONNX Runtime blocks channels instead, and the Transposes would stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import (
    UNARY_ACTIVATIONS,
    attribute,
    fixed_shape,
    keeps_rows,
    maker,
    name_of,
    only_reader,
    read,
)
from edgeae_export.rewrites.resize_phases import nearest_factors
from edgeae_export.rewrites.steps import Rewrite

RULE = "channels_last"
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class _Place:
    """A node that writes a map."""

    node: ir.Node

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def graph(self) -> ir.Graph:
        assert self.node.graph is not None, "it stands in the graph that is rewritten"
        return self.node.graph


@dataclass(frozen=True)
class _Shuffle(_Place):
    """The node that writes a shuffled map, and the map of phases that it comes from."""

    phases: ir.Value
    strides: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Channels and axes of the shuffled map, where they are known."""
        shape = fixed_shape(self.phases)
        if shape is None:
            return None
        axes = (size * stride for size, stride in zip(shape[1:], self.strides, strict=True))
        return shape[0] // math.prod(self.strides), *axes

    @property
    def rows(self) -> list[ir.Value]:
        """The row phases of a DepthToSpace, where a Concat joins exactly them, for it alone."""
        concat = maker(self.phases, ("Concat",))
        if concat is None or attribute(concat, "axis", 0) != 1 or only_reader(self.phases) is not self.node:
            return []
        rows = [value for value in concat.inputs if value is not None]
        shapes = {fixed_shape(value) for value in rows}
        return rows if len(rows) == self.strides[0] and len(shapes) == 1 else []


def _match_shuffle(node: ir.Node) -> _Shuffle | None:
    if node.op_type == "DepthToSpace":
        block = attribute(node, "blocksize", 1)
        return _Shuffle(node, read(node), (block, block))
    return _match_general(node) if node.op_type == "Reshape" else None


def _match_general(merge: ir.Node) -> _Shuffle | None:
    """The shuffle of `subpixel` over any axes: Reshape to phases, Transpose, Reshape."""
    interleave = maker(read(merge), ("Transpose",))
    split = maker(read(interleave), ("Reshape",)) if interleave else None
    shape = (fixed_shape(split.outputs[0]) if split else None) or ()
    if interleave is None or split is None or len(shape) < 3 or len(shape) % 2 == 0:  # 2
        return None
    count = len(shape) // 2
    strides, channels, blocks = shape[:count], shape[count], shape[count + 1 :]
    order = [0, count + 1, *(axis for index in range(count) for axis in (count + 2 + index, 1 + index))]
    lengths = [block * stride for block, stride in zip(blocks, strides, strict=True)]
    wanted = [(math.prod(strides) * channels, *blocks), order, (channels, *lengths)]
    found = [fixed_shape(read(split)), attribute(interleave, "perm", []), fixed_shape(merge.outputs[0])]
    return _Shuffle(merge, read(split), strides) if found == wanted else None  # 2


def _obstacle_to_shuffle(found: _Shuffle) -> str:
    plain = found.sizes is not None and attribute(found.node, "mode", "DCR") == "DCR"
    return "" if plain else "its size is not known, or its mode is not DCR"  # 1


def _replace_shuffle(found: _Shuffle) -> str:
    assert found.sizes is not None, "asked by `_obstacle_to_shuffle`"
    (channels, *lengths), strides, count, name = found.sizes, found.strides, len(found.strides), found.name
    blocks = [length // stride for length, stride in zip(lengths, strides, strict=True)]
    edit = Edit(found.graph, before=found.node)
    if found.rows:  # 3
        parts = []
        for row in found.rows:
            part = edit.transpose(row, _LAST, f"{name}_last")
            parts.append(edit.reshape(part, [0, blocks[0], 1, lengths[1] * channels], f"{name}_row"))
        value = edit.node("Concat", parts, f"{name}_interleave", axis=2)
    else:
        value = edit.transpose(found.phases, [0, *range(2, count + 2), 1], f"{name}_last")
        value = edit.reshape(value, [0, *blocks, *strides[:-1], strides[-1] * channels], f"{name}_blocks")
        pairs = [axis for index in range(1, count) for axis in (index, count + index)]
        value = edit.transpose(value, [0, *pairs, count, 2 * count], f"{name}_interleave")
    how = "the row phases interleaved by one Concat" if found.rows else "a copy of whole blocks"
    value = edit.reshape(value, [0, *lengths, channels], f"{name}_map")
    value = edit.transpose(value, [0, count + 1, *range(1, count + 1)], f"{name}_first")
    edit.replace(found.node.outputs[0], value, found.node)
    return f"the shuffle channels last: {how}"


def _match_resize(node: ir.Node) -> _Place | None:
    return _Place(node) if node.op_type == "Resize" else None


def _obstacle_to_repeating(found: _Place) -> str:
    return "" if nearest_factors(found.node) else "it is not a nearest one by whole factors, rounded down"  # 4


def _repeat(found: _Place) -> str:
    """A nearest Resize as Concats of a map with itself."""
    node, name = found.node, found.name
    factors, shape = nearest_factors(node), fixed_shape(read(node))
    assert factors is not None, "asked by `_obstacle_to_repeating`"
    assert shape is not None, "asked by `nearest_factors`"
    (rows, columns), (channels, height, width) = factors, shape
    edit = Edit(found.graph, before=node)
    value = edit.transpose(read(node), _LAST, f"{name}_last")
    value = edit.node("Concat", [value] * columns, f"{name}_columns", axis=3)
    value = edit.reshape(value, [0, height, 1, width * columns * channels], f"{name}_row")
    value = edit.node("Concat", [value] * rows, f"{name}_rows", axis=2)
    value = edit.reshape(value, [0, height * rows, width * columns, channels], f"{name}_map")
    value = edit.transpose(value, _FIRST, f"{name}_first")
    edit.replace(node.outputs[0], value, node)
    return "channels last: every pixel and every row repeated by a Concat"


@dataclass(frozen=True)
class _MappedGemm(Layer):
    """A Gemm, and the Reshape that makes a map of what it or its activation writes."""

    reshape: ir.Node


def _match_map(node: ir.Node) -> _MappedGemm | None:
    if node.op_type != "Reshape" or len(fixed_shape(node.outputs[0]) or ()) != 3:
        return None
    activation = maker(read(node), UNARY_ACTIVATIONS)
    if activation is not None and only_reader(read(node)) is not node:  # 5
        return None
    layer = Layer.of(read(activation or node).producer(), "Gemm")
    return _MappedGemm(layer.node, node) if layer and layer.matrix else None  # 5


def _obstacle_to_reordering(layer: _MappedGemm) -> str:
    if only_reader(layer.output) is None:  # 5
        return "its output is read elsewhere too"
    return "" if keeps_rows(layer.reshape) else "the reshape after it makes other rows than the Gemm's"  # 6


def _reorder(layer: _MappedGemm) -> str:
    """The Gemm's columns in the order of a map that lies channels last."""
    matrix, shape, reshape = layer.matrix, fixed_shape(layer.reshape.outputs[0]), layer.reshape
    assert matrix is not None, "asked by `_match_map`"
    assert shape is not None, "asked by `_match_map`"
    channels, height, width = shape
    order = np.arange(math.prod(shape)).reshape(shape).transpose(1, 2, 0).ravel()
    name = f"{layer.name}_last"
    edit = Edit(layer.graph, before=reshape)
    constants = [
        edit.constant(value[..., order], f"{name}_{what}")
        for value, what in zip(matrix, ("weight", "bias"), strict=True)
    ]
    value = edit.node("Gemm", [layer.input, *constants], name)
    value = edit.again(layer.activation, value, f"{name}_activation")
    value = edit.reshape(value, [0, height, width, channels], f"{name_of(reshape)}_last")
    value = edit.transpose(value, _FIRST, f"{name_of(reshape)}_first")
    edit.replace(reshape.outputs[0], value, reshape, *layer.nodes)
    return "its columns reordered, so that the map lies channels last"


@dataclass(frozen=True)
class _FlatGemm(Layer):
    """A Gemm, and the Reshape or Flatten that makes rows of a map for it alone."""

    reshape: ir.Node


def _match_flat(node: ir.Node) -> _FlatGemm | None:
    layer = Layer.of(node, "Gemm")
    flat = maker(layer.input, ("Reshape", "Flatten")) if layer and layer.matrix else None  # 5
    shape = fixed_shape(read(flat)) if flat is not None else None
    if flat is None or shape is None or len(shape) != 3 or 1 in (shape[0], math.prod(shape[1:])):
        return None  # where there is one channel, or one position, both orders are the same
    return _FlatGemm(node, flat)


def _obstacle_to_flattening(layer: _FlatGemm) -> str:
    if only_reader(layer.input) is None:
        return "what it reads is read elsewhere too"
    return "" if keeps_rows(layer.reshape) else "the reshape before it makes other rows than the maps"  # 6


def _flatten_last(layer: _FlatGemm) -> str:
    """The Gemm's rows in the order of a map that lies channels last."""
    matrix, shape, reshape = layer.matrix, fixed_shape(read(layer.reshape)), layer.reshape
    assert matrix is not None, "asked by `_match_flat`"
    assert shape is not None, "asked by `_match_flat`"
    order = np.arange(math.prod(shape)).reshape(shape).transpose(1, 2, 0).ravel()
    name = f"{layer.name}_last"
    edit = Edit(layer.graph, before=layer.nodes[-1])
    weight, bias = (
        edit.constant(each, f"{name}_{what}")
        for each, what in zip((matrix[0][order], matrix[1]), ("weight", "bias"), strict=True)
    )
    value = edit.transpose(read(reshape), _LAST, f"{name_of(reshape)}_last")
    value = edit.reshape(value, [0, math.prod(shape)], f"{name_of(reshape)}_flat")
    value = edit.node("Gemm", [value, weight, bias], name)
    edit.replace(layer.output, value, layer.node)
    return "its rows reordered to those of a map channels last"


_SHUFFLES = Rewrite(RULE, _match_shuffle, _obstacle_to_shuffle, _replace_shuffle)
_RESIZES = Rewrite(RULE, _match_resize, _obstacle_to_repeating, _repeat)
_MAPS = Rewrite(RULE, _match_map, _obstacle_to_reordering, _reorder)
_FLATS = Rewrite(RULE, _match_flat, _obstacle_to_flattening, _flatten_last)
to_channels_last = (_SHUFFLES, _RESIZES, _MAPS, _FLATS)
"""Rewrite every DepthToSpace and other shuffle, every nearest Resize, every Gemm -> Reshape to a map, and back."""
