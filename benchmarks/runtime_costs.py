"""What the runtime costs beside ONNX Runtime itself: overhead per call, idle CPU, and memory over a long run.

    python -m benchmarks.runtime_costs [BUNDLE] [--soak 1000000] [--json FILE]

Overhead: `Autoencoder.decode` with all its checks against a bare `InferenceSession.run` on the same session options,
interleaved. Idle: CPU time of this process over ten seconds after a call, with as many threads as there are cores.
Soak: decodes on four threads at once, every result compared, resident memory sampled and its slope fitted.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from edgeae_runtime import Autoencoder, open_bundle
from edgeae_runtime.machine import usable_cores
from edgeae_runtime.providers import create_session
from edgeae_runtime.timing import interleave

from benchmarks.results_file import RESULTS, write_result

IDLE_SECONDS = 10
SOAK_THREADS = 4
SAME = 1e-6


def overhead(bundle: Path) -> dict[str, float]:
    """Microseconds per call at batch 1, checked and bare."""
    autoencoder = Autoencoder.load(bundle, threads=1, spinning=True)
    part = autoencoder.manifest.parts["decoder"]
    session = create_session(open_bundle(bundle).read_part("decoder"), "cpu", threads=1, spinning=True)
    latent = np.zeros((1, autoencoder.manifest.latent.dim), np.float32)
    feed, names = {part.input.name: latent}, (part.output.name,)
    timed = interleave(
        {"checked": lambda: autoencoder.decode(latent), "bare": lambda: session.run(names, feed)},
        rounds=25,
        seconds_per_turn=0.1,
    )
    times = {name: each.median_us for name, each in timed.items()}
    return {**times, "overhead_us": times["checked"] - times["bare"]}


def idle_cpu(bundle: Path) -> float:
    """Share of one core that a loaded, idle autoencoder uses."""
    with Autoencoder.load(bundle, threads=usable_cores()) as autoencoder:
        autoencoder.warmup(64)
        before = time.process_time()
        time.sleep(IDLE_SECONDS)
        return (time.process_time() - before) / IDLE_SECONDS


def soak(bundle: Path, calls: int) -> dict[str, Any]:
    """Decode on several threads at once; wrong outputs and the slope of the resident memory."""
    autoencoder = Autoencoder.load(bundle)
    latents = np.random.default_rng(0).standard_normal((64, autoencoder.manifest.latent.dim)).astype(np.float32)
    expected = np.concatenate([autoencoder.decode(latents[i : i + 1]) for i in range(len(latents))])
    wrong, done = [0] * SOAK_THREADS, [0] * SOAK_THREADS

    def work(index: int) -> None:
        for call in range(calls // SOAK_THREADS):
            row = (call + index) % len(latents)
            image = autoencoder.decode(latents[row : row + 1])
            wrong[index] += not np.allclose(image[0], expected[row], atol=SAME)
            done[index] = call + 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(SOAK_THREADS)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    samples: list[tuple[int, float]] = []
    while any(worker.is_alive() for worker in workers):
        samples.append((sum(done), resident_mib()))
        time.sleep(0.5)
    settled = [sample for sample in samples if sample[0] > calls * 0.1] or samples
    slope = float(np.polyfit([s[0] for s in settled], [s[1] for s in settled], 1)[0]) if len(settled) > 1 else 0.0
    return {
        "calls": sum(done),
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
    parser.add_argument("--soak", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, default=RESULTS / "runtime_costs.json")
    options = parser.parse_args()
    report: dict[str, Any] = {"overhead": overhead(options.bundle)}
    print(
        "decode, batch 1: {checked:.2f} us checked, {bare:.2f} us bare, {overhead_us:.2f} us between".format(
            **report["overhead"]
        )
    )
    report["idle_cpu"] = idle_cpu(options.bundle)
    print(f"idle, {usable_cores()} threads: {100 * report['idle_cpu']:.3f} % of one core")
    report["soak"] = soak(options.bundle, options.soak)
    print(f"soak: {report['soak']}")
    write_result("runtime-costs", report, options.json)


if __name__ == "__main__":
    main()
