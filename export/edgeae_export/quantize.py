"""Static int8 quantisation: QDQ pairs around the layers, with ranges calibrated on real inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from edgeae_runtime.errors import InputError
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from edgeae_export.graph import WEIGHTED_OPS, Float32Array, check_self_contained, clean, input_name


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a graph is quantised; recorded in the manifest."""

    activation_type: str = "uint8"
    weight_type: str = "int8"
    per_channel: bool = True
    """One scale per output channel of a weight."""
    symmetric_weights: bool = True
    calibration_method: str = "minmax"
    batch: int = 64
    """Calibration inputs per run; memory does not grow with the calibration set."""

    def as_document(self) -> dict[str, Any]:
        """The recipe as JSON."""
        return {"format": "QDQ", **asdict(self)}


class _Batches(CalibrationDataReader):
    """Feeds calibration inputs batch by batch, so that only one batch is in the graph at a time."""

    def __init__(self, name: str, inputs: Float32Array, batch: int) -> None:
        self._feeds: Iterator[dict[str, Float32Array]] = (
            {name: inputs[start : start + batch]} for start in range(0, len(inputs), batch)
        )

    def get_next(self) -> dict[str, Float32Array] | None:
        return next(self._feeds, None)


def quantize(
    model: onnx.ModelProto, inputs: Float32Array, recipe: QuantizationRecipe = QuantizationRecipe()
) -> onnx.ModelProto:
    """Quantise a float32 graph.

    Args:
        model: a simplified float32 graph.
        inputs: calibration inputs of the graph, float32 [n, …], real ones.
        recipe: how.

    Returns:
        The graph with QuantizeLinear and DequantizeLinear pairs.

    Raises:
        InputError: there is nothing in the graph to quantise, or no calibration input.
    """
    if len(inputs) == 0:
        raise InputError("Got no calibration inputs, expected at least one: int8 ranges come from real data.")
    with tempfile.TemporaryDirectory(prefix="edgeae-quantize-") as folder:
        source, prepared, target = (Path(folder) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Batches(input_name(model), inputs, recipe.batch),
            quant_format=QuantFormat.QDQ,
            per_channel=recipe.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": recipe.symmetric_weights},
        )
        quantized = onnx.load(target)
    clean(quantized)
    check_self_contained(quantized)
    if not any(precision == "int8" for _, _, precision in layer_precisions(quantized)):
        raise InputError(
            f"Nothing in the graph could be quantised: it has no {', '.join(WEIGHTED_OPS)} with constant weights. "
            "Export it without --quantize."
        )
    return quantized


def layer_precisions(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Name, operator and precision of every layer with weights.

    A layer counts as `int8` when its weights are stored in 8 bits, dequantised in front of it.
    """
    dequantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    eight_bit = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    }
    layers = [node for node in model.graph.node if node.op_type in WEIGHTED_OPS]
    return [
        (node.name, node.op_type, "int8" if dequantized.get(node.input[1]) in eight_bit else "float32")
        for node in layers
    ]
