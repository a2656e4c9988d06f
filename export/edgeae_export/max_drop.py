"""`--max-drop`: leave the layers that hurt most in float, until a limit of quality holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from edgeae_runtime.errors import InputError
from edgeae_runtime.parity import mse, psnr

from edgeae_export.compiler import Compiled, keep_in_float
from edgeae_export.graph import Float32Array, runner
from edgeae_export.parity import in_large_batches, reconstruction_rise
from edgeae_export.targets import Target

_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(dB|%)\s*", re.IGNORECASE)
IMAGES = 512
"""Calibration images that the drop is measured on."""


@dataclass(frozen=True)
class MaxDrop:
    """How much quality int8 may cost over the whole round trip."""

    metric: str
    """`psnr_db` of the reconstructions against those in float32, or `error_rise`, of the reconstruction error."""
    limit: float
    """In dB, or as a fraction."""

    @classmethod
    def parse(cls, text: str) -> MaxDrop:
        """Read `45dB` or `0.05%`.

        Raises:
            InputError: it is neither.
        """
        match = _FORM.fullmatch(text)
        if not match:
            raise InputError(
                f"Got max_drop={text!r}, expected a PSNR such as 45dB, "
                "or a rise of the reconstruction error such as 0.05%."
            )
        number = float(match[1])
        return cls("psnr_db", number) if match[2].lower() == "db" else cls("error_rise", number / 100)

    def holds(self, images: Float32Array, exact: Float32Array, measured: Float32Array, peak: float) -> bool:
        """Whether the reconstructions `measured` keep the limit, beside the images and the `exact` ones."""
        if self.metric == "psnr_db":
            return psnr(exact, measured, peak) >= self.limit
        return reconstruction_rise(images, exact, measured) <= self.limit


def hold_limit(
    parts: Mapping[str, Compiled], limit: MaxDrop, images: Float32Array, target: Target, peak: float = 1.0
) -> dict[str, Compiled]:
    """Leave int8 layers in float, the most harmful first, until the limit holds.

    The harm of a layer is the error of the reconstructions when it alone runs in int8.

    Args:
        parts: `encoder` and `decoder`, at least one of them in int8.
        limit: what must hold.
        images: calibration images.
        target: the machine.
        peak: width of the images' range.

    Raises:
        InputError: the limit holds only without any int8 in one of the parts.
    """
    images = images[:IMAGES]
    exact = _reconstruct({name: part.rewritten for name, part in parts.items()}, images)
    done = dict(parts)

    def holds() -> bool:
        return limit.holds(images, exact, _reconstruct({name: part.model for name, part in done.items()}, images), peak)

    if holds():
        return done
    keep: dict[str, frozenset[str]] = {name: frozenset() for name in parts}
    for part, layer in _by_harm(parts, images, exact, target):
        keep[part] |= {layer}
        try:
            done[part] = keep_in_float(parts[part], keep[part], target)
        except InputError as error:
            raise InputError(
                f"The limit of {limit.limit:g} ({limit.metric}) does not hold while any layer of the {part} runs in "
                f"int8. Allow more, quantise the other part alone with --quantize-part, or export float32. ({error})"
            ) from error
        if holds():
            return done
    raise AssertionError("a graph without int8 layers was refused above")


def _by_harm(
    parts: Mapping[str, Compiled], images: Float32Array, exact: Float32Array, target: Target
) -> list[tuple[str, str]]:
    """(part, layer) for every int8 layer, the most harmful first."""
    harm: dict[tuple[str, str], float] = {}
    for name, part in parts.items():
        layers = frozenset(part.fitted.sites.layers) if part.fitted else frozenset()
        for layer in sorted(layers):
            try:
                alone = keep_in_float(part, layers - {layer}, target)
            except InputError:  # ONNX Runtime runs it in 8 bits only beside others: alone it harms nothing
                harm[name, layer] = 0.0
                continue
            graphs = {other: compiled.rewritten for other, compiled in parts.items()} | {name: alone.model}
            harm[name, layer] = mse(exact, _reconstruct(graphs, images))
    return sorted(harm, key=lambda key: -harm[key])


def _reconstruct(graphs: Mapping[str, onnx.ModelProto], images: Float32Array) -> Float32Array:
    encode, decode = runner(graphs["encoder"]), runner(graphs["decoder"])
    result = in_large_batches(lambda batch: decode(encode(batch)), images)
    return np.asarray(result, np.float32)
