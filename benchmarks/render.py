"""Write the README's tables from the results, so that no figure is copied by hand.

    python benchmarks/render.py [--check]

Each table stands between `<!-- table NAME -->` and `<!-- end -->`; `--check` only says whether they agree.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = {
    "torch eager": "torch eager",
    "ONNX Runtime plain float32": "ONNX Runtime, as torch exports it",
    "ONNX Runtime quantize_static": "ONNX Runtime's own int8 (`quantize_static`)",
    "this project float32": "**edgeae float32**",
    "this project int8": "**edgeae int8**",
}

FAITHFUL_DB = 30
"""Below this an int8 image visibly differs; such a variant is in the results, not in the table."""


def decoder_table(report: dict[str, Any]) -> list[str]:
    """The default decoder on one thread at batch 1, with the best OpenVINO variant."""
    rows = {row["variant"]: row for row in report["rows"]}
    shown = dict(list(SHOWN.items())[:3])
    rivals = [row for name, row in rows.items() if name.startswith("OpenVINO") and "int8" in name]
    faithful = [row for row in rivals if row["psnr_db"] >= FAITHFUL_DB]
    if faithful:
        best = min(faithful, key=lambda row: row["median_us"])
        shown[best["variant"]] = f"OpenVINO, its fastest int8 above {FAITHFUL_DB} dB"
    shown |= dict(list(SHOWN.items())[3:])
    lines = [
        "| decoder, batch 1, one thread | time | speed-up | file | PSNR | reconstruction error |",
        "|---|---|---|---|---|---|",
    ]
    slowest = rows["ONNX Runtime quantize_static"]["median_us"]
    for name, title in shown.items():
        row = rows[name]
        size = f"{row['bytes'] / 1000:.0f} kB" if row["bytes"] else ""
        exact = row["psnr_db"] is None or row["psnr_db"] > 100
        fidelity = "exact" if exact else f"{row['psnr_db']:.1f} dB"
        rise = "" if exact else f"{100 * row['error_rise']:+.2f} %"
        time, ratio = row["median_us"] / 1e3, slowest / row["median_us"]
        lines.append(f"| {title} | {time:.3f} ms | {ratio:.1f}x | {size} | {fidelity} | {rise} |")
    return lines


def others_table(report: dict[str, Any]) -> list[str]:
    """Other decoders against their plain float32 export."""
    lines = [
        "| decoder | plain, batch 1 | edgeae float32 | edgeae int8, batch 1 / 8 / 64 | PSNR | size |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        times = row["median_us"]
        first = times["1"]
        speed = " / ".join(f"{each['plain float32'] / each['int8']:.1f}x" for each in times.values())
        size = 100 * row["bytes"]["int8"] / row["bytes"]["plain float32"]
        plain = first["plain float32"]
        cells = [row["decoder"], f"{plain / 1e3:.2f} ms", f"{plain / first['float32']:.2f}x", speed]
        lines.append("| " + " | ".join([*cells, f"{row['psnr_db']:.1f} dB", f"{size:.0f} %"]) + " |")
    return lines


TABLES = {"int8_decoder": decoder_table, "other_decoders": others_table}


def rendered(text: str) -> str:
    """The README with its tables written anew."""
    for name, make in TABLES.items():
        report = json.loads((RESULTS / f"{name}.json").read_text())
        table = "\n".join(make(report))
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"The README has no place for the table {name}.")
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}{match[2]}", text)
    return text


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    if options.check:
        if rendered(text) != text:
            sys.exit("The README's figures are not those of benchmarks/results: run python benchmarks/render.py")
        return
    readme.write_text(rendered(text))


if __name__ == "__main__":
    main()
