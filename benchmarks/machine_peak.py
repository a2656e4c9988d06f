"""What this machine can do at most, measured: matrix products in float32 and int8, and copies of memory.

The matrix products are ONNX Runtime's own (MLAS), because its kernels are what every graph here runs on: a fraction of
this peak says what the graph leaves unused, not what other libraries could do.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import onnx
from edgeae_export.graph.running import runner
from edgeae_runtime.measure.timing import interleave
from onnx import TensorProto, helper, numpy_helper

SIDE = 1024
COPY_BYTES = 256 << 20


def machine_peak(threads: int = 1) -> dict[str, float]:
    """Billions of multiplications and additions per second in float32 and int8, and GB/s copied (read and written)."""
    rng = np.random.default_rng(0)
    rows = rng.random((SIDE, SIDE), dtype=np.float32)
    products = {"float32": runner(_float_product(rng), threads), "int8": runner(_int8_product(rng), threads)}
    timed = interleave({name: functools.partial(run, rows) for name, run in products.items()}, seconds_per_turn=0.1)
    peak = {f"{name}_gmacs": round(SIDE**3 / each.median_us / 1e3, 1) for name, each in timed.items()}
    return {**peak, "copy_gb_per_s": round(_copy_speed(), 1), "threads": threads}


def _float_product(rng: np.random.Generator) -> onnx.ModelProto:
    weight = rng.random((SIDE, SIDE), dtype=np.float32)
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})


def _int8_product(rng: np.random.Generator) -> onnx.ModelProto:
    """uint8 by int8, to uint8; the conversions at its ends cost SIDE², not SIDE³."""
    scalars = {
        "xs": np.float32(1 / 255),
        "xz": np.uint8(0),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "ys": np.float32(1),
        "yz": np.uint8(128),
    }
    weight = rng.integers(-127, 128, (SIDE, SIDE)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("QLinearMatMul", ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return _model(nodes, {"w": weight, **{name: np.array(value) for name, value in scalars.items()}})


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIDE, SIDE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _copy_speed() -> float:
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return float(2 * COPY_BYTES / np.median(times) / 1e9)


def multiplications(model: onnx.ModelProto, batch: int = 1) -> int:
    """Multiplications and additions of a plain graph's convolutions and matrix products, by its shapes."""
    inferred = onnx.shape_inference.infer_shapes(_with_batch(model, batch))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in inferred.graph.initializer}
    total = 0
    for node in inferred.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(shapes[node.output[0]]) * np.prod(weights[node.input[1]][1:]))
        elif node.op_type == "ConvTranspose":
            total += int(np.prod(shapes[node.input[0]]) * np.prod(weights[node.input[1]][1:]))
        elif node.op_type in ("Gemm", "MatMul"):
            total += int(batch * np.prod(weights[node.input[1]]))
    return total


def _with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return fixed


def main() -> None:
    """Print the peak on one thread."""
    found: dict[str, Any] = machine_peak()
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
