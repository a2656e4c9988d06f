"""The verdict: what int8 brought on this machine, and what it cost, in one sentence, with others on what is special.

Times are CPU time of the one thread that runs: a busy machine stretches the wall's, and one part's more than another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from edgeae_runtime.measure.timing import BUSY, THREAD_CLOCK, Difference, difference, interleave

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.running import as_input, runner


@dataclass(frozen=True)
class Comparison:
    """One part in float32 and in the exported form, timed in turns."""

    part: str
    float_us: float
    """Median microseconds of CPU time at batch 1 on one thread, of the part rewritten for float32."""
    exported_us: float
    float_bytes: int
    """Size of the plain float32 graph."""
    exported_bytes: int
    noise: float
    """What the ratio of the times may differ from one by chance."""
    float_form_bytes: int = 0
    """Size of the float32 graph that would be shipped, the part rewritten for float32."""
    stretch: float = 1.0
    """Wall time over CPU time: what other processes on the machine made of it."""

    @property
    def speed(self) -> Difference:
        """How many times faster the exported form is, and whether that is real."""
        return difference(self.float_us, self.exported_us, self.noise)


SECONDS = 2.0
"""CPU time of a comparison after which no further round begins."""
LOUD = 0.1
"""Noise from which a tie is told with it: by so much it may be none."""


def compare_with_float(
    part: str, plain: onnx.ModelProto, float32: onnx.ModelProto, exported: onnx.ModelProto, inputs: Float32Array
) -> Comparison:
    """Time the exported graph against the float32 one; sizes are compared with the plain graph."""
    one = as_input(exported, np.ascontiguousarray(inputs[:1]))
    runs = {"float32": runner(float32), "exported": runner(exported)}
    runs["again"] = runs["exported"]
    calls = {name: (lambda run=run: run(one)) for name, run in runs.items()}
    timed = interleave(calls, seconds_per_turn=0.03, clock=THREAD_CLOCK, budget_s=SECONDS)
    pair = abs(timed["again"].median_us / timed["exported"].median_us - 1)
    return Comparison(
        part,
        timed["float32"].median_us,
        timed["exported"].median_us,
        plain.ByteSize(),
        exported.ByteSize(),
        noise=timed["float32"].noise + timed["exported"].noise + pair,
        float_form_bytes=float32.ByteSize(),
        stretch=float(np.mean([each.stretch for each in timed.values()])),
    )


def verdict(comparisons: Sequence[Comparison], quality: Mapping[str, float], told: Sequence[str] = ()) -> str:
    """Size, speed here and quality against float32; says so when int8 is slower here.

    Args:
        comparisons: of the parts in int8.
        quality: `decoder_psnr_db`, `reconstruction_error_rise`.
        told: what else was decided, in sentences without their full stops.
    """
    further = [f"{each.rstrip('.')}." for each in told]
    if not comparisons:
        return " ".join(["Nothing was exported in int8.", *further])
    parts = "; ".join(
        f"{item.part} {100 * item.exported_bytes / item.float_bytes:.0f} % of the size and {_speed(item.speed)}"
        for item in comparisons
    )
    rise = 100 * quality["reconstruction_error_rise"]
    cost = f"{quality['decoder_psnr_db']:.1f} dB PSNR, reconstruction error {rise:+.3f} %"
    sentences = [f"int8 against float32 on this machine: {parts}; {cost}.", _times(comparisons), *further]
    slower = " and ".join(item.part for item in comparisons if item.speed.real and item.speed.ratio < 1)
    if slower:
        sentences.append(
            f"On this machine int8 makes the {slower} slower: leave it in float32 unless the size matters, with "
            "--quantize auto."
        )
    stretch = max(item.stretch for item in comparisons)
    if stretch > BUSY:
        sentences.append(
            f"This machine was busy: calls took up to {stretch:.1f} times their CPU time, which is what is compared."
        )
    return " ".join(sentences)


def _times(comparisons: Sequence[Comparison]) -> str:
    """Both clocks, for one call."""
    told = "; ".join(
        f"{item.part} {_milliseconds(item.float_us, item.exported_us)}, by the wall "
        f"{_milliseconds(item.float_us * item.stretch, item.exported_us * item.stretch)}"
        for item in comparisons
    )
    return f"CPU time of one call: {told}."


def _milliseconds(before: float, after: float) -> str:
    return f"{before / 1e3:.3g} -> {after / 1e3:.3g} ms"


def _speed(found: Difference) -> str:
    if not found.real:
        return "as fast" if found.noise < LOUD else f"as fast within a noise of {100 * found.noise:.0f} %"
    return f"{found.ratio:.2f}x as fast" if found.ratio > 1 else f"{1 / found.ratio:.2f}x slower"
