"""What every benchmark writes: one JSON form, with the machine, the versions and the method beside the figures."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeae_runtime.command.actions import write_json
from edgeae_runtime.machine import describe_machine
from edgeae_runtime.measure.bench import SCHEMA_VERSION
from edgeae_runtime.measure.timing import METHOD

RESULTS = Path(__file__).parent / "results"


def write_result(kind: str, figures: Mapping[str, Any], path: Path, packages: Sequence[str] = ()) -> None:
    """Write the figures of one benchmark.

    Args:
        kind: what was measured; `schema` becomes `edgeae-KIND`. The version is that of `edgeae bench --json`.
        figures: JSON values, finite; a `method` of their own takes the place of the common one.
        path: the file.
        packages: distributions whose versions matter here, beside those that the machine's description names.
    """
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
