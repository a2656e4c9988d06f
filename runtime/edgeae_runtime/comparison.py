"""Two benchmark files side by side: what changed, and whether the change is larger than the noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgeae_runtime.bench import AGAIN, SCHEMA, Case
from edgeae_runtime.errors import InputError
from edgeae_runtime.timing import difference, median_noise

_MAX_BYTES = 16 << 20


def compare_files(old: str | Path, new: str | Path) -> list[dict[str, Any]]:
    """Each case that both files timed; see `compare_reports`."""
    return compare_reports(read_report(old), read_report(new))


def compare_reports(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Each case that both reports timed, with the ratio of the medians and the noise of both.

    The noise is that of both medians and of both reports' A/A pairs together: a ratio within it is called a tie. Two
    reports come from two runs, between which a shared machine may have changed: an interleaved run sees more.

    Returns:
        Per case: `case`, `old_us`, `new_us`, `ratio` (old over new: above one is faster), `noise`, `real`.

    Raises:
        InputError: the two have no case in common.
    """
    before, after = _rows(old), _rows(new)
    shared = [case for case in before if case in after]
    if not shared:
        raise InputError(
            f"The two benchmarks timed nothing alike ({_named(before)}; {_named(after)}), expected the same parts, "
            "batches and threads in both."
        )
    return [_compared(case, before[case], after[case]) for case in shared]


def read_report(path: str | Path) -> dict[str, Any]:
    """A benchmark's document from a file.

    Raises:
        InputError: the file is not a benchmark's.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is larger than any benchmark, expected a file written by bench --json.")
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise KeyError(document["schema"])
        _rows(document)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}), expected a file written by bench --json."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a benchmark's: expected a file written by bench --json.") from error
    return document


def comparison_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The comparison as lines for a terminal."""
    lines = []
    for row in rows:
        ratio = row["ratio"]
        if not row["real"]:
            verdict = f"no real change (within the noise of {100 * row['noise']:.0f} %)"
        else:
            verdict = f"{ratio:.2f}x faster" if ratio > 1 else f"{1 / ratio:.2f}x slower"
        lines.append(f"{row['case']:<44} {row['old_us']:10.1f} us -> {row['new_us']:10.1f} us   {verdict}")
    return lines


def _compared(case: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    found = difference(old["median_us"], new["median_us"], *(_noise(row) + row["pair_noise"] for row in (old, new)))
    return {
        "case": case,
        "old_us": old["median_us"],
        "new_us": new["median_us"],
        "ratio": round(found.ratio, 4),
        "noise": round(found.noise, 4),
        "real": found.real,
    }


def _noise(row: dict[str, Any]) -> float:
    return median_noise(np.array(row["round_medians_us"], dtype=np.float64))


def _rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of one document by case, each with the noise of its case's A/A pair (none before version 2)."""
    rows, noise = {}, document.get("pair_noise", {})
    for row in document["rows"]:
        case = str(Case(row["part"], row["batch"], row["threads"]))
        if not row["median_us"] > 0 or not row["round_medians_us"]:
            raise ValueError(case)
        if row["variant"] != AGAIN:
            rows[f"{row['variant']}: {case}"] = row | {"pair_noise": float(noise.get(case, 0.0))}
    return rows


def _named(rows: dict[str, dict[str, Any]]) -> str:
    return ", ".join(list(rows)[:2]) + (" and more" if len(rows) > 2 else "")
