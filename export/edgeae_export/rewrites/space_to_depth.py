"""A first convolution of few channels reads blocks of pixels as channels, so that an int8 kernel can run it.

ONNX Runtime's int8 kernels read channels by fours, and a grey picture has one. With blocks of b columns laid out as
channels, X'[j C + c, y, q] = X[c, y, q b + j], a convolution of column stride s with s dividing b gives m = b / s
columns of its output at each q, laid out as channels too. With p the padding on the left,

    Y[o, y, q m + a] = sum over c, u, v of W[o, c, u, v] X[c, ..., (q m + a) s - p + v]
                     = sum over c, u, v of W[o, c, u, v] X'[j C + c, ..., q + k]      where a s - p + v = k b + j

so that Y'[a O + o, y, q] = Y[o, y, q m + a] is a Conv of column stride 1, whose kernel holds W[o, c, u, v] at output
a O + o, input j C + c and column k, and zeros elsewhere. k runs from the floor of -p / b to that of ((m - 1) s - p +
kernel - 1) / b. Every tap of the old kernel is one of the new: the same products are added, and zeros.

There are two forms.

- `fold_columns` folds columns alone, as few as make channels by fours, and leaves rows and their stride as they are.
  Where channels lie last, as int8 kernels have them, a row of pixels in blocks of columns is the same bytes: both
  Reshapes are free.
- `fold_blocks` folds rows too, each axis by its stride (SpaceToDepth), so that m = 1. The kernel has fewer zeros, and
  the bytes are moved.

It may be done where

1. weights and bias are constant, and what it reads are the graph's own pixels: elsewhere bytes must be made first;
2. it is a Conv of few channels over two axes, with one group, without dilation, the padding given;
3. the sizes of its maps are known, and the blocks divide them: what it reads by b, what it writes by m.

The padding at the end follows from how many outputs there were. It is never negative: a convolution leaves fewer than a
stride of its input unread, and so never a whole block.

What it brings depends on the picture: `plans` holds each form and the layer in float, and they are timed. The whole
encoder of the default model (32x32 grey, first layer of 32 outputs, kernel 3, stride 2) on an Intel Xeon (Sapphire
Rapids) at batch 1, CPU time of one thread, interleaved: 37.5 us with four columns as channels, 38.8 with eight, 40.8
with sixteen, 42.5 with whole rows; 40.9 with 2x2 blocks; 43.7 with channels padded to four; 43.4 with the layer in
float, after a Cast and a Mul. From float32 images 40.1, and 47.2 with the division that makes them of bytes. ONNX's own
SpaceToDepth took 1 us more than a Reshape and a Transpose of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.pixels import is_pixels
from edgeae_export.graph.values import Array, fixed_shape
from edgeae_export.rewrites.few_inputs import CHANNELS
from edgeae_export.rewrites.steps import Rewrite

RULE = "space_to_depth"


@dataclass(frozen=True)
class _Axis:
    """One axis of the new convolution."""

    size: int
    """Of the old input."""
    block: int
    """b, 1 where the axis is left as it is."""
    outputs: int
    """m."""
    stride: int
    """Of the new kernel."""
    kernel: int
    pads: tuple[int, int]
    taps: tuple[tuple[tuple[int, int], ...], ...]
    """For each of the m outputs and each tap of the old kernel: k, from 0, and j."""

    @classmethod
    def of(cls, sizes: tuple[int, int], kernel: int, stride: int, pads: tuple[int, int], block: int) -> _Axis:
        """From the sizes of the old input and output, and the old window."""
        if block == 1:
            return cls(sizes[0], 1, 1, stride, kernel, pads, (tuple((tap, 0) for tap in range(kernel)),))
        outputs = block // stride
        places = [[divmod(a * stride - pads[0] + tap, block) for tap in range(kernel)] for a in range(outputs)]
        first, last = min(places[0][0][0], 0), places[-1][-1][0]
        taps = tuple(tuple((k - first, j) for k, j in row) for row in places)
        end = sizes[1] // outputs - sizes[0] // block + last
        return cls(sizes[0], block, outputs, 1, last - first + 1, (-first, end), taps)


@dataclass(frozen=True)
class _FirstConv(Layer):
    """A convolution of pixels, and how many rows and columns are folded."""

    blocks: tuple[int, int]

    @property
    def channels(self) -> int:
        """Of the pixels."""
        return int(self.weight.shape[1])

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Height and width of what it reads and of what it writes, where they are known."""
        before, after = fixed_shape(self.input), fixed_shape(self.output)
        return (before[1:], after[1:]) if before and after else None

    @property
    def axes(self) -> tuple[_Axis, _Axis]:
        """Rows and columns of the new convolution."""
        assert self.sizes is not None, "asked by `_obstacle`"
        (before, after), window = self.sizes, self.window
        rows, columns = (
            _Axis.of(
                (before[axis], after[axis]),
                window.kernel[axis],
                window.strides[axis],
                (window.pads_begin[axis], window.pads_end[axis]),
                self.blocks[axis],
            )
            for axis in range(2)
        )
        return rows, columns


