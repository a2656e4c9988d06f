"""A Conv whose output channels leave parts of the kernel zero, split into Convs with smaller kernels.

The stacked kernel of `subpixel` covers the taps of all phases; those of one row phase leave whole rows of it zero.
Split by row phase, the Convs skip these rows; their outputs are joined again by a Concat, which costs next to nothing
where channels lie last in memory. It is for a Conv that feeds a shuffle, or a ConvTranspose merged with one.

It may be done where

1. weights and bias are constant;
2. there is one group without dilation or stride, and the padding is given;
3. the output channels divide into the row phases.

It pays where at least `MIN_SAVING` of the multiply-adds are saved: each further Conv has its own start-up and reads the
map again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, attribute, only_reader
from edgeae_export.rewrites.steps import Rewrite

RULE = "phase_split"
MIN_SAVING = 0.2


@dataclass(frozen=True)
class Trimmed:
    """A kernel without its outer zeros."""

    weight: Array
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]


def trim(weight: Array, pads_begin: tuple[int, ...], pads_end: tuple[int, ...]) -> Trimmed:
    """Drop outer rows and columns of zeros, as far as the padding that they stand for can shrink with them."""
    begin, end = list(pads_begin), list(pads_end)
    for axis in range(2, weight.ndim):
        others = tuple(index for index in range(weight.ndim) if index != axis)
        used = np.flatnonzero(np.any(weight != 0, axis=others))
        size, index = weight.shape[axis], axis - 2
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        first, beyond = min(first, begin[index]), min(size - 1 - last, end[index])
        begin[index] -= first
        end[index] -= beyond
        weight = np.take(weight, range(first, size - beyond), axis)
    return Trimmed(weight, tuple(begin), tuple(end))


@dataclass(frozen=True)
class _PhasedConv(Layer):
    """A Conv, and how many row phases its output channels hold, outermost."""

    phases: int

    @property
    def parts(self) -> list[Trimmed]:
        """The kernel of each row phase."""
        window = self.window
        return [trim(part, window.pads_begin, window.pads_end) for part in np.split(self.weight, self.phases)]

    @property
    def saving(self) -> float:
        """Share of the multiply-adds that the parts do without."""
        return 1 - sum(part.weight.size for part in self.parts) / self.weight.size


def _match(node: ir.Node) -> _PhasedConv | None:
    layer = Layer.of(node, "Conv")
    phases = _row_phases(only_reader(layer.end)) if layer else 1
    return _PhasedConv(node, phases) if phases > 1 else None


def _row_phases(reader: ir.Node | None) -> int:
    """How many row phases a node finds outermost in the channels that it reads: 1 when it finds none."""
    if reader is None:
        return 1
    if reader.op_type == "DepthToSpace" and attribute(reader, "mode", "DCR") == "DCR":
        return int(attribute(reader, "blocksize", 1))
    return int(attribute(reader, "strides", [1])[0]) if reader.op_type == "ConvTranspose" else 1


def _obstacle(layer: _PhasedConv) -> str:
    if not layer.constant or layer.window.obstacle() or set(layer.window.strides) != {1}:  # 1, 2
        return "it is not a plain Conv with stride 1 and constant weights"
    if layer.outputs % layer.phases:  # 3
        return f"its channels do not divide into {layer.phases} row phases"
    return f"it would save {100 * layer.saving:.0f} % of the multiply-adds" if layer.saving < MIN_SAVING else ""


def _replace(layer: _PhasedConv) -> str:
    parts, saving = layer.parts, layer.saving
    edit = Edit(layer.graph, before=layer.nodes[-1])
    rows = []
    for row, (part, bias) in enumerate(zip(parts, np.split(layer.bias_or_zeros, layer.phases), strict=True)):
        name = f"{layer.name}_row{row}"
        constants = [edit.constant(part.weight, f"{name}_weight"), edit.constant(bias, f"{name}_bias")]
        shape, pads = list(part.weight.shape[2:]), [*part.pads_begin, *part.pads_end]
        value = edit.node("Conv", [layer.input, *constants], name, kernel_shape=shape, pads=pads)
        rows.append(edit.again(layer.activation, value, f"{name}_activation"))
    edit.replace(layer.end, edit.node("Concat", rows, f"{layer.name}_rows", axis=1), *layer.nodes)
    kernels = " and ".join("x".join(map(str, part.weight.shape[2:])) for part in parts)
    return f"kernels {kernels}, {100 * saving:.0f} % of the multiply-adds saved"


split_phases = Rewrite(RULE, _match, _obstacle, _replace)
"""Split every Conv that feeds a shuffle, or a ConvTranspose merged with one, by row phase."""
