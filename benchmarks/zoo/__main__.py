"""Trained models of other people: quality, size and speed of every form of each part, on inputs held out.

    python -m benchmarks.zoo [--only taef2] [--json benchmarks/results/zoo.json]

Batch 1 on one thread, all forms of a part interleaved in one run, by CPU time: a busy machine does not count against
the form that happened to run. PSNR is against float32 torch; the task error is the mean squared error to the input.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.modules.running import torch_runner
from edgeae_export.pipeline import MAX_PSNR_DB
from edgeae_runtime.measure.timing import Latency, interleave
from edgeae_runtime.parity import mse, psnr

from benchmarks.peers.models import PARTS
from benchmarks.results import RESULTS, write_result
from benchmarks.zoo.forms import PLAIN, Forms, make_forms
from benchmarks.zoo.inputs import Inputs
from benchmarks.zoo.weights import ZOO, ZooModel, load

AGAIN = "the same again"
"""The plain form under a second name (an A/A pair)."""
CLOCK = time.process_time_ns
"""CPU time of the whole process, because an engine may run its one thread beside the caller's."""
METHOD = (
    "CPU time of the process at batch 1 on one thread; interleaved rounds in random order, median of the rounds' "
    "medians with its 95 % confidence interval; a difference inside both intervals and the A/A difference is a tie"
)


def measure(entry: ZooModel, tell: Callable[[str], None]) -> dict[str, Any]:
    """One model in all its forms, as JSON."""
    model = load(entry)
    inputs = entry.inputs(model)
    forms = make_forms(model, inputs, tell)
    latents = torch_runner(model.encoder)(inputs.held_out)  # of a variational encoder the means, which come first
    decoded = torch_runner(model.decoder)(latents)
    given = {"encoder": inputs.held_out, "decoder": latents}
    expected = {"encoder": latents, "decoder": decoded}
    peak = {"encoder": float(np.ptp(latents)), "decoder": peak_of(inputs, decoded)}
    parts: dict[str, Any] = {}
    for part in PARTS:
        tell(f"time the {part}")
        timed = timings(forms, part, given[part][:1])
        again = timed.pop(AGAIN)
        parts[part] = {
            "pair_noise": round(abs(again.median_us / timed[PLAIN].median_us - 1), 4),
            "forms": {
                name: {
                    "median_us": round(latency.median_us, 2),
                    "noise": round(latency.noise, 4),
                    "bytes": made.bytes,
                    "in_int8": made.layers,
                    "psnr_db": decibels(expected[part], in_large_batches(made.run, given[part]), peak[part]),
                }
                for name, latency in timed.items()
                for made in (forms.made[name][part],)
            },
        }
    return {
        "model": entry.name,
        "origin": entry.origin,
        "licence": entry.licence,
        "inputs": inputs.what,
        "calibration_inputs": len(inputs.calibration),
        "held_out_inputs": len(inputs.held_out),
        "image": list(inputs.held_out.shape[1:]),
        "latent": list(latents.shape[1:]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parts": parts,
        "round_trips": round_trips(forms, inputs, decoded, peak["decoder"]),
        "error_of_torch": mse(inputs.held_out, decoded),
        "error_of_the_mean_input": mse(inputs.held_out, inputs.mean),
        "refused": forms.refused,
        "export_cpu_s": forms.export_cpu_s,
    }


def peak_of(inputs: Inputs, decoded: Float32Array) -> float:
    """Of the PSNR: pictures lie in [0, 1], rows are as wide as they come."""
    return 1.0 if inputs.held_out.ndim == 4 else float(np.ptp(decoded))


def round_trips(forms: Forms, inputs: Inputs, decoded: Float32Array, peak: float) -> dict[str, dict[str, float]]:
    """Per form, what encoder and decoder together make of the held-out inputs."""
    found = {}
    for name, made in forms.made.items():
        latents = in_large_batches(made["encoder"].run, inputs.held_out)
        images = in_large_batches(made["decoder"].run, latents)
        found[name] = {"psnr_db": decibels(decoded, images, peak), "error": mse(inputs.held_out, images)}
    return found


def decibels(expected: Float32Array, measured: Float32Array, peak: float) -> float:
    """A PSNR that JSON can hold."""
    return round(min(psnr(expected, measured, peak), MAX_PSNR_DB), 2)


def timings(forms: Forms, part: str, one: Float32Array) -> dict[str, Latency]:
    """All forms of a part in turns, and the plain one under a second name."""
    one = np.ascontiguousarray(one)
    runs = {name: made[part].run for name, made in forms.made.items()}
    runs[AGAIN] = runs[PLAIN]
    calls = {name: functools.partial(run, one) for name, run in runs.items()}
    return interleave(calls, clock=CLOCK)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="a part of a model's name; nothing is written then, unless --json is given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for entry in ZOO:
        if options.only and options.only not in entry.name:
            continue
        rows.append(measure(entry, lambda stage, entry=entry: print(f"{entry.name}: {stage}", flush=True)))
        show(rows[-1])
    path = options.json or (None if options.only else RESULTS / "zoo.json")
    if path:
        present = [name for name in ("openvino",) if importlib.util.find_spec(name)]
        packages = ("torch", "scikit-image", "scikit-learn", *present)
        write_result("zoo", {"rows": rows, "method": METHOD}, path, packages=packages)


def show(row: dict[str, Any]) -> None:
    """Print one model's figures."""
    for part, found in row["parts"].items():
        for name, form in found["forms"].items():
            speed = found["forms"][PLAIN]["median_us"] / form["median_us"]
            layers = "{} of {} in int8".format(*form["in_int8"]) if form["in_int8"] else ""
            print(
                f"{row['model']:26} {part:8} {name:28} {form['median_us']:10.1f} us {speed:6.2f}x "
                f"{form['psnr_db']:6.1f} dB {form['bytes'] / 1000:7.0f} kB {layers}"
            )
    errors = {
        name: round(100 * (each["error"] / row["error_of_torch"] - 1), 3) for name, each in row["round_trips"].items()
    }
    print(f"{row['model']}: rise of the task error in %: {errors}; CPU seconds of the exports: {row['export_cpu_s']}")
    for name, reason in row["refused"].items():
        print(f"{row['model']}: {name} refused: {reason}", flush=True)


if __name__ == "__main__":
    main()
