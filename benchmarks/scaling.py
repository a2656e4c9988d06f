"""How the decoder's time and memory grow, and how much of the machine's peak it reaches.

    python -m benchmarks.scaling [--json benchmarks/results/scaling.json]

One thing is varied at a time around the default model: image size and channels, widths, latent dimensions, batch. The
weights are random, because time does not depend on them; calibration uses real pictures, enlarged. One thread.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeae_export
import numpy as np
import torch
from edgeae_export.graph import runner
from edgeae_runtime.cold_start import bundle_command, measure
from edgeae_runtime.timing import interleave

from benchmarks.machine_peak import machine_peak, multiplications
from benchmarks.other_decoders import Model, pictures
from benchmarks.results_file import RESULTS, write_result
from edgeae.model import AutoencoderConfig, Decoder, Encoder

WIDTHS = (32, 64, 128)
VARIANTS = ("plain float32", "float32", "int8")
CALIBRATION, HELD_OUT = 96, 16
"""Images to calibrate with at 64 x 64 and below, fewer of larger ones: the time of the graphs does not depend on it."""


@dataclass(frozen=True)
class Point:
    """One model, and the sweeps it belongs to."""

    sweeps: tuple[str, ...]
    size: int = 32
    channels: int = 1
    widths: tuple[int, ...] = WIDTHS
    latent: int = 2
    batches: tuple[int, ...] = (1,)


POINTS = (
    Point(("size, grey", "width", "latent", "batch"), batches=(1, 2, 4, 8, 16, 32, 64, 128, 256)),
    *(Point(("size, grey",), size=size) for size in (64, 128, 256)),
    *(Point(("size, RGB",), size=size, channels=3) for size in (32, 64, 128, 256)),
    *(Point(("width",), widths=tuple(int(w * factor) for w in WIDTHS)) for factor in (0.5, 1.5, 2)),
    *(Point(("latent",), latent=latent) for latent in (16, 64, 256)),
)


def measure_point(point: Point) -> list[dict[str, Any]]:
    """Export one model in three forms and time its decoder at every batch size of the point."""
    torch.manual_seed(0)
    config = AutoencoderConfig(
        image_size=point.size, channels=point.channels, latent_dim=point.latent, widths=point.widths
    )
    model = Model(str(point), Encoder(config).eval(), Decoder(config).eval(), config)
    count = max(8, min(CALIBRATION, CALIBRATION * 64**2 // point.size**2))
    images = pictures(count + HELD_OUT, config.image_shape, seed=0)
    latents = np.random.default_rng(0).standard_normal((max(point.batches), point.latent)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        decoders, sizes, memory = {}, {}, {}
        for name in VARIANTS:
            path = Path(folder) / name.replace(" ", "-")
            report = edgeae_export.export(
                model,
                path,
                quantize="int8" if name == "int8" else "none",
                quantize_parts=("decoder",),
                calibration=images[HELD_OUT:],
                held_out=images[:HELD_OUT],
                rewrites=name != "plain float32",
            )
            decoders[name] = runner(report.parts["decoder"].model)
            sizes[name] = report.parts["decoder"].bytes
            memory[name] = measure(bundle_command(path, "decoder", "cpu"), runs=3)["peak_memory_mib"]
            if name == "plain float32":
                plain = report.parts["decoder"].model
    rows = []
    for batch in point.batches:
        calls = {name: functools.partial(run, latents[:batch]) for name, run in decoders.items()}
        timed = interleave(calls)
        rows.append(
            {
                "sweeps": list(point.sweeps if batch == 1 else ("batch",)),
                "size": point.size,
                "channels": point.channels,
                "widths": list(point.widths),
                "latent": point.latent,
                "batch": batch,
                "macs": multiplications(plain, batch),
                "us": {name: each.as_document() for name, each in timed.items()},
                "bytes": sizes,
                "peak_memory_mib": memory,
            }
        )
        told = ", ".join(f"{name} {each.median_us:.0f}" for name, each in timed.items())
        print(
            f"{point.size} px, {point.channels} ch, {point.widths}, z {point.latent}, batch {batch}: {told} us",
            flush=True,
        )
    return rows


def fits(rows: Sequence[dict[str, Any]], peak: dict[str, float]) -> dict[str, Any]:
    """Per sweep and variant: the exponent of time against multiplications, and the line time = start + macs / rate.

    The line is fitted to relative errors, so that short times count as much as long ones. `fraction_of_peak` is the
    rate at the sweep's largest point over the machine's in the same precision.
    """
    found: dict[str, Any] = {}
    for sweep in dict.fromkeys(name for row in rows for name in row["sweeps"]):
        chosen = sorted((row for row in rows if sweep in row["sweeps"]), key=lambda row: row["macs"])
        macs = np.array([row["macs"] for row in chosen], dtype=np.float64)
        for variant in VARIANTS:
            times = np.array([row["us"][variant]["median_us"] for row in chosen])
            design = np.stack([1 / times, macs / times], axis=1)
            (start, per_mac), *_ = np.linalg.lstsq(design, np.ones(len(times)), rcond=None)
            limit = peak["int8_gmacs" if variant == "int8" else "float32_gmacs"]
            found[f"{sweep}: {variant}"] = {
                "exponent": round(float(np.polyfit(np.log(macs), np.log(times), 1)[0]), 3),
                "start_us": round(float(start), 1),
                "gmacs_per_s": round(float(1e-3 / per_mac), 1) if per_mac > 0 else None,
                "fraction_of_peak": round(float(macs[-1] / times[-1] / 1e3 / limit), 3),
                "memory_exponent": round(
                    float(np.polyfit(np.log(macs), np.log([r["peak_memory_mib"][variant] for r in chosen]), 1)[0]), 3
                ),
            }
    return found


def main() -> None:
    """Measure, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peak = machine_peak()
    print(peak)
    rows = [row for point in POINTS for row in measure_point(point)]
    found = fits(rows, peak)
    for name, fit in found.items():
        print(f"{name:<28}{fit}")
    write_result("scaling", {"peak": peak, "rows": rows, "fits": found}, options.json)


if __name__ == "__main__":
    main()
