"""What ONNX Runtime really runs: the layers of the optimised graph, each in int8 or in float.

A pair of QuantizeLinear and DequantizeLinear is a wish; whether the layer between runs in 8 bits depends on fusions
that fail silently when a scale or a shape does not suit them. So the graph is read after ONNX Runtime has optimised
it.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from edgeae_runtime.bundle.layers import Precision

from edgeae_export.graph.running import WEIGHTED_OPS

INT8_KERNELS = frozenset(
    {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
     "DynamicQuantizeMatMul"}
)  # fmt: skip
FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention",
     "LSTM", "GRU", "RNN", "Einsum", "MultiHeadAttention"}
)  # fmt: skip
_FUSED = re.compile(r"^fused |(_token_\d+|_nchwc|/MatMulAddFusion)+$")
"""What ONNX Runtime puts before and behind the names of nodes it has fused."""


@dataclass(frozen=True)
class ExecutedLayer:
    """A layer with weights, as it runs."""

    name: str
    op: str
    """ONNX Runtime's kernel."""
    precision: Precision
    """`int8` or `float32`."""


def executed_layers(model: onnx.ModelProto) -> list[ExecutedLayer]:
    """The layers with weights of the graph that ONNX Runtime's CPU provider makes of this one, on this machine, by the
    names that they have here."""
    return _layers(model, optimized(model))


def float_despite_pairs(model: onnx.ModelProto, layers: Collection[str]) -> frozenset[str]:
    """Those of some layers that ONNX Runtime does not run in int8 for all the pairs around them."""
    executed = executed_layers(model)
    return frozenset(layers) - {layer.name for layer in executed if layer.precision == "int8"}


def dequantized_weights(graph: onnx.ModelProto) -> list[str]:
    """Names of the constants that an optimised graph dequantises on every call: each costs more than 8 bits save."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    return [
        node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]


def _layers(model: onnx.ModelProto, graph: onnx.ModelProto) -> list[ExecutedLayer]:
    name_of = _names(model)
    layers = []
    for node in graph.graph.node:
        precision: Precision | None = (
            "int8" if node.op_type in INT8_KERNELS else "float32" if node.op_type in FLOAT_KERNELS else None
        )
        if precision:
            name = _FUSED.sub("", _FUSED.sub("", node.name))
            layers.append(ExecutedLayer(name_of.get(name, name), node.op_type, precision))
    return layers


def _names(model: onnx.ModelProto) -> dict[str, str]:
    """The layers' names by themselves, and by the names of what follows each alone: a fused node may have either."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node.name)
    names: dict[str, str] = {}
    layers = [node for node in model.graph.node if node.op_type in WEIGHTED_OPS]
    for node in layers:
        following = readers.get(node.output[0], [])
        if len(following) == 1:
            names[following[0]] = node.name
    return names | {node.name: node.name for node in layers}


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
