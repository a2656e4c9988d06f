"""What of a manifest only people read: rewrites, quality, versions. A stranger wrote it, so that each value is checked.

What is missing is left out, for older bundles lack some of it; what is there must be of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.errors import BundleError
from edgeae_runtime.files.documents import figure
from edgeae_runtime.terminal import name_of

_T = TypeVar("_T")


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
    for name, part in _entry(manifest.document, "parts", dict, {}).items():
        title = f"{name}: {_entry(part, 'plan', str, '')}"
        for made in _entry(part, "rewrites", list, []):
            decision = _typed(made, dict, "rewrites")
            rule, node, why = (_entry(decision, key, str, "") for key in ("rule", "node", "why"))
            yield RewriteDecision(title, rule, node, _entry(decision, "applied", bool, False), why)
        for layer, why in _entry(part, "kept_in_float", dict, {}).items():
            yield RewriteDecision(title, "int8", layer, False, _typed(why, str, "kept_in_float"))


def quality(manifest: Manifest) -> Quality | None:
    """The figures of quality; None where the bundle has not all of them.

    Raises:
        BundleError: one is no number.
    """
    found = _entry(manifest.document, "quality", dict, {})
    names = ("reconstruction_mse", "reconstruction_mse_torch", "reconstruction_error_rise")
    if any(found.get(name) is None for name in names):
        return None
    return Quality(*(_figure(found[name], name) for name in names))


def versions(manifest: Manifest) -> dict[str, str]:
    """The tools that made the bundle, and their versions.

    Raises:
        BundleError: one is no text.
    """
    found = _entry(manifest.document, "versions", dict, {})
    return {tool: _typed(version, str, "versions") for tool, version in found.items()}


def _entry(document: dict[str, Any], key: str, kind: type[_T], missing: _T) -> _T:
    value = document.get(key)
    return missing if value is None else _typed(value, kind, key)


def _typed(value: object, kind: type[_T], where: str) -> _T:
    if not isinstance(value, kind):
        raise _malformed(f"{type(value).__name__} under {where!r}, expected {kind.__name__}")
    return value


def _figure(value: object, where: str) -> float:
    try:
        return figure(value)
    except ValueError:
        raise _malformed(f"{name_of(value)} under {where!r}, expected a number") from None


def _malformed(what: str) -> BundleError:
    return BundleError(
        f"The bundle's manifest has {what}. The bundle is damaged or was not made by edgeae: export it again."
    )
