"""Replaying a bundle's golden vectors in this process: what `verify` does, in the child that it starts or here."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.golden_limits import CornerLimits
from edgeae_runtime.bundle.manifest import PARTS, Manifest
from edgeae_runtime.bundle.reader import Bundle, open_bundle
from edgeae_runtime.bundle.variants import DEFAULT
from edgeae_runtime.errors import BundleError, EdgeAEError
from edgeae_runtime.parity import Check, compare, compare_each, in_batches

if TYPE_CHECKING:
    from pathlib import Path

    from edgeae_runtime.bundle.golden import Golden
    from edgeae_runtime.bundle.tuning import Choice

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
    golden, manifest = bundle.read_golden(), bundle.manifest

    def loaded(**forms: str) -> Autoencoder:
        return Autoencoder.from_bundle(
            bundle,
            provider,
            threads=threads,
            timeout_s=timeout_s,
            variants=dict.fromkeys(manifest.parts, DEFAULT) | forms,
        )

    checks = golden_checks(bundle, loaded(), golden, limits_of_form(manifest))
    for name, part in manifest.parts.items():
        for variant in part.variants:
            if bundle.has(variant.record):
                checks += golden_checks(
                    bundle, loaded(**{name: variant.name}), golden, limits_of_form(manifest, name, variant.name)
                )
    if absent := [record.file for record in manifest.records if not bundle.has(record)]:
        warnings.warn(
            f"The bundle is without {len(absent)} of its variants ({', '.join(absent[:4])}): "
            "they were not verified and cannot be loaded; the parts themselves can.",
            RuntimeWarning,
            stacklevel=2,
        )
    return checks


@dataclass(frozen=True)
class Limits:
    """What some outputs are held to."""

    form: str
    """A variant's name, in the titles of its checks; empty for the parts themselves."""
    part: str
    """Of which it is a form."""
    real: Mapping[str, Mapping[str, float]]
    """Per output to check: the metric's name and its limit on the golden vectors."""
    corners: CornerLimits
    """The same on each golden corner."""

    def title(self, output: str) -> str:
        """What a check of an output is called."""
        if not self.form:
            return _TITLES[output]
        return f"{_TITLES[output]}, {f'{self.part} ' if output == 'reconstruction' else ''}{self.form}"


def limits_of_form(manifest: Manifest, part: str = "", form: str = DEFAULT) -> Limits:
    """What the parts are held to as they are; or a variant, and the round trip with the other part as it is."""
    variant = manifest.parts[part].variant(form) if part else None
    if variant is not None:
        return Limits(form, part, variant.limits, variant.corners)
    return Limits("", "", manifest.golden_limits, manifest.golden_corners.limits if manifest.golden_corners else {})


def golden_checks(bundle: Bundle, autoencoder: Autoencoder, golden: Golden, limits: Limits) -> list[Check]:
    """A check per output and metric on real images, and one on all corners; no corners in older bundles."""
    checks = []
    for output, (reference, measured) in _outputs(autoencoder, golden, limits.real).items():
        for metric, limit in limits.real[output].items():
            peak = 1.0 if _pixels(bundle, output) else float(np.ptp(reference))
            checks.append(compare(limits.title(output), reference, measured, metric, limit, peak))
    return checks + _corner_checks(bundle, autoencoder, golden, limits)


def _outputs(
    autoencoder: Autoencoder, golden: Golden, wanted: Collection[str]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What the torch model gave for the golden inputs, and what the bundle gives, by output."""
    parts, count = autoencoder.manifest.parts, len(golden.image)
    outputs = {}
    if "encoder" in parts and count:
        if "latent" in wanted:
            outputs["latent"] = golden.latent[:count], in_batches(autoencoder.encode, golden.image)
        if golden.log_variance is not None and "log_variance" in wanted:
            found = in_batches(lambda images: autoencoder.encode_distribution(images)[1], golden.image)
            outputs["log_variance"] = golden.log_variance, found
    if "decoder" in parts and "image" in wanted:
        outputs["image"] = golden.decoded, in_batches(autoencoder.decode, golden.latent)
    if len(parts) == len(PARTS) and count and "reconstruction" in wanted:
        outputs["reconstruction"] = golden.decoded[:count], in_batches(autoencoder.reconstruct, golden.image)
    return outputs


def _corner_checks(bundle: Bundle, autoencoder: Autoencoder, golden: Golden, held_to: Limits) -> list[Check]:
    """One check per output on all corners; none for bundles without corners."""
    corners = bundle.manifest.golden_corners
    if corners is None or golden.corners is None:
        return []
    real = {"latent": golden.latent, "image": golden.decoded, "reconstruction": golden.decoded}
    if golden.log_variance is not None:
        real["log_variance"] = golden.log_variance
    checks = []
    for output, (reference, measured) in _outputs(autoencoder, golden.corners, held_to.corners).items():
        for metric, limits in held_to.corners[output].items():
            peak = 1.0 if _pixels(bundle, output) else float(np.abs(real[output]).max())
            what = f"{held_to.title(output)}, {len(reference)} corners"
            checks.append(compare_each(what, corners.names, reference, measured, metric, limits, peak))
    return checks


def _pixels(bundle: Bundle, output: str) -> bool:
    """Whether an output is images in [0, 1], whose peak is one."""
    decoder = bundle.manifest.parts.get("decoder")
    return output in ("image", "reconstruction") and decoder is not None and decoder.output.range is not None


def form_passes(bundle: Bundle, golden: Golden, provider: str, name: str, choice: Choice) -> bool:
    """Whether a form of a part passes its golden vectors, with as many threads as it would run with."""
    limits = limits_of_form(bundle.manifest, name, choice.form)
    own = {"encoder": ("latent", "log_variance"), "decoder": ("image",)}[name]
    real = {output: each for output, each in limits.real.items() if output in own}
    corners = {output: each for output, each in limits.corners.items() if output in own}
    loaded = Autoencoder.from_bundle(bundle, provider, parts=name, threads=choice.threads, variants={name: choice.form})
    return all(
        check.passed for check in golden_checks(bundle, loaded, golden, Limits(choice.form, name, real, corners))
    )


def round_trip_passes(bundle: Bundle, golden: Golden, provider: str, choices: Mapping[str, Choice]) -> bool:
    """Whether forms together pass the golden round trip, by the laxest limit that one of them is held to."""
    forms = [limits_of_form(bundle.manifest, name, choice.form) for name, choice in choices.items()]
    held_to = [each.real.get("reconstruction", {}) for each in forms]
    least, most = ([each[metric] for each in held_to if metric in each] for metric in ("psnr_db", "max_abs"))
    limits = {"psnr_db": min(least)} if least else {"max_abs": max(most)} if most else {}
    if not limits:
        return True
    loaded = Autoencoder.from_bundle(
        bundle,
        provider,
        threads=max(choice.threads for choice in choices.values()),
        variants={name: choice.form for name, choice in choices.items()},
    )
    return all(c.passed for c in golden_checks(bundle, loaded, golden, Limits("", "", {"reconstruction": limits}, {})))


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
