"""The verdict: what int8 brought on this machine, and what it cost, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from edgeae_runtime.timing import MIN_ROUNDS, Difference, difference, interleave

from edgeae_export.graph import Float32Array, runner


@dataclass(frozen=True)
class Comparison:
    """One part in float32 and in the exported form, timed in turns."""

    part: str
    float_us: float
    """Median microseconds at batch 1 on one thread, of the part rewritten for float32."""
    exported_us: float
    float_bytes: int
    """Size of the plain float32 graph."""
    exported_bytes: int
    noise: float
    """What the ratio of the times may differ from one by chance."""

    @property
    def speed(self) -> Difference:
        """How many times faster the exported form is, and whether that is real."""
        return difference(self.float_us, self.exported_us, self.noise)


def compare_with_float(
    part: str, plain: onnx.ModelProto, float32: onnx.ModelProto, exported: onnx.ModelProto, inputs: Float32Array
) -> Comparison:
    """Time the exported graph against the float32 one; sizes are compared with the plain graph."""
    one = np.ascontiguousarray(inputs[:1])
    runs = {"float32": runner(float32), "exported": runner(exported)}
    runs["again"] = runs["exported"]
    calls = {name: (lambda run=run: run(one)) for name, run in runs.items()}
    timed = interleave(calls, rounds=MIN_ROUNDS, seconds_per_turn=0.03)
    pair = abs(timed["again"].median_us / timed["exported"].median_us - 1)
    return Comparison(
        part,
        timed["float32"].median_us,
        timed["exported"].median_us,
        plain.ByteSize(),
        exported.ByteSize(),
        noise=timed["float32"].noise + timed["exported"].noise + pair,
    )


def verdict(comparisons: list[Comparison], quality: Mapping[str, float]) -> str:
    """Size, speed here and quality against float32; says so when int8 is slower here.

    Args:
        comparisons: of the parts in int8.
        quality: `decoder_psnr_db`, `reconstruction_error_rise`.
    """
    told = "; ".join(
        f"{item.part} {100 * item.exported_bytes / item.float_bytes:.0f} % of the size and {_speed(item.speed)}"
        for item in comparisons
    )
    rise = 100 * quality["reconstruction_error_rise"]
    cost = f"{quality['decoder_psnr_db']:.1f} dB PSNR, reconstruction error {rise:+.3f} %"
    slower = [item.part for item in comparisons if item.speed.real and item.speed.ratio < 1]
    sentence = f"int8 against float32 on this machine: {told}; {cost}."
    if slower:
        parts = " and ".join(slower)
        sentence += f" On this machine int8 makes the {parts} slower: leave it in float32 unless the size matters."
    return sentence


def _speed(found: Difference) -> str:
    if not found.real:
        return "as fast"
    return f"{found.ratio:.2f}x as fast" if found.ratio > 1 else f"{1 / found.ratio:.2f}x slower"
