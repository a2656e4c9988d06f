"""What of a manifest only people read: rewrites, quality, versions. A stranger wrote it, so that each value is checked.

What is missing is left out, for older bundles lack some of it; what is there must be of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.files.documents import MAX_FIGURE, Entries


@dataclass(frozen=True)
class RewriteDecision:
    """Whether a rewrite was applied to a node, or a layer put into int8, and why not."""

    part: str
    rule: str
    node: str
    applied: bool
    why: str


@dataclass(frozen=True)
class Quality:
    """The round trip's mean squared error over held-out images."""

    mse: float
    mse_torch: float
    rise: float
    """Relative."""


def rewrite_decisions(manifest: Manifest) -> Iterator[RewriteDecision]:
    """The decisions of each part, in the order of the manifest.

    Raises:
        BundleError: the manifest's record of them is malformed.
    """
    parts = manifest.entries("parts")
    for name in parts.document:
        part = parts.within(name)
        title = f"{name}: {_text(part, 'plan')}"
        for made in part.each("rewrites") if "rewrites" in part else ():
            applied = "applied" in made and made.take("applied", bool)
            yield RewriteDecision(title, _text(made, "rule"), _text(made, "node"), applied, _text(made, "why"))
        kept = part.maybe_within("kept_in_float")
        for layer in kept.document:
            yield RewriteDecision(title, "int8", layer, False, kept.take(layer, str))


def quality(manifest: Manifest) -> Quality | None:
    """The figures of quality; None where the bundle has not all of them.

    Raises:
        BundleError: one is no number.
    """
    found = manifest.entries("quality")
    names = ("reconstruction_mse", "reconstruction_mse_torch", "reconstruction_error_rise")
    if any(name not in found for name in names):
        return None
    return Quality(*(found.number(name, MAX_FIGURE) for name in names))


def versions(manifest: Manifest) -> dict[str, str]:
    """The tools that made the bundle, and their versions.

    Raises:
        BundleError: one is no text.
    """
    found = manifest.entries("versions")
    return {tool: found.take(tool, str) for tool in found.document}


def _text(entries: Entries, key: str) -> str:
    return entries.take(key, str) if key in entries else ""
