"""Turn the plain ONNX graphs, or the torch modules, into a peer's own format; run in that peer's environment.

    python convert.py KIND WORK CHECKPOINT

`WORK` holds `plain/{encoder,decoder}.onnx` and `calibration-{encoder,decoder}.npy`; what is made lies beside them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from engines import BATCHES

PARTS = {"encoder": "image", "decoder": "latent"}
CALIBRATION = 300
"""How many inputs the peers calibrate on: NNCF's default, and more than LiteRT's guide asks for."""


def calibration(work: Path, part: str) -> np.ndarray:
    """Real inputs of a part, float32 [CALIBRATION, ...]."""
    return np.load(work / f"calibration-{part}.npy")[:CALIBRATION]


def nncf(work: Path, checkpoint: Path) -> None:
    """OpenVINO's int8: NNCF's post-training quantisation with its defaults."""
    import nncf as library
    import openvino as ov

    for part in PARTS:
        inputs = calibration(work, part)
        model = ov.Core().read_model(work / "plain" / f"{part}.onnx")
        data = library.Dataset([inputs[i : i + 1] for i in range(len(inputs))])
        ov.save_model(library.quantize(model, data), work / f"nncf-{part}.xml")


def litert(work: Path, checkpoint: Path) -> None:
    """LiteRT float32 from torch, and full int8 by the AI Edge Quantizer's static recipe; a file per batch size."""
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    for part, module in _modules(checkpoint).items():
        _crop_transposed_convolutions(module)
        inputs = calibration(work, part)
        for batch in BATCHES:
            path = work / f"litert-{part}-{batch}.tflite"
            litert_torch.convert(module, (torch.from_numpy(inputs[:batch]),)).export(str(path))
            ((signature, names),) = Interpreter(str(path)).get_signature_list().items()
            rounds = [inputs[i : i + batch] for i in range(0, len(inputs) - batch + 1, batch)]
            quantise = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
            ranges = quantise.calibrate({signature: [{names["inputs"][0]: each} for each in rounds]})
            target = work / f"litert-int8-{part}-{batch}.tflite"
            target.unlink(missing_ok=True)
            quantise.quantize(ranges).export_model(str(target))


def executorch(work: Path, checkpoint: Path) -> None:
    """ExecuTorch, lowered to XNNPACK; a program per batch size."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    for part, module in _modules(checkpoint).items():
        inputs = calibration(work, part)
        for batch in BATCHES:
            program = torch.export.export(module, (torch.from_numpy(inputs[:batch]),))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
            (work / f"executorch-{part}-{batch}.pte").write_bytes(lowered.buffer)


def tvm(work: Path, checkpoint: Path) -> None:
    """TVM for this processor by its default pipeline, without tuning; a library per batch size."""
    import onnx
    import tvm as library
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    processor = library.target.codegen.llvm_get_system_cpu()
    target = library.target.Target({"kind": "llvm", "mcpu": processor})
    for part, name in PARTS.items():
        model = onnx.load(work / "plain" / f"{part}.onnx")
        shape = calibration(work, part).shape[1:]
        for batch in BATCHES:
            module = from_onnx(model, shape_dict={name: [batch, *shape]})
            relax.build(module, target=target).export_library(str(work / f"tvm-{part}-{batch}.so"))


def ncnn(work: Path, checkpoint: Path) -> None:
    """ncnn through pnnx; float32."""
    for part in PARTS:
        source = work / f"ncnn_{part}.onnx"
        shutil.copy(work / "plain" / f"{part}.onnx", source)
        shape = ",".join(str(n) for n in (1, *calibration(work, part).shape[1:]))
        _run(Path(sys.executable).parent / "pnnx", source, f"inputshape=[{shape}]", "fp16=0")


def mnn(work: Path, checkpoint: Path) -> None:
    """MNN's converter, float32; its own command line installs and runs a telemetry package, so it is not used."""
    import _tools

    for part in PARTS:
        plain, target = (str(work / name) for name in (f"plain/{part}.onnx", f"mnn-{part}.mnn"))
        command = ["mnnconvert", "-f", "ONNX", "--modelFile", plain, "--MNNModel", target, "--bizCode", "edgeae"]
        _tools.mnnconvert(command)


def _modules(checkpoint: Path) -> dict[str, Any]:
    from edgeae.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    return {part: getattr(loaded, part).eval() for part in PARTS}


def _crop_transposed_convolutions(module: Any) -> None:  # noqa: ANN401 torch is not imported here
    """LiteRT's converter refuses a transposed convolution with padding: make the whole one and cut the margin off."""
    from torch import nn
    from torch.nn import functional

    class Cropped(nn.Module):
        def __init__(self, layer: nn.ConvTranspose2d) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Any) -> Any:  # noqa: ANN401
            layer = self.layer
            whole = functional.conv_transpose2d(x, layer.weight, layer.bias, layer.stride)
            for axis in (2, 3):
                k, s, p, extra = (
                    value[axis - 2] for value in (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
                )
                whole = whole.narrow(axis, p, (x.shape[axis] - 1) * s - 2 * p + k + extra)
            return whole

    for name, child in list(module.named_children()):
        if isinstance(child, nn.ConvTranspose2d):
            setattr(module, name, Cropped(child))
        else:
            _crop_transposed_convolutions(child)


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {(done.stdout + done.stderr).strip()[-300:]}")


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "nncf": nncf,
    "litert": litert,
    "executorch": executorch,
    "tvm": tvm,
    "ncnn": ncnn,
    "mnn": mnn,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
