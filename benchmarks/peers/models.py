"""The variants that are compared, and the files each of them runs: the same trained weights everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import edgeae_export
import numpy as np
import onnx
from edgeae_export.modules.running import torch_runner
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)

from edgeae.checkpoint import Checkpoint, load_checkpoint

ROOT = Path(__file__).parent.parent.parent
PEERS = ROOT / ".peers"
"""The peers' environments, made by `prepare.sh`."""
PARTS = {"encoder": "image", "decoder": "latent"}
CALIBRATION_IMAGES = 1024


@dataclass(frozen=True)
class Variant:
    """One way to run the model."""

    name: str
    engine: str
    """See `engines.ENGINES`."""
    files: str
    """Below the work folder, with places for `part` and, where the engine wants one file each, `batch`."""
    environment: str | None = None
    """A folder of `PEERS`; None for this project's own."""
    conversion: str | None = None
    """See `convert.KINDS`."""

    @property
    def python(self) -> str:
        """The interpreter that runs it."""
        return sys.executable if self.environment is None else str(PEERS / self.environment / "bin" / "python")

    def path(self, work: Path, part: str) -> str:
        """The file of a part, still with the place for the batch size."""
        return str(work / self.files.replace("{part}", part))

    def bytes(self, work: Path, part: str) -> int:
        """Size of the file, with the weights that lie beside it; for torch, of the part's weights."""
        path = Path(self.path(work, part).replace("{batch}", "1"))
        if self.engine.startswith("torch"):
            return sum(4 * weight.numel() for weight in getattr(load_checkpoint(path), part).parameters())
        if path.is_dir():
            path = path / f"{part}.onnx"
        beside = path.with_suffix(".bin")
        return path.stat().st_size + (beside.stat().st_size if path.suffix in (".xml", ".param") else 0)


EDGEAE, PLAIN, STATIC = "edgeae int8", "ONNX Runtime float32", "ONNX Runtime quantize_static"
VARIANTS = (
    Variant("torch eager", "torch", "checkpoint"),
    Variant("torch.compile", "torch.compile", "checkpoint"),
    Variant(PLAIN, "onnxruntime", "plain/{part}.onnx"),
    Variant("ONNX Runtime quantize_dynamic", "onnxruntime", "dynamic-{part}.onnx"),
    Variant(STATIC, "onnxruntime", "static-{part}.onnx"),
    Variant("OpenVINO float32", "openvino f32", "plain/{part}.onnx"),
    Variant("OpenVINO default", "openvino", "plain/{part}.onnx"),
    Variant("OpenVINO on quantize_static", "openvino", "static-{part}.onnx"),
    Variant("OpenVINO int8 (NNCF)", "openvino", "nncf-{part}.xml", conversion="nncf"),
    Variant("LiteRT float32", "litert", "litert-{part}-{batch}.tflite", "exported", "litert"),
    Variant("LiteRT int8", "litert", "litert-int8-{part}-{batch}.tflite", "exported", "litert"),
    Variant("ncnn float32", "ncnn", "ncnn_{part}.ncnn.param", "ncnn", "ncnn"),
    Variant("MNN float32", "mnn", "mnn-{part}.mnn", "mnn", "mnn"),
    Variant("ExecuTorch float32 (XNNPACK)", "executorch", "executorch-{part}-{batch}.pte", "exported", "executorch"),
    Variant("TVM float32 (untuned)", "tvm", "tvm-{part}-{batch}.so", "tvm", "tvm"),
    Variant("edgeae float32", "edgeae", "float32"),
    Variant(EDGEAE, "edgeae", "int8"),
)


def make_models(
    checkpoint: Checkpoint,
    train_images: np.ndarray,
    test_images: np.ndarray,
    work: Path,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Write the files of every variant into `work`.

    Returns:
        Per conversion that failed, why.
    """
    work.mkdir(parents=True, exist_ok=True)
    link = work / "checkpoint"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(checkpoint.path).resolve())
    for kind in ("plain", "float32", "int8"):
        tell(f"export {kind}")
        edgeae_export.export(
            checkpoint,
            work / kind,
            quantize="int8" if kind == "int8" else "none",
            calibration=train_images,
            held_out=test_images,
            rewrites=kind != "plain",
            overwrite=True,
        )
    images = train_images[:: len(train_images) // CALIBRATION_IMAGES][:CALIBRATION_IMAGES]
    pixels = images.astype(np.float32) / np.float32(255)
    np.save(work / "calibration-encoder.npy", pixels)
    np.save(work / "calibration-decoder.npy", torch_runner(checkpoint.encoder)(pixels))
    tell("quantize_dynamic, quantize_static")
    for part in PARTS:
        quantize_as_onnxruntime(work / "plain" / f"{part}.onnx", np.load(work / f"calibration-{part}.npy"), work, part)
    failed = {}
    for kind, environment in {(v.conversion, v.environment) for v in VARIANTS if v.conversion}:
        tell(f"convert for {kind}")
        problem = _convert(kind, environment, work, Path(checkpoint.path))
        if problem:
            failed[kind] = problem
    return failed


def quantize_as_onnxruntime(plain: Path, inputs: np.ndarray, work: Path, part: str) -> None:
    """ONNX Runtime's own recipes: dynamic; and `quant_pre_process`, then static QDQ, per channel."""
    prepared = work / f"prepared-{part}.onnx"
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(str(prepared), str(work / f"dynamic-{part}.onnx"))
    quantize_static(
        str(prepared),
        str(work / f"static-{part}.onnx"),
        _Batches(PARTS[part], inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def static_int8(plain: onnx.ModelProto, part: str, inputs: np.ndarray) -> onnx.ModelProto:
    """The graph that `quantize_static` makes of a plain one."""
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(plain, Path(folder) / "plain.onnx")
        quantize_as_onnxruntime(Path(folder) / "plain.onnx", inputs, Path(folder), part)
        return onnx.load(Path(folder) / f"static-{part}.onnx")


class _Batches(CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(
            [{name: inputs[i : i + 64]} for i in range(0, len(inputs), 64)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _convert(kind: str | None, environment: str | None, work: Path, checkpoint: Path) -> str | None:
    python = sys.executable if environment is None else str(PEERS / environment / "bin" / "python")
    if not Path(python).exists():
        return "not installed: bash benchmarks/peers/prepare.sh"
    script = str(Path(__file__).parent / "convert.py")
    command = [python, script, str(kind), str(work.resolve()), str(checkpoint.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work, env=worker_environment())
    return None if done.returncode == 0 else f"cannot convert: {done.stderr.strip().splitlines()[-1][:300]}"


def worker_environment() -> dict[str, str]:
    """This project's packages can be found in every environment; its dependencies only where they are installed."""
    folders = (ROOT, ROOT / "export", ROOT / "runtime")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "NO_COLOR": "1"}
