"""How many threads a bundle is fastest with, measured on this machine and kept beside it.

A tiny model is often fastest on one thread: handing work to a second costs more than the work. `tune` measures, and
writes `tuning.json`, which `edgeae_runtime.bundle.thread_counts` reads, into the bundle's folder.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae_runtime.bundle.thread_counts import SCHEMA, SCHEMA_VERSION, TUNING_FILE, machine_fingerprint

if TYPE_CHECKING:
    from pathlib import Path

WORTHWHILE = 0.9
"""A further thread must bring the time of a call below this share: it takes a core from everybody else."""


def tune(path: str | Path, provider: str = "cpu") -> dict[str, Any]:
    """Measure each part at batch 1 with every sensible thread count, keep the best, and return what was measured.

    Raises:
        BundleError, ProviderError: the bundle cannot be run.
        OSError: the folder cannot be written.
    """
    from pathlib import Path

    from edgeae_runtime.arrays import random_input
    from edgeae_runtime.autoencoder import Autoencoder
    from edgeae_runtime.files.documents import json_bytes
    from edgeae_runtime.machine import usable_cores
    from edgeae_runtime.measure.timing import interleave
    from edgeae_runtime.pictures.images import write_atomically

    bundle = Path(path)
    counts = sorted({1, 2, 4, usable_cores()} & set(range(1, usable_cores() + 1)))
    loaded = {count: Autoencoder.load(bundle, provider, threads=count) for count in counts}
    manifest = loaded[1].manifest
    threads: dict[str, int] = {}
    measured: dict[str, dict[str, float]] = {}
    for part in manifest.parts:
        batch = random_input(np.random.default_rng(0), manifest.parts[part].input, 1)
        calls = {
            str(count): functools.partial(each.decode if part == "decoder" else each.encode, batch)
            for count, each in loaded.items()
        }
        latency = interleave(calls)
        measured[part] = {count: round(each.median_us, 2) for count, each in latency.items()}
        threads[part] = best_count(measured[part])
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "machine": machine_fingerprint(),
        "threads": threads,
        "median_us": measured,
    }
    raw = json_bytes(document)
    if (bundle / TUNING_FILE).is_symlink():  # a stranger's bundle must not choose which file is written
        (bundle / TUNING_FILE).unlink()
    write_atomically(bundle / TUNING_FILE, lambda file: file.write(raw))
    return document


def best_count(median_us: Mapping[str, float]) -> int:
    """The fewest threads after which no larger number is worth its cores."""
    best, *others = sorted(int(count) for count in median_us)
    for count in others:
        if median_us[str(count)] < WORTHWHILE * median_us[str(best)]:
            best = count
    return best
