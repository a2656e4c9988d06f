"""Count the instructions of every form of a model on an emulated Raspberry Pi 4 and 5.

    python -m benchmarks.arm_instructions LAND [--only taef2] [--json FILE]

LAND is the folder that `make arm-instructions` builds the emulator and the user land in. Instructions are no time: what
they say is which form has less to do, and, with the throughputs of `bounds`, what a call takes at least.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgeae_export
import onnx
from edgeae.export import export_checkpoint
from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.graph.running import runner
from edgeae_export.targets import choose_target

from benchmarks.arm_instructions.bounds import least_cycles, products
from benchmarks.arm_instructions.counting import BOARDS, CALLS, instructions
from benchmarks.arm_instructions.forms import forms_of
from benchmarks.results import RESULTS, write_result
from benchmarks.zoo.weights import ZOO, load

ZOO_MODELS = ("disentangling-vae, MNIST", "taef2")
DEFAULT = "the default model"
SHOWN = 12
"""Kinds of instructions that the result names, per form."""
METHOD = (
    f"instructions per call, of {CALLS} calls at batch 1 on one thread, counted by a plugin of qemu-user for an emulated "
    "Cortex-A72 and Cortex-A76; least cycles: of the vector pipes, by LLVM's scheduling models"
)


def main() -> None:
    """Count, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("land", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/examples"))
    parser.add_argument("--only", help="a part of one model's name")
    parser.add_argument("--json", type=Path, default=RESULTS / "arm_instructions.json")
    arguments = parser.parse_args()
    models = {DEFAULT: lambda: from_checkpoint(arguments.checkpoint)}
    models |= {name: lambda name=name: from_zoo(name) for name in ZOO_MODELS}
    wanted = {name: make for name, make in models.items() if (arguments.only or "") in name}
    rows = [row for name, make in wanted.items() for row in count(name, make, arguments.land.resolve())]
    write_result("arm-instructions", {"method": METHOD, "rows": rows}, arguments.json)


def from_checkpoint(checkpoint: Path) -> tuple[dict[str, onnx.ModelProto], Float32Array]:
    """The simplified graphs of a checkpoint, and inputs of its encoder."""
    with tempfile.TemporaryDirectory() as folder:
        report = export_checkpoint(checkpoint, Path(folder) / "bundle")
    return {name: part.simplified for name, part in report.parts.items()}, report.reference_images


def from_zoo(name: str) -> tuple[dict[str, onnx.ModelProto], Float32Array]:
    """The same of one of the zoo's models."""
    entry = next(entry for entry in ZOO if entry.name == name)
    model = load(entry)
    inputs = entry.inputs(model)
    with tempfile.TemporaryDirectory() as folder:
        report = edgeae_export.export(model, Path(folder) / "bundle", held_out=inputs.held_out)
    return {part: each.simplified for part, each in report.parts.items()}, inputs.calibration
