"""Every form that a part could take on an ARM board: as torch exports it, as ONNX Runtime quantises it, and ours."""

from __future__ import annotations

import numpy as np
import onnx
from edgeae_export.arrays import Float32Array
from edgeae_export.compiler import quickly_quantized
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.signed_bytes import in_signed_bytes
from edgeae_export.rewrites.candidates import exact_candidates
from edgeae_export.rewrites.plans import FLOAT_PLANS, INT8_PLANS
from edgeae_export.targets import Target

from benchmarks.peers.models import static_int8

PLAIN, STATIC = "as torch exports it", "quantize_static"
TOLERANCE = 1e-4
"""Relative to the largest output: which plans are exact is the exporter's question, not this table's."""


def forms_of(
    simplified: onnx.ModelProto, part: str, inputs: Float32Array, target: Target
) -> dict[str, onnx.ModelProto]:
    """The graphs by name; int8 with plain ranges, as ranges do not decide which instructions run.

    Args:
        simplified: the part's float32 graph.
        part: `"encoder"` or `"decoder"`.
        inputs: calibration inputs, float32 [n, …].
        target: what int8 weights look like there.
    """
    tolerance = TOLERANCE * float(np.abs(inputs).max())
    found = {PLAIN: simplified, STATIC: static_int8(simplified, part, inputs)}
    for name, candidate in exact_candidates(simplified, FLOAT_PLANS, inputs, tolerance).items():
        found[f"float32, {name}"] = candidate.graph
    for name, candidate in exact_candidates(simplified, INT8_PLANS, inputs, tolerance).items():
        if (sites := find_sites(candidate.graph)).layers:
            unsigned = quickly_quantized(candidate.graph, sites, inputs, target)
            found[f"int8, {name}, unsigned activations"] = unsigned
            found[f"int8, {name}"] = in_signed_bytes(unsigned)
    return found
