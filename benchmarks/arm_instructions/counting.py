"""Counting instructions: an emulator runs the calls, its plugin counts, and the words are disassembled."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BOARDS = {"Raspberry Pi 4": "cortex-a72", "Raspberry Pi 5": "cortex-a76"}
"""By the name that people know, the processor as the emulator calls it."""
CALLS = 40
"""Per graph: what else the process does in the meantime, waiting and collecting garbage, is spread over them."""
_SCRIPT = Path(__file__).with_name("calls.py")
_VECTOR = ("v", "q", "d", "s", "h", "b")


def instructions(graphs: Sequence[Path], cpu: str, land: Path) -> list[Counter[str]]:
    """What one call of each graph executes, as numbers of instructions by name; see `name_of`.

    Args:
        graphs: files of one input and float32, run at batch 1 on one thread.
        cpu: one of `BOARDS`.
        land: the folder that this folder's and tests/arm64's prepare.sh made.

    Raises:
        subprocess.CalledProcessError: the emulator or ONNX Runtime in it failed.
    """
    root = land / "root"
    python = root / "usr" / "bin" / f"python{(land / '.ready').read_text().strip()}"
    environment = {
        **os.environ,
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(land / "site-packages"),
        "PYTHONHASHSEED": "0",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    emulator = land / "qemu-source" / "build" / "qemu-aarch64"
    with tempfile.TemporaryDirectory(prefix="edgeae-arm-") as folder:
        marks = Path(folder) / "marks"
        command = [emulator, "-cpu", cpu, "-plugin", f"{land / 'blocks.so'},out={marks}", "-L", root, python]
        subprocess.run([*command, _SCRIPT, str(CALLS), *graphs], check=True, env=environment)
        return [_per_call(_words(f"{marks}.{2 * i}"), _words(f"{marks}.{2 * i + 1}")) for i in range(len(graphs))]


def _per_call(before: Counter[str], after: Counter[str]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for word, runs in after.items():
        counted[name_of(word)] += runs - before[word]
    return Counter({name: round(runs / CALLS) for name, runs in counted.items() if runs >= CALLS})


def _words(path: str) -> Counter[str]:
    """How often each 32-bit word ran until a mark."""
    counts: Counter[str] = Counter()
    with Path(path).open() as file:
        for line in file:
            _, runs, *words = line.split()
            for word in words:
                counts[word] += int(runs)
    return counts


@functools.cache
def name_of(word: str) -> str:
    """The mnemonic of an instruction, with `v.` before it where it works on vector registers."""
    found = next(_disassembler().disasm(int(word, 16).to_bytes(4, "little"), 0), None)
    if found is None:
        return "?"
    first = found.op_str.split(",")[0].strip("{} ")
    vector = first[:1] in _VECTOR and first[1:2].isdigit() and not found.mnemonic.startswith("b.")
    return f"v.{found.mnemonic}" if vector else str(found.mnemonic)


@functools.cache
def _disassembler() -> Any:  # noqa: ANN401 capstone has no types
    from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs  # only this benchmark needs it

    return Cs(CS_ARCH_ARM64, CS_MODE_ARM)
