"""What a manifest says of the golden vectors: how far each output may be from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgeae_runtime.bundle.preprocessing import MAX_NUMBER

if TYPE_CHECKING:
    from edgeae_runtime.files.documents import Document, Entries

GOLDEN_OUTPUTS = ("latent", "log_variance", "image", "reconstruction")
GOLDEN_METRICS = ("max_abs", "psnr_db")
CornerLimits = Mapping[str, Mapping[str, tuple[float, ...]]]
"""Per output: the metric's name and its limit on each corner."""
MAX_GOLDEN = 64
"""Most golden images, and most corners."""


@dataclass(frozen=True)
class GoldenCorners:
    """Golden vectors of inputs that no real image shows: black, white, noise, zeros as a latent, and the like."""

    names: tuple[str, ...]
    """What each corner is, those of images first; at most `MAX_GOLDEN`."""
    images: int
    """How many of them are images; the others are latents only."""
    limits: CornerLimits

    @classmethod
    def of(cls, entries: Entries) -> GoldenCorners:
        """What a document says of them; its own error where that cannot be."""
        where = entries.where
        names, images = tuple(entries.each_of("names", str)), entries.take("images", int)
        if not 0 <= images <= len(names) <= MAX_GOLDEN or not names:
            raise entries.error(
                f"has {images} images among {len(names)} names in {where}, expected 1 to {MAX_GOLDEN} names"
            )
        limits = corner_limits_of(entries)
        corners = cls(names, images, limits)
        if wrong := corners.misfit(limits):
            raise entries.error(wrong)
        return corners

    def misfit(self, limits: CornerLimits) -> str:
        """What is wrong with limits for these corners, for an error; empty if nothing is."""
        for output, metrics in limits.items():
            count = len(self.names) if output == "image" else self.images
            for metric, numbers in metrics.items():
                if len(numbers) != count:
                    return f"has {len(numbers)} numbers for the corners' {output}.{metric}, expected {count}"
        return ""


def corner_limits_of(entries: Entries) -> dict[str, dict[str, tuple[float, ...]]]:
    """Per output, the metric's name and its limit on each corner; the document's own error where that cannot be."""
    return {
        output: {
            metric: metrics.numbers(metric, MAX_NUMBER) if metric in metrics else () for metric in metrics.document
        }
        for output, metrics in _outputs(entries)
    }


def limits_of(golden: Entries) -> dict[str, dict[str, float]]:
    """Per output, the metric's name and its limit; the document's own error where that cannot be."""
    return {
        output: {metric: metrics.number(metric, MAX_NUMBER) for metric in metrics.document}
        for output, metrics in _outputs(golden)
    }


def limits_document(limits: Mapping[str, Mapping[str, float]], corners: GoldenCorners | None) -> Document:
    """What `limits_of` and `GoldenCorners.of` read, as JSON."""
    return {"limits": limits, "corners": None if corners is None else asdict(corners)}


def _outputs(entries: Entries) -> list[tuple[str, Entries]]:
    """Each output and the limits of its metrics, of which there is at least one."""
    limits, found = entries.within("limits"), []
    for output in limits.document:
        limits.one_of(output, GOLDEN_OUTPUTS, entries.place("limits"))
        metrics = limits.within(output)
        for metric in metrics.document:
            metrics.one_of(metric, GOLDEN_METRICS, limits.place(output))
        if not metrics.document:
            raise entries.error(f"gives {limits.place(output)} no limit, so nothing could be verified")
        found.append((output, metrics))
    return found
