"""Other people's autoencoders: parity, int8 fidelity, and speed against plain ONNX Runtime float32.

    python -m benchmarks.other_models [--json benchmarks/results/other_models.json]

The models are those of benchmarks/zoo/architectures.py, from diffusers, MONAI and PyOD or after papers and others'
patterns, trained for a moment on smooth random pictures. Each part is timed at batch 1 on one thread, its three forms
interleaved, by CPU time.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import edgeae_export
import numpy as np
import torch
from edgeae_export import OwnModel
from edgeae_export.graph.running import runner
from edgeae_runtime.measure.timing import THREAD_CLOCK, compared, interleave

from benchmarks.results import RESULTS, write_result
from benchmarks.zoo.architectures import OTHER_MODELS, OtherModel, build, pictures


def measure(other: OtherModel, model: torch.nn.Module, inputs: np.ndarray) -> dict[str, Any]:
    """Export one model three times, compare and time."""
    common = {"calibration": inputs, "own_model": OwnModel(value_range=other.value_range, **other.options)}
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (
            ("plain", {"rewrites": False}),
            ("float32", {}),
            ("int8", {"quantize": "int8"}),
        ):
            reports[name] = edgeae_export.export(model, Path(folder) / name, **common, **options)
    image = inputs[:1]
    latent = runner(reports["plain"].parts["encoder"].model)(image)
    speed = {}
    for part, given in (("encoder", image), ("decoder", latent)):
        calls = {name: functools.partial(runner(report.parts[part].model), given) for name, report in reports.items()}
        timed = interleave(calls, clock=THREAD_CLOCK)
        speed[part] = {"plain_us": timed["plain"].median_us}
        for name in ("float32", "int8"):
            found = compared(timed["plain"], timed[name])
            speed[part][name] = {"speed_up": round(found.ratio, 3), "real": found.real}
    quality = reports["int8"].quality
    parity = [check for check in reports["float32"].checks if check.metric == "max_abs"]
    worst = max(parity, key=lambda check: check.measured / check.limit)
    return {
        "model": other.name,
        "image": list(other.shape),
        "latent": list(reports["int8"].manifest.latent.shape),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "float32_max_abs": worst.measured,
        "float32_limit": worst.limit,
        "int8_psnr_db": quality["decoder_psnr_db"],
        "int8_error_rise": quality["reconstruction_error_rise"],
        "speed": speed,
        "kept_in_float": {name: dict(part.compiled.kept) for name, part in reports["int8"].parts.items()},
        "in_int8": {
            name: [sum(layer.precision == "int8" for layer in part.layers), len(part.layers)]
            for name, part in reports["int8"].manifest.parts.items()
        },
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / "other_models.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for other in OTHER_MODELS:
        rows.append(measure(other, build(other), pictures(other.shape)))
        print(json.dumps(rows[-1]["speed"]), rows[-1]["model"], f"{rows[-1]['int8_psnr_db']:.1f} dB", flush=True)
    write_result("other-models", {"rows": rows}, options.json, packages=("torch", "diffusers", "monai", "pyod"))


if __name__ == "__main__":
    main()
