"""Weights rounded so that their errors cancel in what the layer gives (GPTQ: Frantar et al. 2022, arXiv:2210.17323).

Rounding each weight to the nearest step is best for the weight and not for the layer: its inputs are correlated, a
pixel with its neighbours above all. Column by column, the error of a rounded column is handed on to the columns that
are not yet rounded, in the proportion that leaves the least squared error of the outputs. With H the second moments of
the inputs and U the upper Cholesky factor of H's inverse, the error e of column j moves column k > j by e * U[j, k].

Layers without correlations or with few inputs gain little and lose nothing; the result is judged like every other step
of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.layers import Array, GraphEditor, attribute
from edgeae_export.int8.calibration import activations
from edgeae_export.int8.placement import Sites
from edgeae_export.int8.quantize import QuantizedWeight, quantize_weight
from edgeae_export.targets import Target

ROWS_PER_COLUMN = 6
"""Rows of inputs seen per column of a weight: with fewer, the moments of one column fit the sample and not the data."""
FEWEST_ROWS = 4096
DAMPING = 1e-2
"""Added to the diagonal of the moments, of its mean: what makes few or flat inputs invertible (GPTQ's own figure)."""
MOST_COLUMNS = 2304
"""Columns that are rounded together; a wider weight is cut, as the work grows with their cube."""
_BLOCK = 64


def round_weights(
    model: onnx.ModelProto, sites: Sites, inputs: Float32Array, target: Target
) -> dict[str, QuantizedWeight]:
    """The weights of every layer in 8 bits, rounded by what the layer gives.

    Args:
        model: the float32 graph that `sites` was found in.
        sites: where it is quantised.
        inputs: calibration inputs, float32 [n, …].
        target: what the weights look like.

    Returns:
        Per layer, its weight as `quantize_weight` stores it: the same scales, other roundings.
    """
    editor = GraphEditor(model)
    layers = [node for node in editor.nodes if node.name in set(sites.layers)]
    moments = _moments(editor, model, layers, inputs)
    return {node.name: _rounded(editor, node, moments[node.name], target) for node in layers}


def _rounded(editor: GraphEditor, node: NodeProto, moments: Array, target: Target) -> QuantizedWeight:
    """One weight: [outputs, columns] per group of inputs, cut where it is too wide."""
    weight, axis = _oriented(editor, node)
    nearest = quantize_weight(weight, axis, target)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    scale, zero = (np.broadcast_to(each.astype(np.float64), len(rows)) for each in (nearest.scale, nearest.zero))
    top = (1 << (target.weight_bits - 1)) - 1
    limits = (-top - (not target.per_channel), top)
    stored = np.empty_like(rows)
    for index, outputs in enumerate(np.split(np.arange(len(rows)), len(moments))):
        for start in range(0, rows.shape[1], MOST_COLUMNS):
            columns = slice(start, start + MOST_COLUMNS)
            stored[outputs, columns] = _with_errors_handed_on(
                rows[outputs, columns], moments[index][columns, columns], scale[outputs], zero[outputs], limits
            )
    others = [size for index, size in enumerate(weight.shape) if index != axis]
    values = np.moveaxis(stored.reshape(len(rows), *others), 0, axis)
    return QuantizedWeight(np.ascontiguousarray(values.astype(np.int8)), nearest.scale, nearest.zero)


def _with_errors_handed_on(weight: Array, moments: Array, scale: Array, zero: Array, limits: tuple[int, int]) -> Array:
    """Integers [outputs, columns] for a float64 weight; the columns that carry most are rounded first."""
    count = weight.shape[1]
    carried = np.diag(moments)
    if not carried.max() > 0:
        nearest: Array = np.clip(np.rint(weight / scale[:, None]) + zero[:, None], *limits)
        return nearest
    order = np.argsort(-carried, kind="stable")
    damped = moments[np.ix_(order, order)] + DAMPING * carried.mean() * np.eye(count)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, stored = weight[:, order].copy(), np.empty_like(weight)
    for start in range(0, count, _BLOCK):  # blocks, so that most of the work is one matrix product
        end = min(start + _BLOCK, count)
        errors = np.empty((len(weight), end - start))
        for column in range(start, end):
            whole = np.clip(np.rint(left[:, column] / scale) + zero, *limits)
            stored[:, column] = whole
            error = (left[:, column] - (whole - zero) * scale) / factor[column, column]
            left[:, column + 1 : end] -= np.outer(error, factor[column, column + 1 : end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    result = np.empty_like(stored)
    result[:, order] = stored
    return result


def _moments(
    editor: GraphEditor, model: onnx.ModelProto, layers: list[NodeProto], inputs: Float32Array
) -> Mapping[str, Array]:
    """Per layer, second moments [groups, columns, columns] of what it multiplies, over a sample of its positions."""
    sums: dict[str, Array] = {}
    seen = dict.fromkeys((node.name for node in layers), 0)
    rng = np.random.default_rng(0)
    for values in activations(model, dict.fromkeys(str(node.input[0]) for node in layers), inputs):
        for node in layers:
            value = values[node.input[0]]
            weight, axis = _oriented(editor, node)
            columns = weight.size // weight.shape[axis]
            wanted = max(FEWEST_ROWS, ROWS_PER_COLUMN * columns) * len(value) / len(inputs)
            rows = _rows(editor, node, value, int(np.ceil(wanted)), rng)
            grouped = rows.reshape(len(rows), attribute(node, "group", 1), -1).transpose(1, 2, 0)
            moments = grouped @ grouped.transpose(0, 2, 1)
            sums[node.name] = sums.get(node.name, np.zeros(1)) + moments.astype(np.float64)
            seen[node.name] += len(rows)
    return {name: total / seen[name] for name, total in sums.items()}


def _rows(editor: GraphEditor, node: NodeProto, value: Float32Array, most: int, rng: np.random.Generator) -> Array:
    """Up to `most` of the vectors that a layer multiplies with its weight, [rows, group * columns]."""
    if node.op_type != "Conv":
        rows = value.reshape(-1, value.shape[-1])
        return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]
    kernel = editor.constants[node.input[1]].shape[2:]
    axes = len(kernel)
    pads = attribute(node, "pads", [0] * 2 * axes)
    strides, dilations = attribute(node, "strides", [1] * axes), attribute(node, "dilations", [1] * axes)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    padded = np.pad(value, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    steps = (slice(None, None, step) for step in (1, 1, *strides, *dilations))
    windows = np.moveaxis(windows[tuple(steps)], 1, 1 + axes)  # [n, *positions, channels, *kernel]
    places = windows.shape[: 1 + axes]
    chosen = np.sort(rng.choice(int(np.prod(places)), min(most, int(np.prod(places))), replace=False))
    return windows[np.unravel_index(chosen, places)].reshape(len(chosen), -1)


def _oriented(editor: GraphEditor, node: NodeProto) -> tuple[Array, int]:
    """The weight as `quantize` stores it, and the axis of its outputs."""
    weight = editor.constants[node.input[1]]
    if node.op_type == "Conv":
        return weight, 0
    return (weight.T if attribute(node, "transB", 0) else weight), 1
