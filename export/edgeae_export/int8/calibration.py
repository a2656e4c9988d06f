"""Calibration: what values the activations of a graph take on real inputs, streamed batch by batch.

Two passes, the first for the extremes, the second for histograms between them: memory holds one batch and one
histogram per tensor, however many inputs there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from edgeae_runtime.errors import InputError
from edgeae_runtime.sessions.providers import create_session
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.running import as_input, input_name

BATCH = 64
TAPPED_VALUES = 1 << 25
"""Most numbers of activations held at once: 128 MiB."""
BINS = 2048
"""Bins of a histogram: eight per 8-bit step at full range, so that a clipped range is still resolved."""

LEAST_ERROR_FRACTIONS = tuple(float(each) for each in np.linspace(1, 0.2, 41))
"""Of a tensor's range, what is tried for the least error."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Histogram:
    """The values of one tensor, over all its elements and all calibration inputs."""

    low: float
    high: float
    counts: NDArray[np.int64]
    """[BINS], equal bins from `low` to `high`."""

    def percentile(self, percent: float) -> Range:
        """The range that leaves out (100 - percent) % of the values, half at each end unless one end is zero.

        Zeros of a rectifier are not counted: they are exact in any range.
        """
        counts = self.counts.astype(np.float64)
        if self.low == 0:
            counts[0] = 0
        total = counts.sum()
        if total == 0:
            return self.low, self.high
        tail = total * (1 - percent / 100) / (1 if self.low == 0 else 2)
        edges = np.linspace(self.low, self.high, len(counts) + 1)
        cumulative = np.cumsum(counts)
        first = 0 if self.low == 0 else int(np.searchsorted(cumulative, tail))
        last = int(np.searchsorted(cumulative, total - tail))
        return float(edges[first]), float(edges[min(last + 1, len(counts))])

    def least_error(self, levels: int = 256) -> Range:
        """The range, some fraction of the whole on both sides, in which rounding to `levels` steps and clipping
        together give the least mean squared error; zeros of a rectifier are not counted."""
        counts = self.counts.astype(np.float64)
        if self.low == 0:
            counts[0] = 0
        edges = np.linspace(self.low, self.high, len(counts) + 1)
        middles = (edges[1:] + edges[:-1]) / 2

        def error(fraction: float) -> float:
            low, high = fraction * min(self.low, 0.0), fraction * max(self.high, 0.0)
            clipped = np.square(np.clip(middles, low, high) - middles)
            rounded = ((high - low) / (levels - 1)) ** 2 / 12
            return float(counts @ np.where(clipped > 0, clipped, rounded))

        best = min(LEAST_ERROR_FRACTIONS, key=error)
        return best * self.low, best * self.high


def calibrate(model: onnx.ModelProto, tensors: Sequence[str], inputs: Float32Array) -> dict[str, Histogram]:
    """Histograms of some tensors of a float32 graph.

    Args:
        model: the graph.
        tensors: names of float32 tensors in it; its inputs and outputs are allowed.
        inputs: calibration inputs, float32 [n, …], real ones.

    Raises:
        InputError: there are no inputs, or they make NaN or infinite activations.
    """
    if len(inputs) == 0:
        raise InputError("Got no calibration inputs, expected at least one: int8 ranges come from real data.")
    if not tensors:
        return {}
    limits: dict[str, Range] = dict.fromkeys(tensors, (np.inf, -np.inf))
    for values in activations(model, tensors, inputs):
        for name, value in values.items():
            low, high = float(value.min()), float(value.max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise InputError(
                    f"The calibration inputs make the activation {name!r} NaN or infinite, expected finite numbers. "
                    "Look for a broken image, or export in float32."
                )
            limits[name] = min(limits[name][0], low), max(limits[name][1], high)
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    for values in activations(model, tensors, inputs):
        for name, value in values.items():
            low, high = limits[name]
            counts[name] += np.histogram(value, BINS, (low, high if high > low else low + 1))[0]
    return {name: Histogram(*limits[name], counts[name]) for name in tensors}


def activations(
    model: onnx.ModelProto, tensors: Iterable[str], inputs: Float32Array
) -> Iterator[Mapping[str, Float32Array]]:
    """The values of some tensors, batch by batch."""
    tensors = list(tensors)
    source = input_name(model)
    inside = [name for name in tensors if name != source]
    session = create_session(with_outputs(model, inside).SerializeToString(), "cpu", threads=1, spinning=True)
    start, count = 0, 1  # one first, to see how large its activations are
    while start < len(inputs):
        batch = inputs[start : start + count]
        values = dict(zip(inside, session.run(inside, {source: as_input(model, batch)}), strict=True)) if inside else {}
        yield {name: batch if name == source else values[name] for name in tensors}
        each = sum(value.size for value in (batch, *values.values())) // len(batch)
        start, count = start + count, max(1, min(BATCH, TAPPED_VALUES // max(each, 1)))


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model that also gives some of its inner tensors."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    present = {value.name for value in tapped.graph.output}
    tapped.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in present
    )
    return tapped
