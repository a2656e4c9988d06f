"""How many threads a bundle is fastest with, measured on this machine and kept beside it.

A tiny model is often fastest on one thread: handing work to a second costs more than the work. `tune` measures, and
writes `tuning.json` into the bundle's folder. It holds nothing but thread counts, is bound to the machine it was
measured on, and is ignored anywhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae_runtime.files.regular import regular_file

if TYPE_CHECKING:
    from pathlib import Path

TUNING_FILE = "tuning.json"
SCHEMA, SCHEMA_VERSION = "edgeae-tuning", 1
WORTHWHILE = 0.9
"""A further thread must bring the time of a call below this share: it takes a core from everybody else."""
_MAX_BYTES = 1 << 16


def read_tuning(bundle: Path) -> dict[str, int]:
    """Threads per part from the last `tune` of this bundle on this machine; empty if there was none."""
    try:
        raw = _bounded(bundle / TUNING_FILE)
        import json

        from edgeae_runtime.machine import usable_cores

        document = json.loads(raw)
        if document["schema_version"] != SCHEMA_VERSION or document["machine"] != machine_fingerprint():
            return {}
        most = usable_cores()
        return {str(part): count for part, count in document["threads"].items() if 1 <= _whole(count) <= most}
    except Exception:
        return {}  # an optional hint from whoever made the folder: whatever is wrong with it, the default serves


def _bounded(path: Path) -> bytes:
    """The content of a small file, which is no link: whoever made the folder would name one of the user's."""
    with regular_file(path, follow=False) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError("too long")
    return raw


def _whole(count: object) -> int:
    if type(count) is not int:
        raise TypeError("a thread count is a whole number")
    return count


def tune(path: str | Path, provider: str = "cpu") -> dict[str, Any]:
    """Measure each part at batch 1 with every sensible thread count, keep the best, and return what was measured.

    Raises:
        BundleError, ProviderError: the bundle cannot be run.
        OSError: the folder cannot be written.
    """
    # Here: the autoencoder reads tunings itself, and needs neither a clock nor a writer for that.
    import json
    from pathlib import Path

    from edgeae_runtime.autoencoder import Autoencoder
    from edgeae_runtime.files.images import write_atomically
    from edgeae_runtime.machine import usable_cores
    from edgeae_runtime.measure.timing import interleave

    bundle = Path(path)
    counts = sorted({1, 2, 4, usable_cores()} & set(range(1, usable_cores() + 1)))
    loaded = {count: Autoencoder.load(bundle, provider, threads=count) for count in counts}
    manifest = loaded[1].manifest
    threads: dict[str, int] = {}
    measured: dict[str, dict[str, float]] = {}
    for part in manifest.parts:
        shape = (1, *manifest.latent.shape) if part == "decoder" else (1, *manifest.image_shape)
        batch = np.random.default_rng(0).random(shape, dtype=np.float32)
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
    raw = (json.dumps(document, indent=2) + "\n").encode()
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


def machine_fingerprint() -> dict[str, Any]:
    """What a thread count depends on."""
    from edgeae_runtime.machine import describe_machine

    machine = describe_machine()
    return {key: machine[key] for key in ("processor", "architecture", "cores", "onnxruntime")}
