"""How the decoder's time and memory grow, and how much of what the machine can do it uses.

    python -m benchmarks.scaling [--json benchmarks/results/scaling.json]

One thing is varied at a time around the default model: image size and channels, widths, latent dimensions, batch. The
weights are random, because time does not depend on them; calibration uses real pictures, enlarged. One thread.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeae_export
import numpy as np
import torch
from edgeae_export import Int8
from edgeae_export.graph.layer import activation_values
from edgeae_export.graph.running import runner
from edgeae_runtime.measure.timing import interleave

from benchmarks.machine_peak import machine_peak, multiplications
from benchmarks.other_decoders import Model, pictures
from benchmarks.results import RESULTS, write_result
from edgeae.model import AutoencoderConfig, Decoder, Encoder

WIDTHS = (32, 64, 128)
VARIANTS = ("plain float32", "float32", "int8")
CALIBRATION, HELD_OUT = 96, 16
"""Images to calibrate with at 64 x 64 and below, fewer of larger ones: the time of the graphs does not depend on it."""


VARIED = {
    "size, grey": lambda row: row["size"] ** 2,
    "size, RGB": lambda row: row["size"] ** 2,
    "width": lambda row: row["macs"],
    "latent": lambda row: row["latent"],
    "batch": lambda row: row["batch"],
}
"""What each sweep varies, as the number that time is fitted against: pixels, multiplications, dimensions, images."""

MEMORY = """
import sys, numpy
from edgeae_runtime import Autoencoder
from edgeae_runtime.machine import peak_memory_mib
autoencoder = Autoencoder.load(sys.argv[1], parts=("decoder",), threads=1)
autoencoder.decode(numpy.zeros((int(sys.argv[2]), int(sys.argv[3])), numpy.float32))
print(peak_memory_mib())
"""


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
        decoders, sizes = {}, {}
        paths = {name: Path(folder) / name.replace(" ", "-") for name in VARIANTS}
        for name in VARIANTS:
            report = edgeae_export.export(
                model,
                paths[name],
                quantize="int8" if name == "int8" else "none",
                calibration=images[HELD_OUT:],
                held_out=images[:HELD_OUT],
                rewrites=name != "plain float32",
                int8=Int8(parts=("decoder",)),
            )
            decoders[name] = runner(report.parts["decoder"].model)
            sizes[name] = report.parts["decoder"].bytes
            if name == "plain float32":
                plain = report.parts["decoder"].model
        memory = {
            batch: {name: peak_memory_mib(path, batch, point.latent) for name, path in paths.items()}
            for batch in point.batches
        }
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
                "activations": batch * activation_values(plain),
                "us": {name: each.as_document() for name, each in timed.items()},
                "bytes": sizes,
                "peak_memory_mib": memory[batch],
            }
        )
        told = ", ".join(f"{name} {each.median_us:.0f}" for name, each in timed.items())
        print(
            f"{point.size} px, {point.channels} ch, {point.widths}, z {point.latent}, batch {batch}: {told} us",
            flush=True,
        )
    return rows


def peak_memory_mib(bundle: Path, batch: int, latent: int) -> float:
    """The most memory that a process ever held which decodes one batch through the runtime."""
    command = [sys.executable, "-P", "-c", MEMORY, str(bundle), str(batch), str(latent)]
    return round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 1)


def fits(rows: Sequence[dict[str, Any]], peak: dict[str, float]) -> dict[str, Any]:
    """Per sweep and variant: how time and memory grow, and what of the machine is used at the sweep's largest point.

    `exponent` is that of a power law through all points; the line `start_us` + `us_per_unit` * x is fitted to relative
    errors, so that short times count as much as long ones, and `line_off_by` is the worst of them. The units are those
    of `VARIED`. `fraction_of_bandwidth` counts every activation of the plain graph as written and read once, and the
    file as read once: the least that must move, were nothing kept in a cache.
    """
    found: dict[str, Any] = {}
    for sweep, varied in VARIED.items():
        chosen = sorted((row for row in rows if sweep in row["sweeps"]), key=varied)
        x = np.array([varied(row) for row in chosen], dtype=np.float64)
        for variant in VARIANTS:
            times = np.array([row["us"][variant]["median_us"] for row in chosen])
            memory = np.array([row["peak_memory_mib"][variant] for row in chosen])
            start, slope = fitted_line(x, times, 1 / times)
            base, memory_slope = fitted_line(x, memory, np.ones(len(x)))
            last, width = chosen[-1], 1 if variant == "int8" else 4
            limit = peak["int8_gmacs" if variant == "int8" else "float32_gmacs"]
            moved = 2 * width * last["activations"] + last["bytes"][variant]
            found[f"{sweep}: {variant}"] = {
                "from": x[0],
                "to": x[-1],
                "exponent": round(float(np.polyfit(np.log(x), np.log(times), 1)[0]), 3),
                "start_us": round(start, 1),
                "us_per_unit": float(f"{slope:.4g}"),
                "line_off_by": round(float(np.max(np.abs((start + slope * x) / times - 1))), 3),
                "largest_us": round(float(times[-1]), 1),
                "fraction_of_peak": round(float(last["macs"] / times[-1] / 1e3 / limit), 3),
                "fraction_of_bandwidth": round(float(moved / times[-1] / 1e3 / peak["copy_gb_per_s"]), 3),
                "memory_base_mib": round(base, 1),
                "memory_mib_per_unit": float(f"{memory_slope:.4g}"),
                "largest_mib": float(memory[-1]),
            }
    return found


def fitted_line(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Start and slope of the line with the least weighted squares."""
    design = np.stack([weight, x * weight], axis=1)
    (start, slope), *_ = np.linalg.lstsq(design, y * weight, rcond=None)
    return float(start), float(slope)


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
