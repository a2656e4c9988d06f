"""Two benchmark files side by side: what changed, and whether the change is larger than the noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeae_runtime.errors import InputError

SCHEMA = "edgeae-bench"
_MAX_BYTES = 16 << 20


def compare_files(old: str | Path, new: str | Path) -> list[dict[str, Any]]:
    """Each case that both files timed, with the ratio of the medians and the noise of both.

    The noise is half the spread of the rounds' medians, relative to their median: a ratio within both noises together
    is called a tie.

    Returns:
        Per case: `case`, `old_us`, `new_us`, `ratio` (old over new: above one is faster), `noise`, `real`.

    Raises:
        InputError: a file is not a benchmark's, or the two have no case in common.
    """
    before, after = _rows(Path(old)), _rows(Path(new))
    shared = [case for case in before if case in after]
    if not shared:
        raise InputError(f"{old} and {new} timed nothing alike, expected the same parts, batches and threads in both.")
    return [_compared(case, before[case], after[case]) for case in shared]


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
    noise = _noise(old) + _noise(new)
    ratio = old["median_us"] / new["median_us"]
    return {
        "case": case,
        "old_us": old["median_us"],
        "new_us": new["median_us"],
        "ratio": round(ratio, 4),
        "noise": round(noise, 4),
        "real": max(ratio, 1 / ratio) > 1 + noise,
    }


def _noise(row: dict[str, Any]) -> float:
    medians = row["round_medians_us"]
    return float((max(medians) - min(medians)) / 2 / row["median_us"])


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    """The timed rows of a file, by case."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large to be a benchmark's file.")
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise KeyError(document["schema"])
        rows = {}
        for row in document["rows"]:
            case = f"{row['variant']}: {row['part']}, batch {row['batch']}, {row['threads']} threads"
            if row["median_us"] <= 0 or not row["round_medians_us"]:
                raise ValueError(case)
            rows[case] = row
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}), expected a file written by bench --json."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a benchmark's file: expected the JSON that bench --json writes.") from error
    return rows