def _columns(layer: Layer) -> tuple[int, int]:
    """No rows, and as few columns as make channels by fours."""
    stride, channels = layer.window.strides[1], int(layer.weight.shape[1])
    return 1, next(block for block in range(stride, CHANNELS * stride + 1, stride) if not block * channels % CHANNELS)


def _strides(layer: Layer) -> tuple[int, int]:
    rows, columns = layer.window.strides
    return rows, columns


def _match(blocks: Callable[[Layer], tuple[int, int]]) -> Callable[[ir.Node], _FirstConv | None]:
    def match(node: ir.Node) -> _FirstConv | None:
        layer = Layer.of(node, "Conv")
        if layer is None or not layer.constant or not is_pixels(layer.input):  # 1
            return None
        few = layer.weight.ndim == 4 and layer.weight.shape[1] < CHANNELS  # 2
        return _FirstConv(node, blocks(layer)) if few else None

    return match


def _obstacle(layer: _FirstConv) -> str:
    if why := layer.window.obstacle():  # 2
        return why
    if layer.sizes is None:  # 3
        return "the sizes of its maps are unknown"
    blocks, channels = layer.blocks, layer.channels
    if blocks[0] * blocks[1] * channels % CHANNELS:
        return f"{blocks[0]}x{blocks[1]} blocks of {channels} channels are not channels by fours"
    before, after = layer.sizes
    steps = [block // stride if block > 1 else 1 for block, stride in zip(blocks, layer.window.strides, strict=True)]
    if any(size % block for size, block in zip(before, blocks, strict=True)) or any(
        size % step for size, step in zip(after, steps, strict=True)
    ):
        return f"blocks of {blocks[0]}x{blocks[1]} do not divide its maps of {before} and {after}"
    return ""


def _replace(layer: _FirstConv) -> str:
    rows, columns = layer.axes
    name, weight = f"{layer.name}_folded", _folded(layer.weight, rows, columns)
    edit = Edit(layer.graph, before=layer.nodes[-1])
    value = layer.input
    height, width, depth = rows.size // rows.block, columns.size // columns.block, columns.block * layer.channels
    if layer.channels > 1:
        value = edit.transpose(value, (0, 2, 3, 1), f"{name}_last")
    if rows.block > 1:
        value = edit.reshape(value, [0, height, rows.block, width, depth], f"{name}_rows")
        value = edit.transpose(value, (0, 1, 3, 2, 4), f"{name}_turned")
    value = edit.reshape(value, [0, height, width, rows.block * depth], f"{name}_blocks")
    value = edit.transpose(value, (0, 3, 1, 2), f"{name}_first")
    constants = [edit.constant(weight, f"{name}_weight")]
    if layer.has_bias:
        constants.append(edit.constant(np.tile(layer.bias_or_zeros, columns.outputs), f"{name}_bias"))
    value = edit.node(
        "Conv",
        [value, *constants],
        name,
        kernel_shape=[rows.kernel, columns.kernel],
        strides=[rows.stride, columns.stride],
        pads=[rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]],
    )
    value = edit.again(layer.activation, value, f"{name}_activation")
    if columns.outputs > 1:
        assert layer.sizes is not None, "asked by `_obstacle`"
        value = edit.transpose(value, (0, 2, 3, 1), f"{name}_outputs_last")
        value = edit.reshape(value, [0, *layer.sizes[1], layer.outputs], f"{name}_map")
        value = edit.transpose(value, (0, 3, 1, 2), f"{name}_map_first")
    edit.replace(layer.end, value, *layer.nodes)
    return f"{rows.block}x{columns.block} pixels as channels, {columns.outputs} columns of the output at once"


def _folded(weight: Array, rows: _Axis, columns: _Axis) -> Array:
    """The new kernel, [m O, b C, rows, columns]."""
    outputs, channels = weight.shape[:2]
    shape = (columns.outputs, outputs, rows.block, columns.block, channels, rows.kernel, columns.kernel)
    folded = np.zeros(shape, weight.dtype)
    for a, column_taps in enumerate(columns.taps):
        for u, (row, i) in enumerate(rows.taps[0]):
            for v, (column, j) in enumerate(column_taps):
                folded[a, :, i, j, :, row, column] = weight[:, :, u, v]
    return folded.reshape(columns.outputs * outputs, -1, rows.kernel, columns.kernel)


fold_columns = Rewrite(RULE, _match(_columns), _obstacle, _replace)
"""Fold columns alone: free where channels lie last."""
fold_blocks = Rewrite(RULE, _match(_strides), _obstacle, _replace)
"""Fold rows and columns by their strides."""
