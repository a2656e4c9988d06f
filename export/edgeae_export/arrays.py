"""What the exporter's functions pass to each other: arrays, functions of arrays, and running one in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Run = Callable[[Float32Array], Float32Array]
"""A part of an autoencoder, in torch or in ONNX Runtime: a batch [n, …] to a batch [n, …]."""

BATCH_VALUES = 64 * 3 * 64 * 64
"""Most numbers of input or output per call when many images are run: 64 colour images of 64 x 64, 4 of 256 x 256."""


def in_large_batches(run: Run, inputs: Float32Array, batch: int = 64) -> Float32Array:
    """Run inputs in batches that bound the memory: one first, to see how large its output is."""
    made = [run(inputs[:1])]
    largest = max(inputs[:1].size, made[0].size, 1)
    batch = max(1, min(batch, BATCH_VALUES // largest))
    return np.concatenate(made + [run(inputs[start : start + batch]) for start in range(1, len(inputs), batch)])
