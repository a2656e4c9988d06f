"""What every benchmark writes: one JSON form, with the machine, the versions and the method beside the figures.

What only reads results, to make tables and pictures of them, needs nothing but Python.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"

EXACT_DB = 100
"""From this PSNR on, two float32 results are the same but for rounding."""

Report = dict[str, Any]


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The type of an option of argparse; what is something else, or outside, is refused before the work."""

    def parse(typed: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", typed.strip()) or not least <= int(typed) <= most:
            raise argparse.ArgumentTypeError(f"got {typed[:40]!r}, expected a whole number from {least} to {most:,}")
        return int(typed)

    return parse


def read_result(name: str) -> Report:
    """The result of one benchmark, by the name of its file."""
    report: Report = json.loads((RESULTS / f"{name}.json").read_text())
    return report


def latencies(report: Report, part: str, batch: int, threads: int) -> dict[str, Report]:
    """The rows of one case by variant."""
    wanted = (part, batch, threads)
    rows = {row["variant"]: row for row in report["rows"] if (row["part"], row["batch"], row["threads"]) == wanted}
    rows.pop("the same again", None)
    return rows


def write_result(kind: str, figures: Mapping[str, Any], path: Path, packages: Sequence[str] = ()) -> None:
    """Write the figures of one benchmark.

    Args:
        kind: what was measured; `schema` becomes `edgeae-KIND`. The version is that of `edgeae bench --json`.
        figures: JSON values, finite; a `method` of their own takes the place of the common one.
        path: the file.
        packages: distributions whose versions matter here, beside those that the machine's description names.
    """
    from edgeae_runtime.files.documents import write_json
    from edgeae_runtime.machine import describe_machine
    from edgeae_runtime.measure.bench import SCHEMA_VERSION
    from edgeae_runtime.measure.timing import METHOD

    report = {
        "schema": f"edgeae-{kind}",
        "schema_version": SCHEMA_VERSION,
        "machine": describe_machine(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "method": METHOD,
        **figures,
    }
    write_json(path, report)
    print(f"Wrote {path}")
