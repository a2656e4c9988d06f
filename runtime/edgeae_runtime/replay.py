"""Replaying a bundle's golden vectors in this process: what `verify` does, in the child that it starts or here."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.bundle.reader import Bundle, open_bundle
from edgeae_runtime.errors import BundleError, EdgeAEError
from edgeae_runtime.parity import Check, compare, compare_each, in_batches

if TYPE_CHECKING:
    from pathlib import Path

    from edgeae_runtime.bundle.golden import Golden

TIMEOUT_S = 300.0
"""Seconds that a replay may take by default: a few images of a model for the edge, on a slow machine that is busy."""
MOST_WARNINGS, MAX_WARNING = 10, 1000
"""Warnings that are passed on, and the characters of each."""
_TITLES = {
    "latent": "encoder latent",
    "log_variance": "encoder log-variance",
    "image": "decoder image",
    "reconstruction": "round trip",
}


def verify_here(
    path: str | Path, provider: str, threads: int, root: str | Path | None, timeout_s: float = TIMEOUT_S
) -> list[Check]:
    """As `verify`, in this process, where each call is bounded by `timeout_s`."""
    bundle = open_bundle(path, root=root)
    golden = bundle.read_golden()
    autoencoder = Autoencoder.from_bundle(bundle, provider, threads=threads, timeout_s=timeout_s)
    outputs = _outputs(autoencoder, golden)
    checks = []
    for output, (reference, measured) in outputs.items():
        for metric, limit in bundle.manifest.golden_limits.get(output, {}).items():
            peak = 1.0 if _pixels(bundle, output) else float(np.ptp(reference))
            checks.append(compare(_TITLES[output], reference, measured, metric, limit, peak))
    return checks + _corner_checks(bundle, autoencoder, golden)


def _outputs(autoencoder: Autoencoder, golden: Golden) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What the torch model gave for the golden inputs, and what the bundle gives, by output."""
    parts, count = autoencoder.manifest.parts, len(golden.image)
    outputs = {}
    if "encoder" in parts and count:
        outputs["latent"] = golden.latent[:count], in_batches(autoencoder.encode, golden.image)
        if golden.log_variance is not None:
            found = in_batches(lambda images: autoencoder.encode_distribution(images)[1], golden.image)
            outputs["log_variance"] = golden.log_variance, found
    if "decoder" in parts:
        outputs["image"] = golden.decoded, in_batches(autoencoder.decode, golden.latent)
    if len(parts) == len(PARTS) and count:
        outputs["reconstruction"] = golden.decoded[:count], in_batches(autoencoder.reconstruct, golden.image)
    return outputs


def _corner_checks(bundle: Bundle, autoencoder: Autoencoder, golden: Golden) -> list[Check]:
    """One check per output on all corners; none for bundles without corners."""
    corners = bundle.manifest.golden_corners
    if corners is None or golden.corners is None:
        return []
    real = {"latent": golden.latent, "image": golden.decoded, "reconstruction": golden.decoded}
    if golden.log_variance is not None:
        real["log_variance"] = golden.log_variance
    checks = []
    for output, (reference, measured) in _outputs(autoencoder, golden.corners).items():
        for metric, limits in corners.limits.get(output, {}).items():
            peak = 1.0 if _pixels(bundle, output) else float(np.abs(real[output]).max())
            what = f"{_TITLES[output]}, {len(reference)} corners"
            checks.append(compare_each(what, corners.names, reference, measured, metric, limits, peak))
    return checks


def _pixels(bundle: Bundle, output: str) -> bool:
    """Whether an output is images in [0, 1], whose peak is one."""
    decoder = bundle.manifest.parts.get("decoder")
    return output in ("image", "reconstruction") and decoder is not None and decoder.output.range is not None


def answer() -> None:
    """The child: read a request, verify within its memory, write the checks or the error."""
    import dataclasses
    import json

    request = json.load(sys.stdin.buffer)
    words = os.dup(1)
    os.dup2(2, 1)  # whatever else writes to standard output does not mix with the answer
    _limit_memory(request.pop("memory"))
    document: dict[str, Any]
    said: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            document = {"checks": [dataclasses.asdict(check) for check in verify_here(**request)]}
    except EdgeAEError as error:
        document = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        document = {"error": BundleError.__name__, "message": "Verifying the bundle takes more memory than it may."}
    document["warnings"] = [str(each.message)[:MAX_WARNING] for each in said[:MOST_WARNINGS]]
    with os.fdopen(words, "wb") as file:
        file.write(json.dumps(document).encode())
        file.flush()
    os._exit(0)  # without ONNX Runtime's own clearing up, in which a damaged heap would still show


def _limit_memory(most: int) -> None:
    """At most so much address space, and no core file, where the system knows such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits: Sequence[tuple[int, int]] = ((resource.RLIMIT_AS, most), (resource.RLIMIT_CORE, 0))
    for limit, value in limits:
        hard = resource.getrlimit(limit)[1]
        if value and (hard == resource.RLIM_INFINITY or value <= hard):
            resource.setrlimit(limit, (value, hard))
        elif not value and limit == resource.RLIMIT_CORE:
            resource.setrlimit(limit, (0, hard))
