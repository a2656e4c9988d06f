"""Parity on the device itself, without torch: replay the golden vectors of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle import open_bundle
from edgeae_runtime.parity import Check, compare, in_batches

_TITLES = {
    "latent": "encoder latent",
    "log_variance": "encoder log-variance",
    "image": "decoder image",
    "reconstruction": "round trip",
}


def verify(path: str | Path, provider: str = "cpu", *, threads: int = 1) -> list[Check]:
    """Check a bundle's hashes, then run its golden inputs and compare with the torch model's recorded outputs.

    The inputs are run in batches of 1, 2, 3 and 7, so that an axis frozen by the export shows.

    Args:
        path: the bundle's folder.
        provider: the provider to verify on.
        threads: threads per call.

    Returns:
        One check per output and metric; none raises here: `parity.require` does.

    Raises:
        BundleError, IntegrityError, ProviderError: the bundle cannot be run at all.
    """
    bundle = open_bundle(path)
    golden = bundle.read_golden()
    autoencoder = Autoencoder.from_bundle(bundle, provider, threads=threads)
    outputs = {}
    if "encoder" in bundle.manifest.parts:
        outputs["latent"] = golden.latent, in_batches(autoencoder.encode, golden.image)
        if golden.log_variance is not None:
            found = in_batches(lambda images: autoencoder.encode_distribution(images)[1], golden.image)
            outputs["log_variance"] = golden.log_variance, found
    if "decoder" in bundle.manifest.parts:
        outputs["image"] = golden.decoded, in_batches(autoencoder.decode, golden.latent)
    if len(outputs) == 2 and "reconstruction" in bundle.manifest.golden_limits:
        outputs["reconstruction"] = golden.decoded, in_batches(autoencoder.reconstruct, golden.image)
    spec = bundle.manifest.parts["decoder"].output if "decoder" in bundle.manifest.parts else None
    pixels = spec is not None and spec.range is not None
    peaks = {"image": 1.0, "reconstruction": 1.0} if pixels else {}
    checks = []
    for output, (reference, measured) in outputs.items():
        for metric, limit in bundle.manifest.golden_limits[output].items():
            peak = peaks.get(output) or float(np.ptp(reference))
            checks.append(compare(_TITLES[output], reference, measured, metric, limit, peak))
    return checks
