"""Simplification by onnxsim, re-checked: a simplifier that changes results is dropped, with a notice."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from edgeae_runtime.errors import gist

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.lost_constants import lost_constants
from edgeae_export.graph.probe import Probe
from edgeae_export.graph.running import check_self_contained, clean, operator_counts


@dataclass(frozen=True)
class SimplifyReport:
    """What simplification did to one graph."""

    operators_before: dict[str, int]
    operators_after: dict[str, int]
    bytes_before: int
    bytes_after: int
    difference: float
    """Largest absolute difference between the outputs before and after, on real inputs."""
    notice: str
    """Why the result was dropped; empty when it was kept."""


def simplify(
    model: onnx.ModelProto, inputs: Float32Array, tolerance: float, corners: Float32Array | None = None
) -> tuple[onnx.ModelProto, SimplifyReport]:
    """Simplify a graph and keep the result only if it computes the same.

    Args:
        model: a traced graph.
        inputs: real inputs of the graph, float32 [n, …].
        tolerance: largest absolute difference that counts as the same on them; the float32 noise floor of the module.
        corners: further inputs to compare on; None makes them from the real ones. See `Probe`.

    Returns:
        The simplified graph, or the given one with a notice in the report.
    """
    probe = Probe(model, inputs, tolerance, corners)
    kept, difference, notice = model, 0.0, ""
    for optimize in (True, False):  # folding constants alone is the safer half
        candidate, reason = _simplified(model, optimize)
        if not reason:
            reason = probe.difference(candidate)
            difference = probe.measured
        if not reason:
            kept, notice = candidate, ""
            break
        notice = notice or reason
    return kept, SimplifyReport(
        operators_before=operator_counts(model),
        operators_after=operator_counts(kept),
        bytes_before=model.ByteSize(),
        bytes_after=kept.ByteSize(),
        difference=difference,
        notice=notice,
    )


def _simplified(model: onnx.ModelProto, optimize: bool) -> tuple[onnx.ModelProto, str]:
    """The simplified graph, and why it cannot be used if it cannot."""
    import onnxsim  # here, because the rest of the package also serves where onnxsim has no wheel

    try:
        candidate, _ = onnxsim.simplify(model, perform_optimization=optimize)
        clean(candidate)
        onnx.checker.check_model(candidate, full_check=True)
        check_self_contained(candidate)
    except Exception as error:  # onnxsim raises what its C++ raises; whatever it was, the traced graph stands
        return model, f"onnxsim failed ({gist(error)})"
    if _signature(candidate) != _signature(model):
        return model, "it changed the inputs or outputs"
    if lost := lost_constants(model, candidate):
        return model, f"it lost the constant {lost[0]:g}"
    return candidate, ""


def _signature(model: onnx.ModelProto) -> list[tuple[str, list[str | int]]]:
    return [
        (value.name, [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
