"""Count the instructions of every form of a model on an emulated Raspberry Pi 4 and 5.

    python -m benchmarks.arm_instructions LAND [--only taef2] [--json FILE]

LAND is the folder that `make arm-instructions` builds the emulator and the user land in. Instructions are no time: what
they say is which form has less to do, and, with the throughputs of `bounds`, what a call takes at least.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeae_export
import numpy as np
import onnx
from edgeae_export.arrays import Float32Array, in_large_batches
from edgeae_export.graph.running import runner
from edgeae_export.targets import choose_target

import edgeae
from benchmarks.arm_instructions.bounds import least_cycles, products
from benchmarks.arm_instructions.counting import BOARDS, CALLS, instructions
from benchmarks.arm_instructions.forms import forms_of
from benchmarks.results import RESULTS, write_result
from benchmarks.zoo.weights import ZOO, load
from edgeae.data.images import prepare
from edgeae.export import export_checkpoint

ZOO_MODELS = ("disentangling-vae, MNIST", "MLPerf Tiny ToyCar")
DEFAULT = "the default model"
IMAGE_SIZE = 32
INPUTS = 256
"""To calibrate on."""
SHOWN = 12
"""Kinds of instructions that the result names, per form."""
METHOD = (
    f"instructions per call, of {CALLS} calls at batch 1 on one thread, counted by a plugin of qemu-user for an "
    "emulated Cortex-A72 and Cortex-A76; least cycles: of the vector pipes, by LLVM's scheduling models"
)


def main() -> None:
    """Count, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("land", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/examples"), help="of the default model")
    parser.add_argument("--only", default="", help="a part of one model's name")
    parser.add_argument("--json", type=Path, default=RESULTS / "arm_instructions.json")
    arguments = parser.parse_args()
    models: dict[str, Callable[[], Subject]] = {DEFAULT: lambda: from_checkpoint(arguments.checkpoint)}
    models |= {name: functools.partial(from_zoo, name) for name in ZOO_MODELS}
    rows = []
    for name, make in models.items():
        if arguments.only in name:
            rows += count(name, make(), arguments.land.resolve())
    write_result("arm-instructions", {"method": METHOD, "rows": rows}, arguments.json)


@dataclass(frozen=True)
class Subject:
    """A model to count."""

    parts: dict[str, onnx.ModelProto]
    """Simplified float32 graphs."""
    images: Float32Array
    """Inputs of its encoder."""

    def inputs_of(self, part: str) -> Float32Array:
        """Real inputs of a part."""
        if part == "encoder":
            return self.images
        return in_large_batches(runner(self.parts["encoder"]), self.images)


def from_checkpoint(checkpoint: Path) -> Subject:
    """The model of a checkpoint of Fashion-MNIST."""
    data = edgeae.load_images("fashion-mnist")
    images = prepare(data.train_images[:INPUTS], IMAGE_SIZE).astype(np.float32) / 255
    with tempfile.TemporaryDirectory() as folder:
        report = export_checkpoint(checkpoint, Path(folder) / "bundle")
    return Subject({name: part.simplified for name, part in report.parts.items()}, images)


def from_zoo(name: str) -> Subject:
    """One of the zoo's models."""
    entry = next(entry for entry in ZOO if entry.name == name)
    model = load(entry)
    inputs = entry.inputs(model)
    with tempfile.TemporaryDirectory() as folder:
        report = edgeae_export.export(model, Path(folder) / "bundle", held_out=inputs.held_out)
    return Subject({part: each.simplified for part, each in report.parts.items()}, inputs.calibration[:INPUTS])


def count(model: str, subject: Subject, land: Path) -> list[dict[str, Any]]:
    """A row per part, form and board."""
    target, rows = choose_target("arm64"), []
    for part, simplified in subject.parts.items():
        forms = forms_of(simplified, part, subject.inputs_of(part), target)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{index}.onnx" for index in range(len(forms))]
            for file, form in zip(files, forms.values(), strict=True):
                onnx.save(form, file)
            for board, cpu in BOARDS.items():
                for form, counts in zip(forms, instructions(files, cpu, land), strict=True):
                    rows.append(_row(model, part, form, board, counts, cpu))
                    print(f"{model}, {part}, {form}, {board}: {rows[-1]['instructions'] / 1e6:.2f} M", flush=True)
    return rows


def _row(model: str, part: str, form: str, board: str, counts: Counter[str], cpu: str) -> dict[str, Any]:
    return {
        "model": model,
        "part": part,
        "form": form,
        "board": board,
        "instructions": sum(counts.values()),
        "products": products(counts),
        "least_cycles": round(least_cycles(counts, cpu)),
        "most": dict(counts.most_common(SHOWN)),
    }


if __name__ == "__main__":
    main()
