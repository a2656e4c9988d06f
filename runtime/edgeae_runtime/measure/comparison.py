"""Two benchmark files side by side: what changed, and whether the change is larger than the noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.documents import MAX_FIGURE, Entries
from edgeae_runtime.files.regular import read_regular
from edgeae_runtime.measure.bench import AGAIN, SCHEMA, Case
from edgeae_runtime.measure.timing import difference, median_noise
from edgeae_runtime.terminal import name_of

_MAX_BYTES = 16 << 20
_MAX_ROWS, _MAX_MEDIANS = 10_000, 1_000
_LEAST_US = 1e-6


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
    before, after = (_rows(Entries(report, _malformed)) for report in (old, new))
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
    raw = read_regular(path, _MAX_BYTES, "a file written by bench --json")
    report = Entries.parse(raw, lambda problem: _malformed(problem, shown(path)))
    if report.document.get("schema") != SCHEMA:
        raise report.error(f"is no document of schema {SCHEMA}")
    _rows(report)
    return report.document


def comparison_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The comparison as lines for a terminal."""
    lines = []
    for row in rows:
        ratio = row["old_us"] / row["new_us"]
        if not row["real"]:
            verdict = f"no real change (within the noise of {100 * row['noise']:.0f} %)"
        else:
            verdict = f"{ratio:.2f}x faster" if ratio > 1 else f"{1 / ratio:.2f}x slower"
        lines.append(f"{row['case']:<44} {row['old_us']:10.1f} us -> {row['new_us']:10.1f} us   {verdict}")
    return lines


def _compared(case: str, old: _Row, new: _Row) -> dict[str, Any]:
    found = difference(old.median_us, new.median_us, old.noise, new.noise)
    return {
        "case": case,
        "old_us": old.median_us,
        "new_us": new.median_us,
        "ratio": round(found.ratio, 4),
        "noise": round(found.noise, 4),
        "real": found.real,
    }


@dataclass(frozen=True)
class _Row:
    """One variant in one case."""

    median_us: float
    noise: float
    """Of the median, and of the case's A/A pair."""


def _rows(report: Entries) -> dict[str, _Row]:
    """The rows of one document by case, each with the noise of its case's A/A pair (none before version 2).

    Raises:
        InputError: the document is none that a benchmark writes.
    """
    rows, listed = {}, report.each("rows")
    noise = report.within("pair_noise") if "pair_noise" in report.document else None
    if len(listed) > _MAX_ROWS:
        raise report.error(f"has {len(listed)} rows")
    for row in listed:
        variant, part = row.take("variant", str), row.take("part", str)
        batch, threads = row.take("batch", int), row.take("threads", int)
        case = str(Case(name_of(part), batch, threads))
        median, medians = row.number("median_us", MAX_FIGURE), row.numbers("round_medians_us", MAX_FIGURE)
        if min(median, *medians, MAX_FIGURE) < _LEAST_US:
            raise row.error(f"has a time of {case} that is not above nothing")
        if not 1 <= len(medians) <= _MAX_MEDIANS or not 1 <= batch <= MAX_FIGURE or not 1 <= threads <= MAX_FIGURE:
            raise row.error(f"has a row of {case}, which cannot be one")
        pair = noise.number(case, MAX_FIGURE, missing=0.0) if noise else 0.0
        if pair < 0:
            raise row.error("has a noise below nothing")
        if variant != AGAIN:
            rows[f"{name_of(variant)}: {case}"] = _Row(median, median_noise(np.array(medians)) + pair)
    return rows


def _malformed(problem: str, name: str = "What was given") -> InputError:
    return InputError(f"{name} is not a benchmark's: it {name_of(problem)}. Expected a file written by bench --json.")


def _named(rows: dict[str, _Row]) -> str:
    return ", ".join(list(rows)[:2]) + (" and more" if len(rows) > 2 else "")
