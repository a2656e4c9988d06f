"""What the runtime costs beside ONNX Runtime itself: import, overhead per call, idle CPU, and memory over a long run.

    python -m benchmarks.runtime_costs [BUNDLE] [--soak 1000000] [--json FILE]

Import: `import edgeae_runtime` in fresh processes that have imported numpy and onnxruntime, with compiled modules.
Overhead: `Autoencoder.decode` and `encode` with all their checks against a bare `InferenceSession.run` on the same
session options, interleaved; and with a session that gives the same at once, which is steadier. Idle: CPU time of this
process over ten seconds after a call, with as many threads as there are cores. Soak: encode, decode,
encode_distribution and stream, one after another, each that often, on four threads at once, every result compared,
resident memory sampled and its slope fitted. A bundle that is not variational has no distribution.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from edgeae_runtime import Autoencoder, open_bundle
from edgeae_runtime.machine import usable_cores
from edgeae_runtime.measure.timing import interleave
from edgeae_runtime.sessions.providers import create_session
from onnxruntime import InferenceSession

from benchmarks.results import RESULTS, whole_number, write_result

IDLE_SECONDS = 10
SOAK_THREADS = 4
SAME = 1e-6


def import_cost(runs: int = 21) -> dict[str, float]:
    """Milliseconds that importing the package takes over numpy and onnxruntime."""
    code = (
        "import time, numpy, onnxruntime; start, cpu = time.perf_counter(), time.process_time()\n"
        "from edgeae_runtime import Autoencoder\n"
        "print(time.perf_counter() - start, time.process_time() - cpu)"
    )
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-P", "-c", code]
        lines = [
            subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            for _ in range(runs + 1)
        ][1:]
    wall, cpu = zip(*((1e3 * float(word) for word in line.split()) for line in lines), strict=True)
    return {
        "median_ms": round(statistics.median(wall), 2),
        "least_ms": round(min(wall), 2),
        "cpu_ms": round(min(cpu), 2),
    }


def overhead(bundle: Path, name: str = "decoder") -> dict[str, float]:
    """Microseconds per call at batch 1, checked and bare."""
    autoencoder = Autoencoder.load(bundle, parts=name, threads=1, spinning=True)
    part = autoencoder.manifest.parts[name]
    session = create_session(open_bundle(bundle).read_part(name), "cpu", threads=1, spinning=True)
    inputs = np.zeros((1, *(n for n in part.input.shape if n is not None)), part.input.dtype)
    feed, names = {part.input.name: inputs}, (part.output.name,)
    call = autoencoder.decode if name == "decoder" else autoencoder.encode
    timed = interleave(
        {"checked": lambda: call(inputs), "bare": lambda: session.run(names, feed)},
        rounds=25,
        seconds_per_turn=0.1,
    )
    times = {each: latency.median_us for each, latency in timed.items()}
    outputs = [call(inputs)]
    with patch.object(InferenceSession, "run", lambda *arguments: outputs):  # the checks alone
        alone = min(timeit.repeat(lambda: call(inputs), number=10_000, repeat=9)) / 10_000 * 1e6
    return {**times, "overhead_us": times["checked"] - times["bare"], "checks_alone_us": alone}


def idle_cpu(bundle: Path) -> float:
    """Share of one core that a loaded, idle autoencoder uses."""
    with Autoencoder.load(bundle, threads=usable_cores()) as autoencoder:
        autoencoder.warmup(64)
        before = time.process_time()
        time.sleep(IDLE_SECONDS)
        return (time.process_time() - before) / IDLE_SECONDS


def soak(bundle: Path, call: str, calls: int) -> dict[str, Any]:
    """One call on several threads at once; wrong outputs and the slope of the resident memory.

    Args:
        bundle: with both parts; variational for `encode_distribution`.
        call: `encode`, `decode`, `encode_distribution` or `stream`.
        calls: by all threads together.
    """
    autoencoder = Autoencoder.load(bundle)
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((64, 1, *autoencoder.manifest.latent.shape)).astype(np.float32)
    images = generator.random((64, 1, *autoencoder.manifest.image_shape), dtype=np.float32)
    inputs = latents if call in ("decode", "stream") else images
    single = autoencoder.decode if call == "stream" else getattr(autoencoder, call)
    expected = [np.array(single(each)) for each in inputs]
    wrong, done = [0] * SOAK_THREADS, [0] * SOAK_THREADS
    share = calls // SOAK_THREADS

    def rows(index: int) -> Iterator[np.ndarray]:
        buffer = np.empty_like(inputs[0])  # one, filled anew each time, as a camera does
        for count in range(share):
            buffer[:] = inputs[(count + index) % len(inputs)]
            yield buffer

    def work(index: int) -> None:
        results = autoencoder.stream(rows(index)) if call == "stream" else map(single, rows(index))
        for count, result in enumerate(results):
            wrong[index] += not np.allclose(result, expected[(count + index) % len(inputs)], atol=SAME)
            done[index] = count + 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(SOAK_THREADS)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    samples = [(0, resident_mib())]
    while any(worker.is_alive() for worker in workers):
        samples.append((sum(done), resident_mib()))
        time.sleep(0.5)
    settled = [sample for sample in samples if sample[0] > share * SOAK_THREADS * 0.1] or samples
    slope = float(np.polyfit([s[0] for s in settled], [s[1] for s in settled], 1)[0]) if len(settled) > 1 else 0.0
    return {
        "calls": sum(done),
        "missing": share * SOAK_THREADS - sum(done),
        "wrong": sum(wrong),
        "seconds": round(time.monotonic() - start, 1),
        "resident_mib": [round(settled[0][1], 2), round(settled[-1][1], 2)],
        "slope_kib_per_100k_calls": round(slope * 1e5 * 1024, 2),
    }


def resident_mib() -> float:
    """Memory this process has resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundle"))
    parser.add_argument("--soak", type=whole_number(0, 10**9), default=1_000_000)
    parser.add_argument("--json", type=Path, default=RESULTS / "runtime_costs.json")
    options = parser.parse_args()
    parts = open_bundle(options.bundle).manifest.parts
    report: dict[str, Any] = {"import": import_cost()}
    print("import, over numpy and onnxruntime: {median_ms} ms ({least_ms} at least)".format(**report["import"]))
    report["overhead"] = {name: overhead(options.bundle, name) for name in parts}
    for name, times in report["overhead"].items():
        print(
            "{name}, batch 1: {checked:.2f} us checked, {bare:.2f} us bare, {overhead_us:.2f} us between; "
            "{checks_alone_us:.2f} us of checks alone".format(name=name, **times)
        )
    report["idle_cpu"] = idle_cpu(options.bundle)
    print(f"idle, {usable_cores()} threads: {100 * report['idle_cpu']:.3f} % of one core")
    report["soak"] = {}
    variational = open_bundle(options.bundle).manifest.variational
    for call in ("encode", "decode", "encode_distribution", "stream") if options.soak else ():
        if call == "encode_distribution" and not variational:
            print("soak, encode_distribution: not a variational bundle, none run")
            continue
        report["soak"][call] = soak(options.bundle, call, options.soak)
        print(f"soak, {call}: {report['soak'][call]}", flush=True)
    write_result("runtime-costs", report, options.json)


if __name__ == "__main__":
    main()
