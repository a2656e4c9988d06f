"""What ONNX Runtime really runs: the layers of the optimised graph, each in int8 or in float.

A pair of QuantizeLinear and DequantizeLinear is a wish; whether the layer between runs in 8 bits depends on fusions
that fail silently when a scale or a shape does not suit them. So the graph is read after ONNX Runtime has optimised
it.
"""

from __future__ import annotations

import errno
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

INT8_KERNELS = frozenset(
    {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
     "DynamicQuantizeMatMul"}
)  # fmt: skip
FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention"}
)
_TOKEN = re.compile(r"(_token_\d+|_nchwc)$")  # what ONNX Runtime appends to the names of nodes it has fused


@dataclass(frozen=True)
class ExecutedLayer:
    """A layer with weights, as it runs."""

    name: str
    op: str
    """ONNX Runtime's kernel."""
    precision: str
    """`int8` or `float32`."""


def executed_layers(model: onnx.ModelProto) -> list[ExecutedLayer]:
    """The layers with weights of the graph that ONNX Runtime's CPU provider makes of this one, on this machine."""
    layers = []
    for node in optimized(model).graph.node:
        precision = "int8" if node.op_type in INT8_KERNELS else "float32" if node.op_type in FLOAT_KERNELS else ""
        if precision:
            layers.append(ExecutedLayer(_TOKEN.sub("", node.name), node.op_type, precision))
    return layers


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph after ONNX Runtime's optimisations for this machine; to look at, never to ship."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # it would warn that the file suits this machine alone, which is what is wanted
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="edgeae-executed-") as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return onnx.load(path)
        except Exception as error:  # it ran before, so it is the writing that failed; ONNX Runtime has its own types
            raise OSError(errno.EIO, "ONNX Runtime could not write its optimised graph there", folder) from error
