"""Weights rounded so that their errors cancel in what the layer gives (GPTQ: Frantar et al. 2022, arXiv:2210.17323).

Rounding each weight to the nearest step is best for the weight and not for the layer: its inputs are correlated, a
pixel with its neighbours above all. Column by column, the error of a rounded column is handed on to the columns that
are not yet rounded, in the proportion that leaves the least squared error of the outputs. With H the second moments of
the inputs and U the upper Cholesky factor of H's inverse, the error e of column j moves column k > j by e * U[j, k].

Layers without correlations or with few inputs gain little and lose nothing; the result is judged like every other step
of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.editing import opened
from edgeae_export.graph.layer import Layer
from edgeae_export.graph.values import Array, name_of, named_nodes
from edgeae_export.int8.calibration import activations
from edgeae_export.int8.placement import Sites
from edgeae_export.int8.weights import QuantizedWeight, oriented_weight, quantize_weight
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
    layers = [Layer(node) for node in named_nodes(opened(model).graph, sites.layers)]
    moments = _moments(model, layers, inputs)
    return {layer.name: _rounded(layer, moments[layer.name], target) for layer in layers}


def _rounded(layer: Layer, moments: Array, target: Target) -> QuantizedWeight:
    """One weight: [outputs, columns] per group of inputs, cut where it is too wide."""
    weight, axis = oriented_weight(layer)
    nearest = quantize_weight(weight, axis, target)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    scale, zero = (np.broadcast_to(each.astype(np.float64), len(rows)) for each in (nearest.scale, nearest.zero))
    top = (1 << (target.weight_bits - 1)) - 1
    limits = (-top - (nearest.scale.ndim == 0), top)
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


def _moments(model: onnx.ModelProto, layers: Sequence[Layer], inputs: Float32Array) -> Mapping[str, Array]:
    """Per layer, second moments [groups, columns, columns] of what it multiplies, over a sample of its positions."""
    sums: dict[str, Array] = {}
    seen = dict.fromkeys((layer.name for layer in layers), 0)
    rng = np.random.default_rng(0)
    for values in activations(model, dict.fromkeys(name_of(layer.input) for layer in layers), inputs):
        for layer in layers:
            value = values[name_of(layer.input)]
            columns = layer.weight.size // layer.outputs
            wanted = max(FEWEST_ROWS, ROWS_PER_COLUMN * columns) * len(value) / len(inputs)
            rows = _rows(layer, value, int(np.ceil(wanted)), rng)
            grouped = rows.reshape(len(rows), layer.window.groups, -1).transpose(1, 2, 0)
            moments = grouped @ grouped.transpose(0, 2, 1)
            sums[layer.name] = sums.get(layer.name, np.zeros(1)) + moments.astype(np.float64)
            seen[layer.name] += len(rows)
    return {name: total / seen[name] for name, total in sums.items()}


def _rows(layer: Layer, value: Float32Array, most: int, rng: np.random.Generator) -> Array:
    """Up to `most` of the vectors that a layer multiplies with its weight, [rows, group * columns]."""
    if layer.op_type != "Conv":
        rows = value.reshape(-1, value.shape[-1])
        return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]
    window, axes = layer.window, len(layer.window.kernel)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(window.kernel, window.dilations, strict=True)]
    padded = np.pad(value, [(0, 0), (0, 0), *zip(window.pads_begin, window.pads_end, strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    steps = (slice(None, None, step) for step in (1, 1, *window.strides, *window.dilations))
    windows = np.moveaxis(windows[tuple(steps)], 1, 1 + axes)  # [n, *positions, channels, *kernel]
    places = windows.shape[: 1 + axes]
    chosen = np.sort(rng.choice(int(np.prod(places)), min(most, int(np.prod(places))), replace=False))
    return windows[np.unravel_index(chosen, places)].reshape(len(chosen), -1)
