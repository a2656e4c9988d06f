"""Parity on the device itself, without torch: replay the golden vectors of a bundle."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from edgeae_runtime.bundle.reader import open_bundle
from edgeae_runtime.bundle.tuning import why_stale
from edgeae_runtime.parity import require
from edgeae_runtime.replay import TIMEOUT_S, verify_here

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeae_runtime.parity import Check


def verify(
    path: str | Path,
    provider: str = "cpu",
    *,
    threads: int = 1,
    root: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Check]:
    """Check a bundle's hashes, then run its golden inputs and compare with the torch model's recorded outputs.

    Every variant of a part is verified like the part itself, by limits of its own.

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

    Warns:
        RuntimeWarning: variants are missing, or what `tune` chose is out of date and not used.
    """
    from pathlib import Path

    from edgeae_runtime import apart

    bundle = open_bundle(path, root=root)
    if stale := why_stale(bundle):
        warnings.warn(
            f"What tune chose for this bundle is not used: {stale}. Run edgeae-runtime tune again.",
            RuntimeWarning,
            stacklevel=2,
        )
    sizes = [len(bundle.read_part(name, form)) for name in bundle.manifest.parts for form in bundle.forms(name)]
    bundle.read_golden()
    request: dict[str, Any] = {"path": str(Path(path).absolute()), "provider": provider, "threads": threads}
    request["root"] = None if root is None else str(Path(root).absolute())
    if not apart.can_start():
        return verify_here(**request, timeout_s=timeout_s)
    # On a GPU, a driver reserves any amount of address space.
    request["memory"] = apart.MEMORY + apart.MEMORY_PER_BYTE * sum(sizes) if provider == "cpu" else 0
    return apart.verify_apart(request, timeout_s)


def require_parity(checks: list[Check]) -> None:
    """Raise ParityError unless all passed."""
    require(
        checks,
        "This machine does not compute what the torch model did: update ONNX Runtime, try another provider, or "
        "export for this machine.",
    )


def verify_document(checks: Sequence[Check], fingerprint: str | None = None) -> dict[str, Any]:
    """The versioned JSON of a verification; `signed_by` is the SHA-256 of the key, where one was asked for."""
    return {
        "schema": "edgeae-verify",
        "schema_version": 1,
        "passed": all(check.passed for check in checks),
        "signed_by": fingerprint,
        "checks": [check.as_document() for check in checks],
    }
