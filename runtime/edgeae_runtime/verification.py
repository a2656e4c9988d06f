"""Parity on the device itself, without torch: replay the golden vectors of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.bundle.reader import Bundle, open_bundle
from edgeae_runtime.parity import Check, compare, compare_each, in_batches

if TYPE_CHECKING:
    from pathlib import Path

    from edgeae_runtime.bundle.golden import Golden

TIMEOUT_S = 300.0
"""Seconds that `verify` may take by default: a few images of a model for the edge, on a slow machine that is busy."""
_TITLES = {
    "latent": "encoder latent",
    "log_variance": "encoder log-variance",
    "image": "decoder image",
    "reconstruction": "round trip",
}


def verify(
    path: str | Path,
    provider: str = "cpu",
    *,
    threads: int = 1,
    root: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Check]:
    """Check a bundle's hashes, then run its golden inputs and compare with the torch model's recorded outputs.

    The inputs are run in batches of 1, 2, 3 and 7, so that an axis frozen by the export shows. Corners,
    where the bundle holds some (black, white, noise, zeros as a latent), have a limit each.

    ONNX Runtime loads and runs the graphs in a process of their own, which is ended when it takes too long or too much
    memory: what a graph does to it, it does not do to this one.

    Args:
        path: the bundle's folder.
        provider: the provider to verify on.
        threads: threads per call.
        root: as in `open_bundle`.
        timeout_s: seconds until it is given up.

    Returns:
        One check per output and metric, on real images and on corners; none raises here: `parity.require` does.

    Raises:
        BundleError, ProviderError: the bundle cannot be run at all.
        IntegrityError: a file has other bytes than were exported, or running the graphs ended the process.
        TimeLimitError: it took longer than `timeout_s`.
    """
    from pathlib import Path

    from edgeae_runtime import apart

    bundle = open_bundle(path, root=root)
    sizes = [len(bundle.read_part(name)) for name in bundle.manifest.parts]
    bundle.read_golden()
    request: dict[str, Any] = {"path": str(Path(path).absolute()), "provider": provider, "threads": threads}
    request["root"] = None if root is None else str(Path(root).absolute())
    if not apart.can_start():
        return verify_here(**request, timeout_s=timeout_s)
    # On a GPU, a driver reserves any amount of address space.
    request["memory"] = apart.MEMORY + apart.MEMORY_PER_BYTE * sum(sizes) if provider == "cpu" else 0
    return apart.verify_apart(request, timeout_s)


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
