"""Two forms of a graph, compared on real inputs and on corners: the extremes that no held-out image may show.

A division by a sum that is zero on a black picture alone, or a ReLU that only a bright pixel wakes, is seen on no
average of real images. Corners are few and made the same way each time.
"""

from __future__ import annotations

import numpy as np
import onnx
from edgeae_runtime.errors import gist
from edgeae_runtime.parity import in_batches
from numpy.typing import NDArray

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.running import joined_runner
from edgeae_export.modules.noise import NOISE_FACTOR

CHECKED = 13
"""Real inputs that two graphs are compared on: one of each batch size of `in_batches`."""
ROUNDING = float(np.finfo(np.float32).eps)


class Probe:
    """What a graph gives on a handful of inputs, and how far another form of it may be from that.

    Real inputs are held to the tolerance. A corner may lie far outside of what the model was made for; there the
    tolerance grows with the output's size, and with what a change of the input in its last bit does to the output.
    """

    measured = 0.0
    """Largest absolute difference on real inputs that the last comparison saw."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: Float32Array,
        tolerance: float | None = None,
        corners: Float32Array | None = None,
    ) -> None:
        """Run the graph that other forms come from.

        Args:
            model: the graph.
            inputs: real inputs, float32 [n, …]; the first `CHECKED` are taken.
            tolerance: largest absolute difference of an output that counts as equal, on real inputs; None measures
                what a change of the inputs in their last bit does, and takes `NOISE_FACTOR` times as much.
            corners: float32 [m, …]; None makes them from the inputs. Those that the graph cannot run are left out.
        """
        real = np.ascontiguousarray(inputs[:CHECKED])
        run = joined_runner(model)
        self._inputs, self._count = real, len(real)
        self._expected = in_batches(run, real)
        size = float(largest(self._expected).max(initial=0.0))
        if tolerance is None:
            moved = in_batches(run, in_last_bit(real))
            tolerance = NOISE_FACTOR * max(float(_moves(moved, self._expected).max(initial=0.0)), ROUNDING * size)
        self._limits: NDArray[np.float64] = np.full(len(real), tolerance)
        corners = observed_corners(inputs)[1] if corners is None else corners
        try:
            found = in_batches(run, corners)
            moved = in_batches(run, in_last_bit(corners))
        except Exception:  # ONNX Runtime raises many types; what the first graph refuses, the second need not take
            return
        growth = np.maximum(largest(found) / max(size, float(np.finfo(np.float32).tiny)), 1.0)
        moves = NOISE_FACTOR * _moves(moved, found)
        self._inputs = np.concatenate([real, corners])
        self._expected = np.concatenate([self._expected, found])
        self._limits = np.concatenate([self._limits, np.maximum(tolerance * growth, moves)])

    def difference(self, graph: onnx.ModelProto) -> str:
        """Why another form of the graph cannot stand for it; empty where it can."""
        self.measured = float("inf")
        try:
            found = in_batches(joined_runner(graph), self._inputs)
        except Exception as error:  # ONNX Runtime raises many types
            return f"it does not run ({gist(error)})"
        if found.shape != self._expected.shape:
            return f"it gives {found.shape[1]} numbers per input instead of {self._expected.shape[1]}"
        sound: NDArray[np.bool_] = np.asarray(np.isfinite(self._expected).all(axis=1))
        difference = np.abs(self._expected[sound].astype(np.float64) - found[sound]).max(axis=1, initial=0.0)
        real = sound[: self._count].sum()
        self.measured = float(difference[:real].max(initial=0.0))
        worst = np.flatnonzero(~(difference <= self._limits[sound]))  # NaN keeps no limit
        if not len(worst):
            return ""
        where = "" if worst[0] < real else " on a corner of the inputs' range"
        if not np.isfinite(difference[worst[0]]):
            return f"it gives NaN or infinity{where}"
        limit = self._limits[sound][worst[0]]
        return f"it changed the outputs by {difference[worst[0]]:.2e}{where}, more than {limit:.2e}"


def picture_corners(images: Float32Array) -> tuple[list[str], Float32Array]:
    """Names, and corners for images in [0, 1] like the given ones, [m, …]; the ones most worth keeping come first."""
    shape = images.shape[1:]
    middle = tuple(size // 2 for size in shape[1:])
    last = tuple(size - 1 for size in shape[1:])
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    made: dict[str, Float32Array] = {
        "black": _constant(shape, 0.0),
        "white": _constant(shape, 1.0),
        "one bright pixel": _with_pixel(_constant(shape, 0.0), middle, 1.0),
        "mid-grey": _constant(shape, 0.5),
        "noise": noise,
        "noise of black and white": np.rint(noise),
        "one bright pixel in a corner": _with_pixel(_constant(shape, 0.0), last, 1.0),
        "one dark pixel": _with_pixel(_constant(shape, 1.0), middle, 0.0),
        "the darkest of each pixel": images.min(axis=0),
        "the brightest of each pixel": images.max(axis=0),
    }
    if 1 < shape[0] <= 4:
        for channel in range(shape[0]):
            made[f"channel {channel} alone"] = _constant(shape, 0.0)
            made[f"channel {channel} alone"][channel] = 1.0
    return list(made), np.stack(list(made.values())).astype(np.float32)


def observed_corners(inputs: Float32Array) -> tuple[list[str], Float32Array]:
    """As `picture_corners`, for signals, rows and latents: around what was observed, whose values have no bounds."""
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    peak = float(np.abs(inputs).max(initial=0.0))
    rng = np.random.default_rng(0)
    impulse = np.zeros(low.size, np.float32)
    impulse[low.size // 2] = peak
    made: dict[str, Float32Array] = {
        "zeros": np.zeros_like(low),
        "the lowest of each number": low,
        "the highest of each number": high,
        "twice a real one": 2 * inputs[0],
        "a real one with its sign turned": -inputs[0],
        "noise of the observed spread": mean + spread * rng.standard_normal(low.shape),
        "half a real one": 0.5 * inputs[0],
        "one number alone": impulse.reshape(low.shape),
        "the mean": mean,
        "the highest everywhere": np.full_like(low, inputs.max(initial=-np.inf)),
    }
    return list(made), np.stack(list(made.values())).astype(np.float32)


def in_last_bit(inputs: Float32Array) -> Float32Array:
    """The inputs, each number moved up or down by its rounding; zeros stay."""
    signs = np.random.default_rng(1).choice(np.array([-1.0, 1.0]), inputs.shape)
    return (inputs * (1 + signs * ROUNDING)).astype(np.float32)


def largest(outputs: Float32Array) -> NDArray[np.float64]:
    """The largest finite magnitude of each row."""
    finite = np.where(np.isfinite(outputs), np.abs(outputs.astype(np.float64)), 0.0)
    result: NDArray[np.float64] = finite.reshape(len(finite), -1).max(axis=1, initial=0.0)
    return result


def _moves(moved: Float32Array, outputs: Float32Array) -> NDArray[np.float64]:
    """Largest finite difference of each row."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(moved.astype(np.float64) - outputs)
    result: NDArray[np.float64] = np.where(np.isfinite(difference), difference, 0.0).max(axis=1, initial=0.0)
    return result


def _constant(shape: tuple[int, ...], value: float) -> Float32Array:
    return np.full(shape, value, np.float32)


def _with_pixel(image: Float32Array, place: tuple[int, ...], value: float) -> Float32Array:
    index: tuple[slice | int, ...] = (slice(None), *place)
    image[index] = value
    return image
