"""Heads that read the same tensor, merged: several Gemms become one, followed by a Split.

[x * A, x * B] = x * [A, B], and the same for their biases side by side.

It may be done where

1. several Gemms read one value;
2. their weights and biases are constant, and they scale nothing: one factor would apply to all.

It always pays: one pass over the shared input in place of several, as for the mean and the log-variance of a
variational encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeae_export.graph.editing import Edit
from edgeae_export.graph.layer import Layer
from edgeae_export.rewrites.steps import Rewrite, always

RULE = "sibling_gemms"


@dataclass(frozen=True)
class _Heads:
    """The Gemms that read one value."""

    heads: list[Layer]

    @property
    def name(self) -> str:
        return self.heads[0].name


def _match(node: ir.Node) -> _Heads | None:
    layer = Layer.of(node, "Gemm")
    readers = (Layer(reader) for reader in layer.input.consumers()) if layer else ()
    heads = [reader for reader in readers if reader.matrix is not None]  # 2
    return _Heads(heads) if len(heads) > 1 else None  # 1


def _replace(found: _Heads) -> str:
    heads = found.heads
    edit = Edit(heads[0].graph, before=heads[-1].node)
    name = "_and_".join(head.name for head in heads)
    weights, biases = zip(*(head.matrix for head in heads if head.matrix is not None), strict=True)
    constants = [
        edit.constant(np.concatenate(weights, axis=1), f"{name}_weight"),
        edit.constant(np.concatenate(biases), f"{name}_bias"),
    ]
    merged = edit.node("Gemm", [heads[0].input, *constants], name)
    sizes = edit.constant(np.array([len(bias) for bias in biases], np.int64), f"{name}_sizes")
    parts = edit.nodes("Split", [merged, sizes], [f"{head.name}_split" for head in heads], axis=1)
    for head, part in zip(heads, parts, strict=True):
        edit.replace(head.output, part, head.node)
    return f"{', '.join(head.name for head in heads)} became one Gemm"


merge_heads = Rewrite(RULE, _match, always, _replace)
"""Merge every set of Gemms with one input."""
