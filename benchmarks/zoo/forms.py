"""The forms of one model that are compared: plain, ONNX Runtime's own int8, edgeae's, and OpenVINO's where it is."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import edgeae_export
import onnx
from edgeae_export.arrays import Float32Array, Run, in_large_batches
from edgeae_export.graph.executed import executed_layers
from edgeae_export.graph.running import runner
from edgeae_export.pipeline import QUANTIZE
from edgeae_runtime.errors import EdgeAEError
from torch import nn

from benchmarks.peers.engines import load_openvino_f32
from benchmarks.peers.models import PARTS, static_int8
from benchmarks.zoo.inputs import Inputs

PLAIN, STATIC = "plain", "quantize_static"
KINDS = {"none": "edgeae float32", "int8": "edgeae int8", "auto": "edgeae auto"}
"""What `quantize` is called in the tables."""
OPENVINO = {PLAIN: "OpenVINO float32", STATIC: "OpenVINO on quantize_static"}
"""Which of the forms above OpenVINO runs too, and under what name."""


@dataclass(frozen=True)
class PartForm:
    """One part in one form."""

    run: Run
    """On one thread, to the latent or the image."""
    bytes: int
    """Of the ONNX file."""
    layers: tuple[int, int] | None
    """How many layers ONNX Runtime executes in int8, and how many there are; None where another engine runs them."""


@dataclass
class Forms:
    """What could be made of one model."""

    made: dict[str, dict[str, PartForm]] = field(default_factory=dict)
    """By form and part."""
    refused: dict[str, str] = field(default_factory=dict)
    """By form, why there is none."""
    export_cpu_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds of each export, also of one that was refused."""


def make_forms(model: nn.Module, inputs: Inputs, tell: Callable[[str], None]) -> Forms:
    """Export a model in every form; nothing is set: each tool gets its defaults and the same calibration inputs."""
    forms = Forms()
    plain: dict[str, onnx.ModelProto] = {}
    for kind in (kind for kind in KINDS if kind in QUANTIZE):
        tell(f"export {KINDS[kind]}")
        start = time.process_time()
        try:
            report = export(model, inputs, kind)
        except EdgeAEError as error:
            if kind == "none":
                raise
            forms.refused[KINDS[kind]] = str(error)
            continue
        finally:
            forms.export_cpu_s[KINDS[kind]] = round(time.process_time() - start, 1)
        forms.made[KINDS[kind]] = {part: on_onnxruntime(report.parts[part].model) for part in PARTS}
        plain = plain or {part: report.parts[part].simplified for part in PARTS}
    forms.made = {PLAIN: {part: on_onnxruntime(plain[part]) for part in PARTS}, **forms.made}
    tell("quantize_static")
    latents = in_large_batches(forms.made[PLAIN]["encoder"].run, inputs.calibration)
    given = {"encoder": inputs.calibration, "decoder": latents}
    static = {part: static_int8(plain[part], part, given[part]) for part in PARTS}
    forms.made[STATIC] = {part: on_onnxruntime(static[part]) for part in PARTS}
    if importlib.util.find_spec("openvino"):
        for name, graphs in ((PLAIN, plain), (STATIC, static)):
            tell(OPENVINO[name])
            forms.made[OPENVINO[name]] = {part: on_openvino(graphs[part], part) for part in PARTS}
    return forms


def export(model: nn.Module, inputs: Inputs, quantize: str) -> edgeae_export.ExportReport:
    """One export with the defaults.

    Raises:
        EdgeAEError: the exporter refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        return edgeae_export.export(
            model, Path(folder) / "bundle", quantize=quantize, calibration=inputs.calibration, held_out=inputs.held_out
        )


def on_onnxruntime(graph: onnx.ModelProto) -> PartForm:
    """As the runtime runs it, without the checks of its calls."""
    layers = executed_layers(graph)
    in_int8 = sum(layer.precision == "int8" for layer in layers)
    return PartForm(runner(graph), graph.ByteSize(), (in_int8, len(layers)))


def on_openvino(graph: onnx.ModelProto, part: str) -> PartForm:
    """What is no integer in the graph is held to float32."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{part}.onnx"
        onnx.save(graph, path)
        return PartForm(copied(load_openvino_f32(str(path), part, threads=1)), graph.ByteSize(), None)


def copied(call: Run) -> Run:
    """The engine's outputs, out of the memory that its next call writes to."""

    def run(batch: Float32Array) -> Float32Array:
        return call(batch).copy()

    return run
