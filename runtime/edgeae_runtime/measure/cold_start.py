"""What the first image costs.

Start-up and memory can only be measured in a fresh process, so `measure` starts several and takes medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeae_runtime.errors import EdgeAEError
from edgeae_runtime.measure.timing import median_noise

FIGURES = ("import_ms", "load_ms", "first_call_ms", "total_ms", "peak_memory_mib")


def measure(command: Sequence[str], runs: int = 5) -> dict[str, float]:
    """Medians over fresh processes of what each prints about itself.

    Args:
        command: a program that prints one JSON object with `FIGURES`, but `total_ms` as `done_ns`: the monotonic
            clock when its first output was there.
        runs: processes to start, after one that warms the disk cache.

    Returns:
        Milliseconds to import, to load, for the first call, and from process start to the first output;
        MiB resident at most.

    Raises:
        EdgeAEError: a process failed.
    """
    records = [_one(command) for _ in range(runs + 1)][1:]
    return {name: round(statistics.median(record[name] for record in records), 2) for name in FIGURES}


def measure_memory(command: Sequence[str], runs: int = 5) -> tuple[float, float]:
    """MiB resident at most, the median over fresh processes, and its noise, relative.

    Args:
        command, runs: as in `measure`.

    Raises:
        EdgeAEError: as there, or the system does not tell.
    """
    peaks = np.array([_one(command)["peak_memory_mib"] for _ in range(runs)])
    if not np.isfinite(peaks).all():
        raise EdgeAEError("This system does not tell how much memory a process had. Choose by latency or throughput.")
    return float(np.median(peaks)), median_noise(peaks)


def _one(command: Sequence[str]) -> dict[str, float]:
    start = time.monotonic_ns()
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}  # the user's may be any
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False, env=environment
    )
    if done.returncode:
        raise EdgeAEError(f"The start-up measurement {' '.join(command)} failed: {done.stderr.strip()[-400:]}")
    record: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    record["total_ms"] = (record.pop("done_ns") - start) / 1e6
    return record


def bundle_command(bundle: str | Path, part: str, provider: str, form: str = "") -> list[str]:
    """The command that measures a bundle's part, in one of its forms or as it is loaded by default."""
    return process("edgeae_runtime.measure.cold_start", str(bundle), part, provider, *([form] if form else []))


def process(module: str, *arguments: str) -> list[str]:
    """The command that calls `module.main` with the time at which its imports began, and the arguments."""
    code = f"import sys, time; start = time.monotonic_ns(); from {module} import main; main(start, *sys.argv[1:])"
    # -P: not from the current folder, which may be a stranger's bundle with a numpy.py in it.
    return [sys.executable, "-P", "-c", code, *arguments]


def main(start: int, bundle: str, part: str, provider: str, form: str = "") -> None:
    """Import, load, run once on zeros, and print the figures as JSON."""
    from edgeae_runtime.autoencoder import Autoencoder

    imported = time.monotonic_ns()
    variants = {part: form} if form else None
    autoencoder = Autoencoder.load(bundle, provider, parts=(part,), variants=variants)
    loaded = time.monotonic_ns()
    spec = autoencoder.manifest.parts[part].input
    zeros = np.zeros([1, *(n for n in spec.shape if n is not None)], spec.dtype)
    if part == "encoder":
        autoencoder.encode(zeros)
    else:
        autoencoder.decode(zeros)
    report(start, imported, loaded)


def report(start: int, imported: int, loaded: int) -> None:
    """Print the figures; called right after the first output, with monotonic nanoseconds of the earlier stages."""
    done = time.monotonic_ns()
    from edgeae_runtime.machine import peak_memory_mib

    figures = {
        "import_ms": (imported - start) / 1e6,
        "load_ms": (loaded - imported) / 1e6,
        "first_call_ms": (done - loaded) / 1e6,
        "done_ns": done,
        "peak_memory_mib": peak_memory_mib() or float("nan"),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
