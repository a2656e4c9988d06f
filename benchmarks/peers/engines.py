"""How each engine loads a file and runs it: one function per engine, numpy in, numpy out.

This module is imported in the peers' own environments, so only numpy is imported at its top. Each function is
`load(path, part, threads) -> call`; `call` takes a float32 batch. Threads are set the way each engine wants it; the
worker also pins the process to as many cores.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[np.ndarray], np.ndarray]
BATCHES = (1, 8, 64)


@dataclass(frozen=True)
class Engine:
    """Where the engine comes from, what to import before anything is loaded, and how a part is loaded."""

    distribution: str
    imports: tuple[str, ...]
    load: Callable[[str, str, int], Call]


def load_edgeae(path: str, part: str, threads: int) -> Call:
    """This project's runtime, with all its checks."""
    from edgeae_runtime import Autoencoder

    autoencoder = Autoencoder.load(path, parts=(part,), threads=threads, spinning=True)
    return autoencoder.encode if part == "encoder" else autoencoder.decode


def load_onnxruntime(path: str, part: str, threads: int) -> Call:
    """A bare session with ONNX Runtime's defaults."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda batch: session.run(outputs, {name: batch})[0]


def load_torch(path: str, part: str, threads: int) -> Call:
    """Torch eager in inference mode."""
    import torch

    module = _torch_module(path, part, threads)

    def call(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(batch)).numpy()

    return call


def load_torch_compile(path: str, part: str, threads: int) -> Call:
    """torch.compile with its defaults; each batch size compiles once."""
    import torch

    module = torch.compile(_torch_module(path, part, threads), dynamic=False)

    def call(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(batch)).numpy()

    return call


def _torch_module(path: str, part: str, threads: int) -> Any:  # noqa: ANN401 torch is not imported here
    import torch

    from edgeae.checkpoint import load_checkpoint

    torch.set_num_threads(threads)
    return getattr(load_checkpoint(path), part)


def load_openvino(path: str, part: str, threads: int) -> Call:
    """OpenVINO's default precision on this processor."""
    return _openvino(path, threads, {})


def load_openvino_f32(path: str, part: str, threads: int) -> Call:
    """OpenVINO held to float32."""
    return _openvino(path, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _openvino(path: str, threads: int, extra: dict[str, Any]) -> Call:
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(path, "CPU", settings | extra).create_infer_request()
    return lambda batch: request.infer([batch], share_inputs=True, share_outputs=True)[0]


def load_litert(path: str, part: str, threads: int) -> Call:
    """LiteRT's interpreter with XNNPACK; one file per batch size, because the batch is fixed on conversion."""
    from ai_edge_litert.interpreter import Interpreter

    def prepare(file: str) -> Call:
        interpreter = Interpreter(file, num_threads=threads)
        interpreter.allocate_tensors()
        given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        to_input, from_output = _affine(given), _affine(made)

        def call(batch: np.ndarray) -> np.ndarray:
            if to_input is not None:
                scale, zero = to_input
                batch = np.clip(np.rint(batch / scale) + zero, -128, 127).astype(np.int8)
            interpreter.set_tensor(given["index"], batch)
            interpreter.invoke()
            values = interpreter.get_tensor(made["index"])
            if from_output is not None:
                scale, zero = from_output
                values = (values.astype(np.float32) - zero) * scale
            return values

        return call

    return _per_batch(path, prepare)


def _affine(details: dict[str, Any]) -> tuple[np.float32, np.float32] | None:
    if details["dtype"] != np.int8:
        return None
    scale, zero = details["quantization"]
    return np.float32(scale), np.float32(zero)


def load_executorch(path: str, part: str, threads: int) -> Call:
    """ExecuTorch with XNNPACK; one file per batch size."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    torch.set_num_threads(threads)

    def prepare(file: str) -> Call:
        method = Runtime.get().load_program(file).load_method("forward")
        return lambda batch: method.execute([torch.from_numpy(batch)])[0].numpy()

    return _per_batch(path, prepare)


def load_tvm(path: str, part: str, threads: int) -> Call:
    """TVM's virtual machine on a library built without tuning; one file per batch size."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm
    from tvm import relax

    def prepare(file: str) -> Call:
        main = relax.VirtualMachine(tvm.runtime.load_module(file), tvm.cpu())["main"]

        def call(batch: np.ndarray) -> np.ndarray:
            made = main(tvm.runtime.tensor(batch))
            return (made if hasattr(made, "numpy") else made[0]).numpy()

        return call

    return _per_batch(path, prepare)


def load_ncnn(path: str, part: str, threads: int) -> Call:
    """ncnn's float32; it has no batches, so the images of one go through in turn."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(path) or net.load_model(re.sub("param$", "bin", path)):
        raise FileNotFoundError(path)

    def one(row: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(row))
        return np.array(extractor.extract("out0")[1])

    return lambda batch: np.stack([one(row) for row in batch])


def load_mnn(path: str, part: str, threads: int) -> Call:
    """MNN on the CPU, in high precision (float32)."""
    import MNN.expr as expr
    from MNN import nn

    manager = nn.create_runtime_manager(({"backend": 0, "precision": "high", "numThread": threads},))
    names = ("image", "latent") if part == "encoder" else ("latent", "image")
    net = nn.load_module_from_file(path, [names[0]], [names[1]], runtime_manager=manager)

    def call(batch: np.ndarray) -> np.ndarray:
        made = net.forward([expr.const(batch, list(batch.shape), expr.NCHW)])
        made = expr.convert(made[0] if isinstance(made, list | tuple) else made, expr.NCHW)
        return np.array(made.read())

    return call


def _per_batch(path: str, prepare: Callable[[str], Call]) -> Call:
    """For engines whose batch is fixed on conversion: `path` has a place for the batch size; loaded when first used."""
    calls: dict[int, Call] = {}

    def call(batch: np.ndarray) -> np.ndarray:
        count = len(batch)
        if count not in calls:
            file = path.format(batch=count)
            if not Path(file).exists():
                raise FileNotFoundError(file)
            calls[count] = prepare(file)
        return calls[count](batch)

    return call


ENGINES = {
    "edgeae": Engine("onnxruntime", ("edgeae_runtime.autoencoder",), load_edgeae),
    "onnxruntime": Engine("onnxruntime", ("onnxruntime",), load_onnxruntime),
    "torch": Engine("torch", ("torch", "edgeae.checkpoint"), load_torch),
    "torch.compile": Engine("torch", ("torch", "edgeae.checkpoint"), load_torch_compile),
    "openvino": Engine("openvino", ("openvino",), load_openvino),
    "openvino f32": Engine("openvino", ("openvino",), load_openvino_f32),
    "litert": Engine("ai-edge-litert", ("ai_edge_litert.interpreter",), load_litert),
    "executorch": Engine("executorch", ("torch", "executorch.runtime"), load_executorch),
    "tvm": Engine("apache-tvm", ("tvm", "tvm.relax"), load_tvm),
    "ncnn": Engine("ncnn", ("ncnn",), load_ncnn),
    "mnn": Engine("mnn", ("MNN",), load_mnn),
}


def imported(engine: str) -> None:
    """Import what an engine needs, apart from loading a model."""
    for module in ENGINES[engine].imports:
        importlib.import_module(module)
